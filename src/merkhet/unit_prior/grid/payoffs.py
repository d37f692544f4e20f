"""What is averaged over a unit's variance q: logs of functions of log q, for several questions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from merkhet.unit_prior.laws.law import Floats

Places = NDArray[np.intp]
LOG_2PI = math.log(2 * math.pi)


class Payoff(Protocol):
    """A positive function of q, several at once, in logs."""

    increasing: bool  # in q: only upper tails of q matter
    at_zero: float  # its log at q = 0

    def __len__(self) -> int:
        """Return how many."""

    def __call__(self, log_q: Floats, which: Places) -> Floats:
        """Return logs at log_q (k,) for the numbered ones `which` (m,), as (k, m)."""


@dataclass(frozen=True)
class Survival:
    """P(|g| > t | q) = erfc(t / sqrt(2 q)), at t (m,) above 0."""

    t: Floats
    increasing = True
    at_zero = -math.inf

    def __len__(self) -> int:
        return len(self.t)

    def __call__(self, log_q: Floats, which: Places) -> Floats:
        """Return log P(|g| > t | q), (k, m) for log_q (k,) and which (m,)."""
        from scipy.special import log_ndtr

        with np.errstate(over="ignore"):
            found: Floats = math.log(2) + log_ndtr(-np.exp(-0.5 * log_q)[:, None] * self.t[which])
        return found


@dataclass(frozen=True)
class Density:
    """The density of `units` units of a layer together at distance t (m,) from 0, given q."""

    t: Floats
    units: int = 1
    increasing = False
    at_zero = -math.inf

    def __len__(self) -> int:
        return len(self.t)

    def __call__(self, log_q: Floats, which: Places) -> Floats:
        """Return the log density, (k, m) for log_q (k,) and which (m,)."""
        with np.errstate(over="ignore"):
            fall = np.exp(-log_q)[:, None] * (0.5 * self.t[which] ** 2)
        found: Floats = -0.5 * self.units * (LOG_2PI + log_q)[:, None] - fall
        return found


@dataclass(frozen=True)
class Moment:
    """E[|g|^order | q] = q^(order / 2) 2^(order / 2) Gamma((1 + order) / 2) / sqrt(pi)."""

    order: float
    increasing = False
    at_zero = -math.inf  # left out of moments

    def __len__(self) -> int:
        return 1

    def __call__(self, log_q: Floats, which: Places) -> Floats:
        """Return the log moment, (k, m) for log_q (k,) and which (m,)."""
        s = self.order
        constant = math.lgamma((1 + s) / 2) - 0.5 * math.log(math.pi)
        found: Floats = np.repeat((0.5 * s * (log_q + math.log(2)) + constant)[:, None], 1, axis=1)
        return found


@dataclass(frozen=True)
class Dead:
    """1 where q = 0: the chance that all units of a layer before are 0."""

    increasing = True
    at_zero = 0.0

    def __len__(self) -> int:
        return 1

    def __call__(self, log_q: Floats, which: Places) -> Floats:
        """Return log 0, as q is above 0, (k, m) for log_q (k,) and which (m,)."""
        return np.full((len(log_q), 1), -np.inf)
