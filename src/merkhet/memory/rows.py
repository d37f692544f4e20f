"""What an update of rows is given: their moments, and the numbers of a step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Moments of a table's rows.

    Attributes:
        momentum: (N, v), in the table's data type.
        second: (N,), decayed means of the squares of gradients.
        last: (N,) int32, the step after which a row is what it is.
    """

    momentum: Tensor
    second: Tensor
    last: Tensor


class Adam(NamedTuple):
    """The numbers of one step.

    Attributes:
        rate: Learning rate times the bias corrections.
        beta1: Decay of the momentum.
        beta2: Decay of the second moments.
        eps: Added to the root of a second moment.
        step: Its number, from 1.
        seed: Of the stochastic rounding.
    """

    rate: float
    beta1: float
    beta2: float
    eps: float
    step: int
    seed: int


class Missed(NamedTuple):
    """The steps that rows may have missed.

    Attributes:
        rates: (steps,) float64, those since all rows were up to date.
        start: Number of the step before them.
        horizon: After how many steps without gradient a row no longer moves.
    """

    rates: Tensor
    start: int
    horizon: int
