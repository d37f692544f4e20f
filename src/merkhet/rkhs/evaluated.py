"""The data that a network's robustness is evaluated on, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

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
    x, y = data if isinstance(data, tuple | list) else (data.floats(), data.labels)
    if y is None:
        raise InputError("the data has no labels: give pictures with labels, or (inputs, labels)")
    if not x.is_floating_point() or x.dim() < 2 or not len(x):
        raise InputError(
            f"inputs are {x.dtype} {tuple(x.shape)}: give floats (n, ...), such as bytes / 255"
        )
    if y.dtype != torch.int64 or y.shape != (len(x),):
        raise InputError(f"labels are {y.dtype} {tuple(y.shape)}: give int64 ({len(x)},)")
    _check_values(x, threat)
    return Examples(x.detach().cpu(), y.detach().cpu(), torch.arange(len(x)), seed)


def check_radii(radii: Sequence[float]) -> tuple[float, ...]:
    """Return radii as floats.

    Raises:
        InputError: They are none, not finite, below 0, or do not increase.
    """
    given = (radii,) if isinstance(radii, int | float) else radii
    found = tuple(float(radius) for radius in given)
    fits = all(math.isfinite(radius) and radius >= 0 for radius in found)
    if not found or not fits or sorted(set(found)) != list(found):
        raise InputError(f"radii {found}: give increasing numbers from 0 on, as (0.25, 0.5, 1)")
    return found


def rightly_judged(network: Attacked, examples: Examples) -> Tensor:
    """Return which examples a network judges rightly, bools (n,).

    Raises:
        InputError: Scores are not finite, or labels are no classes of the network.
    """
    scores = network.scores(examples.x).to(examples.y.device)
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
