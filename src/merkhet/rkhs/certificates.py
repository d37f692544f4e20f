"""Certified l2 radii: within them no example is classified otherwise; and margins.

n examples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from merkhet.core.building import check_counts
from merkhet.core.errors import InputError
from merkhet.core.modes import uncompiled
from merkhet.core.outputs import main_tensor
from merkhet.rkhs.bracket import SLACK, Bracket, Upper, upper_bound
from merkhet.rkhs.exact_copy import check_inputs, exact_copy, exact_inputs, precision

ROUNDING = 2.0**22  # times eps of the largest logit, taken off each margin: 1e-9 in float64


@torch.inference_mode(False)
def certified_radius(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    bracket: Bracket | None = None,
    pixels: bool = True,
    batch_size: int = 256,
) -> Tensor:
    """Return an l2 radius around each example within which the network keeps to its class.

    It is the least over j of (f_y - f_j) / L_j, where L_j is the smaller of two bounds of the
    Lipschitz constant of f_y - f_j: |w_y - w_j| times the bound before the last linear layers, w
    their rows; and sqrt(2) times the bound of f. Logits are computed in float64, in which the
    certificate holds; 1e-9 of the largest is taken off for their rounding, more where the network
    rounds to a narrower type itself. The network has to contain its own normalisation of inputs,
    so that radii are in the units of x.

    Args:
        model: A classifier in evaluation mode, from (n, *shape) to logits (n, K).
        x: (n, *shape), pixels between 0 and 1.
        y: (n,), classes from 0.
        bracket: `lipschitz(model, ...)` of the same network at the same input shape; made if None.
        pixels: Whether to refuse x outside [0, 1]; False takes any, and radii are in its units.
        batch_size: Examples in one pass.

    Returns:
        (n,), float64: 0 where the prediction is wrong or the network has no finite bound; inf
        where no other class can win.

    Raises:
        InputError: Training mode, inputs that do not fit, labels out of range, an estimate as
            bracket, a network of one output.

    Reference:
        Tsuzuku, Sato and Sugiyama, NeurIPS 2018, Proposition 1; with rows of the head as there in
        Section 3.
    """
    _check_mode(model)
    check_inputs(x)
    if pixels and (x.min() < 0 or x.max() > 1):
        raise InputError(
            f"x lies between {float(x.min()):.4g} and {float(x.max()):.4g}: give pixels in [0, 1], "
            "with the normalisation inside the network, or pixels=False for radii in units of x"
        )
    copy = exact_copy(model, x)
    logits = _logits(copy, x, y, batch_size)
    constants = _pairwise(upper_bound(copy, x) if bracket is None else bracket, logits.shape[1])
    labels = y.to("cpu", torch.int64)
    gaps = logits.gather(1, labels[:, None]) - logits
    granted = ROUNDING * precision(copy, x)
    gaps = (gaps - granted * logits.abs().amax(1, keepdim=True)).clamp(min=0)
    limits = constants[labels]
    radii = torch.where(gaps > 0, gaps / limits, 0.0)
    return radii.scatter(1, labels[:, None], math.inf).amin(1)


def certified_accuracy(radii: Tensor, at: Sequence[float] | Tensor) -> Tensor:
    """Return the share of examples whose certified radius is above each of some radii.

    Args:
        radii: (n,), of `certified_radius`.
        at: Radii; at 0 it is the share of right predictions, if the network has a finite bound.

    Returns:
        (len(at),), float64.

    Raises:
        InputError: No radii, or NaN among them.
    """
    if not isinstance(radii, Tensor):
        raise InputError(f"radii in {type(radii).__name__}: give the tensor of certified_radius")
    wanted = torch.as_tensor(at, dtype=torch.float64, device=radii.device).flatten()
    if radii.dim() != 1 or not len(radii) or bool(radii.isnan().any() or wanted.isnan().any()):
        raise InputError(
            f"radii of shape {tuple(radii.shape)}: give (n,) numbers, none of them NaN"
        )
    return (radii.double()[None] > wanted[:, None]).double().mean(1)


def margins(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 256) -> Tensor:
    """Return f_y - max over j != y of f_j, (n,) in float64: negative where the class is wrong.

    Args:
        model: A classifier, read in evaluation mode and float64.
        x: (n, *shape).
        y: (n,), classes from 0.
        batch_size: Examples in one pass.

    Raises:
        InputError: Inputs that do not fit, or labels out of range.
    """
    check_inputs(x)
    gaps = _gaps(exact_copy(model, x), x, y, batch_size)
    return gaps.amin(1)


def normalised_margins(
    model: nn.Module, x: Tensor, y: Tensor, norms: float | Tensor, *, batch_size: int = 256
) -> Tensor:
    """Return the least over j of (f_y - f_j) / norm, (n,) in float64.

    By upper bounds of norms, it is a distance to the nearest other class that is never too large.
    By lower bounds (gradients, adversarial differences) it certifies nothing: it is a diagnostic,
    to compare networks by.

    Args:
        model: A classifier, read in evaluation mode and float64.
        x: (n, *shape).
        y: (n,), classes from 0.
        norms: One positive number, or (K, K) of the differences f_i - f_j, such as
            `merkhet.ckn.rkhs_norm(model, differences=True)`.
        batch_size: Examples in one pass.

    Raises:
        InputError: As in `margins`; norms of another shape, or not positive.
    """
    check_inputs(x)
    gaps = _gaps(exact_copy(model, x), x, y, batch_size)
    scale = torch.as_tensor(norms, dtype=torch.float64).detach().cpu()
    classes = gaps.shape[1]
    apart = ~torch.eye(classes, dtype=torch.bool)
    if scale.shape not in ((), (classes, classes)) or not bool(
        (scale.expand(classes, classes)[apart] > 0).all()
    ):
        raise InputError(
            f"norms of shape {tuple(scale.shape)}: give a positive number, or ({classes}, "
            f"{classes}) positive ones of f_i - f_j"
        )
    labels = y.to("cpu", torch.int64)
    limits = scale.expand(classes, classes)[labels]
    return torch.where(gaps.isinf(), math.inf, gaps / limits).amin(1)


def _gaps(copy: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Return f_y - f_j, (n, K), inf at j = y."""
    logits = _logits(copy, x, y, batch_size)
    labels = y.to("cpu", torch.int64)[:, None]
    return (logits.gather(1, labels) - logits).scatter(1, labels, math.inf)


@torch.no_grad()
def _logits(copy: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Return logits (n, K) in float64; refuse labels that do not fit them."""
    check_counts(batch_size=batch_size)
    logits = torch.cat(
        [main_tensor(copy(exact_inputs(part))).double() for part in x.split(batch_size)]
    )
    if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise InputError(
            f"the network returns {tuple(logits.shape)} for {len(x)} inputs: logits are (n, "
            "classes), of two classes or more"
        )
    if not bool(logits.isfinite().all()):
        raise InputError("the network returns NaN or infinity: no radius holds; mend the weights")
    classes = logits.shape[1]
    if not isinstance(y, Tensor):
        raise InputError(f"labels in {type(y).__name__}: give a tensor of ({len(x)},) integers")
    if y.is_floating_point() or y.is_complex() or y.shape != x.shape[:1]:
        raise InputError(f"labels {tuple(y.shape)} in {y.dtype}: give ({len(x)},) integers")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise InputError(
            f"labels from {int(y.min())} to {int(y.max())}: give classes from 0 to {classes - 1}"
        )
    return logits


def _pairwise(bound: Bracket | Upper, classes: int) -> Tensor:
    """Return an upper bound of the Lipschitz constant of each f_i - f_j, (K, K).

    Raises:
        InputError: The bound is an estimate, or of another network.
    """
    if not isinstance(bound, Bracket | Upper):
        raise InputError(f"bracket {bound!r:.60}: give lipschitz(model, x)")
    if bound.estimate:
        raise InputError(
            'an estimate certifies nothing: give bracket=lipschitz(model, x, method="certified")'
        )
    whole = bound.upper if isinstance(bound, Bracket) else bound.value
    found = torch.full((classes, classes), math.sqrt(2) * whole, dtype=torch.float64)
    if bound.head is None:
        return found
    rows = bound.head.rows.flatten(1)
    if len(rows) != classes:
        raise InputError(f"the bracket is of {len(rows)} outputs, the network has {classes}")
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    # Rows that are nearly equal: their difference is no larger than the rounding of either.
    sizes = rows.norm(dim=1)
    apart = torch.where(apart > 0, apart + SLACK * (sizes[:, None] + sizes), 0.0)
    return torch.minimum(found, bound.head.before * apart) * (1 + SLACK)


def _check_mode(model: nn.Module) -> None:
    """Refuse a network in training mode.

    Raises:
        InputError: Names a part that is.
    """
    for path, part in uncompiled(model).named_modules():
        if part.training:
            where = f"its part {path}" if path else "it"
            raise InputError(
                f"the network is certified as it evaluates, and {where} is in training mode: call "
                "model.eval() first"
            )
