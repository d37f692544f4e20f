"""One layer's step: the law of A = sum of phi(sqrt(q) z_i)^2 for a given q, as measures by tilt."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np

from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.grid.lattice import (
    Measure,
    agree,
    direct_measure,
    joined,
    lattice_measure,
    long,
    point_measure,
)
from merkhet.unit_prior.grid.nodes import squares
from merkhet.unit_prior.grid.windows import Window, Windows

FINEST = 750.0  # cost at the least, in a lattice's spacing: low q tell too
FADE = 1.4  # a capped law fades into the next over 1 / 1.96 of its cap
LEFT = 1e-9  # tilted mass about 0 that is worth a finer lattice
DEEP = 25.0  # -log of the least lower tail that is
MOST = 6_000_000  # nodes kept, 24 bytes each


@dataclass(frozen=True)
class Resolution:
    """How fine everything is.

    Attributes:
        spacing: Of the grid of log q.
        fineness: Lattice spacing in units of the narrowest integrand, for a single square.
        order: Gauss-Legendre nodes of a panel.
        cost: Events rarer than e^-cost in the upper tail are left out.
    """

    spacing: float
    fineness: float
    order: int
    cost: float

    @property
    def reach(self) -> float:
        """Return the largest |z| of a unit."""
        return math.sqrt(2 * (self.cost + 60))


class StepLaw:
    """The law of A given q, to be summed against functions of any steepness.

    Args:
        activation: phi.
        width: H.
        variance: q.
        resolution: How fine.
        keep_zero: Whether A = 0 is a node; without a bias it is left out (the next unit is 0).
    """

    def __init__(
        self,
        activation: Activation,
        width: int,
        variance: float,
        resolution: Resolution,
        *,
        keep_zero: bool,
    ) -> None:
        self.width = width
        self.resolution = resolution
        self.keep_zero = keep_zero
        found = squares(activation, variance, resolution.reach, resolution.order, alone=width == 1)
        self.log_dead = width * math.log(found.zero) if found.zero else -math.inf
        active = 1 if found.zero and not keep_zero else width
        self.windows = Windows(found, width, resolution.cost, active)
        self.size = 0  # nodes kept
        self._measures: dict[Window, Measure] = {}
        self._fine: dict[Window, Measure] = {}

    @property
    def spacing(self) -> float:
        """Return a lattice's spacing over its mean.

        A payoff that falls to e^-cost varies over 1 / sqrt(cost) of the mean at the least; each
        square's split costs the fourth derivative.
        """
        narrowest = 1 / math.sqrt(max(self.resolution.cost, FINEST))
        return float(self.resolution.fineness * narrowest * self.width ** (-1 / 3))

    def measure(self, window: Window) -> Measure:
        """Return the law under a tilt, made once, with what other windows know beyond its reach."""
        if window not in self._measures:
            found, after = self._refined(window), self.windows.after(window)
            if after is not None:
                found = joined(found, self.measure(after), *_fading(window, after))
            self._measures[window] = found
            self.size += len(found.mass)
        return self._measures[window]

    def forget(self, *, parts: bool) -> None:
        """Drop what is kept, for its memory: the parts that measures are made of, or all."""
        self._fine.clear()
        if not parts:
            self._measures.clear()
        self.size = sum(len(made.mass) for made in self._measures.values())

    def _refined(self, window: Window) -> Measure:
        """Return a window's law with finer lattices towards 0, if there is mass to be told apart.

        The law of a sum is one, whatever tilt or cap it is computed under.
        """
        if window not in self._fine:
            self._fine[window] = self._toward_zero(window)
            self.size += len(self._fine[window].mass)
        return self._fine[window]

    def _toward_zero(self, window: Window) -> Measure:
        tilt = window.tilt
        if tilt.point:
            return point_measure(tilt)
        if self.width == 1:
            return direct_measure(window.squares, keep_zero=self.keep_zero)
        coarse = lattice_measure(
            window.squares, self.width, tilt, self.spacing, keep_zero=self.keep_zero
        )
        near = coarse.log_a < math.log(tilt.mean / 4)
        if np.abs(coarse.mass[near]).sum() + abs(coarse.near) < LEFT:
            return coarse
        below = self._below(tilt.mean / 4)
        if below is None or long(below.tilt, self.spacing):
            return coarse
        fine, middle = self._refined(below), tilt.mean / 8
        if not agree(fine, coarse, middle, 2.0):
            return coarse  # the finer lattice does not reach so far
        return joined(fine, coarse, middle, 2.0)

    def _below(self, most: float) -> Window | None:
        """Return a law whose mean is 1 to 4 times smaller than `most`, from few that many share."""
        windows = self.windows.down_to(DEEP)
        means = [window.tilt.mean for window in windows]
        for n in range(bisect.bisect_right(means, most) - 1, 0, -1):
            if _quarter(means[n - 1]) < _quarter(means[n]):
                return windows[n]
        return None


def _fading(window: Window, after: Window) -> tuple[float, float]:
    """Return where one law goes over into the next: the middle, and the ratio of the end to it."""
    if window.cap < math.inf:
        return window.cap / FADE, FADE
    low, high = window.tilt.mean, after.tilt.mean
    return math.sqrt(low * high), math.sqrt(high / low)


def _quarter(mean: float) -> int:
    """Return the power of 4 below a mean."""
    return math.floor(math.log(mean, 4))


class Steps:
    """The laws of steps at grid points of log q, made as they are needed.

    A homogeneous phi has A(q) = q A(1): one law serves all.

    Args:
        activation: phi.
        resolution: How fine.
        bias: Whether there is one.
    """

    def __init__(self, activation: Activation, resolution: Resolution, *, bias: bool) -> None:
        self.activation = activation
        self.resolution = resolution
        self.bias = bias
        self._laws: dict[tuple[int, float], StepLaw] = {}

    def law(self, width: int, log_q: float) -> tuple[StepLaw, float]:
        """Return a step's law and what to add to its log a."""
        shift = log_q if self.activation.homogeneous else 0.0
        key = (width, log_q - shift)
        if key not in self._laws:
            self._laws[key] = StepLaw(
                self.activation,
                width,
                math.exp(key[1]),
                self.resolution,
                keep_zero=self.bias,
            )
        return self._laws[key], shift

    def trim(self) -> None:
        """Forget measures when they take too much memory, parts first; they are made again."""
        for parts in (True, False):
            if sum(law.size for law in self._laws.values()) > MOST:
                for law in self._laws.values():
                    law.forget(parts=parts)
