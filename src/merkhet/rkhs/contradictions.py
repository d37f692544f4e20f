"""Certificates held against attacks: no point may be misjudged within a certified radius."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode, uncompiled
from merkhet.core.outputs import main_tensor
from merkhet.core.undisturbed import undisturbed
from merkhet.rkhs.attacked import device_of, misjudged
from merkhet.rkhs.exact_copy import exact_copy
from merkhet.rkhs.threat import Examples

Notes = tuple[str, ...]
NO_RADIUS = (
    "No example has a certified radius: no finite bound of the network is known (ask "
    "merkhet.rkhs.lipschitz), or it is right on none."
)


def certificates(
    model: nn.Module, examples: Examples, norm: str, certify: bool | Tensor | None
) -> tuple[Tensor | None, Notes]:
    """Return certified l2 radii (n,) float64, or None, and why there are none.

    Args:
        model: The network.
        examples: With inputs (n, ...) and labels (n,).
        norm: "l2"; for another there are none.
        certify: As in `evaluate_robustness`.

    Raises:
        InputError: Radii are asked for and cannot be had, or those given do not fit.
    """
    if certify is False:
        return None, ()
    if not isinstance(certify, Tensor | bool | None):
        raise InputError(
            f"certify is of type {type(certify).__name__}: give True, False, None, or a tensor of "
            "radii (n,)"
        )
    if isinstance(certify, Tensor):
        return _given(certify, len(examples), norm), ()
    if norm != "l2":
        if certify:
            raise InputError(f"certified radii are l2 distances, not {norm}: give certify=False")
        return None, ()
    try:
        radii = _computed(model, examples)
    except InputError as error:
        if certify:
            raise
        return None, (f"Nothing is certified: {error}",)
    return radii, () if bool((radii > 0).any()) else (NO_RADIUS,)


def refuse_contradictions(
    model: nn.Module,
    examples: Examples,
    points: Tensor,
    distances: Tensor,
    certified: Tensor,
    *,
    given: bool = False,
) -> Notes:
    """Hold misjudged points against certified radii.

    A certificate is of the network in exact arithmetic: a point that is misjudged by float32's
    rounding alone, and rightly judged in float64, contradicts nothing and is noted.

    Args:
        model: The network.
        examples: With inputs (n, ...) and labels (n,).
        points: The nearest misjudged points (n, ...).
        distances: Theirs, (n,).
        certified: Radii (n,).
        given: Whether the caller brought them.

    Raises:
        AssertionError: A point is misjudged within a certified radius of ours.
        InputError: One is within a radius that the caller brought.
    """
    within = (distances < certified).nonzero().squeeze(1)
    if not len(within):
        return ()
    wrong = _wrong_in_float64(model, points[within], examples.y[within])
    if bool(wrong.any()):
        row = int(within[wrong][0])
        seen = (
            f"an attack flips example {row} at distance {float(distances[row]):.6g}, within its "
            f"certified radius {float(certified[row]):.6g} ({int(wrong.sum())} such examples)"
        )
        if given:
            raise InputError(
                f"{seen}: the radii given as certify are not certified for this network and these "
                "examples; give others, or certify=True for radii of merkhet"
            )
        raise AssertionError(
            f"{seen}: the certificate is wrong, an error of merkhet; please report it with this "
            "network"
        )
    return (
        f"{len(within)} certified examples flip within their radius by rounding alone: not in "
        "float64.",
    )


def _given(certified: Tensor, count: int, norm: str) -> Tensor:
    """Return radii that the caller brings, checked."""
    if norm != "l2":
        raise InputError(f"certified radii are l2 distances, not {norm}: give certify=False")
    if certified.shape != (count,) or not bool((certified >= 0).all()):
        raise InputError(
            f"certify is {certified.dtype} {tuple(certified.shape)}: give radii ({count},), each "
            "0 or more"
        )
    return certified.detach().cpu().double()


def _computed(model: nn.Module, examples: Examples) -> Tensor:
    """Return radii from the network's Lipschitz bound."""
    from merkhet.rkhs.certificates import certified_radius

    module = uncompiled(model)
    there = examples.to(device_of(module))
    with undisturbed(module), in_mode(module, training=False):
        radii: Tensor = certified_radius(module, there.x, there.y, pixels=False)
    return radii.detach().cpu().double()


@torch.no_grad()
def _wrong_in_float64(model: nn.Module, points: Tensor, y: Tensor) -> Tensor:
    """Return which points (n, ...) the network misjudges in float64, (n,).

    A network that does not run in float64 is taken at its word.
    """
    try:
        exact = exact_copy(model, points)
    except (InputError, RuntimeError, TypeError):
        return torch.ones_like(y, dtype=torch.bool)
    answers = [main_tensor(exact(point)) for point in points.double().split(1)]
    return misjudged(torch.cat(answers), y)
