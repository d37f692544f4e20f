"""The data that a network's robustness is evaluated on, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.rkhs.attacked import Attacked, misjudged
from merkhet.rkhs.threat import Examples, Threat


class Labelled(Protocol):
    """Pictures with labels, as `merkhet.data.Pictures` are."""

    @property
    def labels(self) -> Tensor | None:
        """Labels (n,), int64."""

    def floats(self) -> Tensor:
        """Return inputs (n, ...) in [0, 1]."""


def labelled(data: tuple[Tensor, Tensor] | Labelled, threat: Threat, seed: int) -> Examples:
    """Return the inputs and labels of data as examples.

    Args:
        data: Inputs (n, ...) and labels (n,), or pictures with labels.
        threat: Its limits hold for the inputs.
        seed: Of the examples' random numbers.

    Raises:
        InputError: They are no floats and labels of them, or beyond the limits.
    """
    x, y = _pair(data)
    if y is None:
        raise InputError("the data has no labels: give pictures with labels, or (inputs, labels)")
    if not x.is_floating_point() or x.dim() < 2 or not x.numel():
        raise InputError(
            f"inputs are {x.dtype} {tuple(x.shape)}: give floats (n, ...), such as bytes / 255"
        )
    if seed != int(seed):
        raise InputError(f"seed={seed}: give a whole number")
    if y.dtype != torch.int64 or y.shape != (len(x),):
        raise InputError(f"labels are {y.dtype} {tuple(y.shape)}: give int64 ({len(x)},)")
    _check_values(x, threat)
    x, y = _plain(x), _plain(y)
    return Examples(x, y, torch.arange(len(x)), int(seed))


def check_radii(radii: Sequence[float]) -> tuple[float, ...]:
    """Return radii as floats.

    Raises:
        InputError: They are none, not finite, below 0, or do not increase.
    """
    found = _floats(radii)
    fits = all(math.isfinite(radius) and radius >= 0 for radius in found)
    if not found or not fits or sorted(set(found)) != list(found):
        raise InputError(f"radii {found}: give increasing numbers from 0 on, as (0.25, 0.5, 1)")
    return found


def rightly_judged(network: Attacked, examples: Examples) -> Tensor:
    """Return which examples a network judges rightly, bools (n,).

    Raises:
        InputError: The network does not run on the inputs, scores are not finite, or labels are
            no classes of the network.
    """
    scores = _scores(network, examples.x).to(examples.y.device)
    bad = (~scores.isfinite()).any(1).nonzero()
    if len(bad):
        raise InputError(
            f"the scores of input {int(bad[0])} are NaN or infinite ({len(bad)} of {len(scores)} "
            "inputs): mend the network, or leave these inputs out"
        )
    low, high = int(examples.y.min()), int(examples.y.max())
    if low < 0 or high >= scores.shape[1]:
        raise InputError(
            f"labels go from {low} to {high} and the network has {scores.shape[1]} classes: give "
            f"labels from 0 to {scores.shape[1] - 1}"
        )
    return ~misjudged(scores, examples.y)


def _pair(data: object) -> tuple[Tensor, Tensor | None]:
    """Return the inputs and the labels of data, tensors both.

    Raises:
        InputError: It is neither a pair of tensors nor pictures.
    """
    pair = data
    if hasattr(data, "floats") and hasattr(data, "labels"):
        pair = (data.floats(), data.labels)
    if isinstance(pair, tuple | list) and len(pair) == 2:
        x, y = pair
        if isinstance(x, Tensor) and (y is None or isinstance(y, Tensor)):
            return x, y
    raise InputError(
        f"data is {_kinds(data)}: give (inputs, labels), two tensors of all examples, or "
        "merkhet.data.Pictures"
    )


def _plain(given: Tensor) -> Tensor:
    """Return a tensor on the CPU that takes part in gradients, even one of inference mode."""
    found: Tensor = given.detach().cpu()
    return found.clone() if found.is_inference() else found


def _kinds(data: object) -> str:
    """Return what data is, in words."""
    if not isinstance(data, tuple | list):
        return type(data).__name__
    held = ", ".join(type(one).__name__ for one in data[:3])
    return f"a {type(data).__name__} of {len(data)} ({held}{', ...' if len(data) > 3 else ''})"


def _floats(radii: Any) -> tuple[float, ...]:
    """Return radii, or one, as floats.

    Raises:
        InputError: They are no numbers.
    """
    single = isinstance(radii, int | float) or (hasattr(radii, "ndim") and radii.ndim == 0)
    try:
        return tuple(float(radius) for radius in ([radii] if single else radii))
    except (TypeError, ValueError) as error:
        raise InputError(f"radii {radii!r}: give numbers, as (0.25, 0.5, 1)") from error


def _scores(network: Attacked, x: Tensor) -> Tensor:
    """Return the scores (n, classes) of inputs (n, ...); a network that cannot run is told."""
    try:
        return network.scores(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the network does not run on inputs {x.dtype} {tuple(x.shape)} ({reason}): give the "
            "shape and the dtype that it takes, as inputs.to(dtype)"
        ) from error


def _check_values(x: Tensor, threat: Threat) -> None:
    """Refuse inputs that are not finite, or beyond the limits."""
    if not bool(x.isfinite().all()):
        bad = (~x.isfinite()).flatten(1).any(1).nonzero()
        raise InputError(f"input {int(bad[0])} holds NaN or infinity: clean the data first")
    low, high = float(x.min()), float(x.max())
    if threat.clip is not None and not threat.clip[0] <= low <= high <= threat.clip[1]:
        raise InputError(
            f"inputs go from {low:.3g} to {high:.3g}, beyond clip={threat.clip}: give raw pixels "
            "and put the normalisation inside the network, or clip=None if the radii are in the "
            "units of these inputs"
        )
