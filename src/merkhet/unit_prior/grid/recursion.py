"""The backward recursion F_j(q) = E F_(j+1)(s_b^2 + s^2 A(q)), log F on a grid of log q."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.grid.payoffs import Payoff, Places
from merkhet.unit_prior.grid.step import Steps
from merkhet.unit_prior.grid.windows import Window
from merkhet.unit_prior.laws.law import Floats
from merkhet.unit_prior.spec import Spec

Function = Callable[[Floats, Places], Floats]  # log q (k,), which (m,) -> log F (k, m)
CANCELLED = 0.1  # what must be left of a sum of masses of both signs
BELOW = 60.0  # what is less likely than all that counts by that factor's log is cut off
RANGE = 300.0  # of |log q|
MARGIN = 4  # grid points beyond a range


class Spline:
    """log F between grid points: a cubic spline, straight beyond the ends, at most `most`.

    Args:
        grid: log q, (k,) evenly spaced.
        values: log F, (k, m).
        most: What no value may exceed.
    """

    def __init__(self, grid: Floats, values: Floats, most: float) -> None:
        from scipy.interpolate import CubicSpline

        self.first, self.spacing = float(grid[0]), float(grid[1] - grid[0])
        self.cells = len(grid) - 1
        self.pieces = CubicSpline(grid, values).c  # (4, cells, m)
        # Of the values: a spline's own slopes may ring where values were cut off.
        self.ends = (values[[1, -1]] - values[[0, -2]]) / self.spacing
        self.most = most

    def __call__(self, log_q: Floats, which: Places) -> Floats:
        """Return log F at log_q (k,) for the functions `which` (m,), (k, m)."""
        x = np.clip(log_q, self.first - 1e4, None) - self.first
        inside = np.clip(x, 0.0, self.cells * self.spacing)
        cell = np.minimum((inside / self.spacing).astype(np.int64), self.cells - 1)
        u = (inside - cell * self.spacing)[:, None]
        c3, c2, c1, c0 = self.pieces[:, cell[:, None], which]
        found = c0 + u * (c1 + u * (c2 + u * c3))
        beyond = (x - inside)[:, None]
        if beyond.any():
            found += np.where(beyond < 0, *self.ends[:, which]) * beyond
        bounded: Floats = np.minimum(found, self.most)
        return bounded


class Recursion:
    """Expectations over the variance of a unit of a layer, by one step for each layer before.

    Args:
        spec: The chain.
        layer: Of the unit, from 2.
        steps: Laws of the steps, of a resolution.
        lower: Events rarer than e^-lower in the lower tail are left out.

    Raises:
        InputError: A layer's variance may leave what float64 holds.
    """

    def __init__(self, spec: Spec, layer: int, steps: Steps, lower: float) -> None:
        self.spec = spec
        self.layer = layer
        self.steps = steps
        self.resolution = steps.resolution
        self.lower = lower
        self.log_start = _in_range(spec, log_first_variance(spec))
        self._grids: dict[int, Floats] = {}

    def log_mean(self, payoff: Payoff) -> Floats:
        """Return log E payoff(q_layer), (m,)."""
        later: Function = payoff
        for j in range(self.layer - 1, 1, -1):
            most = 0.0 if payoff.increasing else math.inf
            later = Spline(self.grid(j), self._values(j, later, payoff), most)
        return self._step(1, self.log_start, later, payoff)

    def _values(self, j: int, later: Function, payoff: Payoff) -> Floats:
        """Return log F_j on its grid, (k, m); what is too small to matter is cut off.

        So far down it may be rounding, and a function that rises with q is so further down too.
        """
        grid = self.grid(j)
        found = np.full((len(grid), len(payoff)), -np.inf)
        depth = self.resolution.cost + self.lower + BELOW
        for row in range(len(grid) - 1, -1, -1):
            found[row] = self._step(j, float(grid[row]), later, payoff)
            self.steps.trim()
            if payoff.increasing and (found[row] < found.max(axis=0) - depth).all():
                break
        top = np.maximum(found.max(axis=0), -1e300)
        cut: Floats = np.maximum(found, top - depth)
        return cut

    def grid(self, j: int) -> Floats:
        """Return grid points of log q_j for what is likely enough, (k,)."""
        if j not in self._grids:
            h = self.resolution.spacing
            low, high = (self._extreme(j, lower=lower) for lower in (True, False))
            low, high = max(low, -RANGE), _in_range(self.spec, high)
            first, last = math.floor(low / h) - MARGIN, math.ceil(high / h) + MARGIN
            self._grids[j] = h * np.arange(first, last + 1, dtype=np.float64)
        return self._grids[j]

    def _extreme(self, j: int, *, lower: bool) -> float:
        """Return log q_j where each layer before has an equal share of the rarest event's cost."""
        h = self.resolution.spacing
        share = (self.lower if lower else self.resolution.cost) / (j - 1)
        x = self.log_start
        for i in range(1, j):
            law, shift = self.steps.law(self.spec.widths[i - 1], h * round(x / h))
            ladder = law.windows.ladder
            mean = ladder[0].mean if ladder[0].point else ladder.reached(share, lower=lower)
            x = float(self._next(i, np.log([mean]) + shift)[0])
        return x

    def _next(self, j: int, log_a: Floats) -> Floats:
        """Return log q_(j+1) for log A of layer j, of its shape."""
        scaled = log_a + 2 * math.log(self.spec.weight_std[j])
        if self.spec.bias_std == 0:
            return scaled
        found: Floats = np.logaddexp(scaled, 2 * math.log(self.spec.bias_std))
        return found

    def _step(self, j: int, log_q: float, later: Function, payoff: Payoff) -> Floats:
        """Return log F_j at one q, (m,)."""
        law, shift = self.steps.law(self.spec.widths[j - 1], float(log_q))
        windows = law.windows.down_to(0.0 if payoff.increasing else self.lower)
        best, found = self._peaks(windows, shift, j, later, len(payoff))
        for number in np.unique(best):
            members = np.flatnonzero(best == number)
            measure = law.measure(windows[number])
            log_f = later(self._next(j, measure.log_a + shift), members)
            total, sure = _summed(log_f - measure.exponent[:, None], measure.mass)
            found[members] = np.where(sure, total, found[members])
        if self.spec.bias_std == 0:
            found = np.logaddexp(found, law.log_dead + payoff.at_zero)
        return found

    def _peaks(
        self, windows: tuple[Window, ...], shift: float, j: int, later: Function, count: int
    ) -> tuple[Floats, Floats]:
        """Return, for each function, the law where F e^-cost is largest, and its log there."""
        tilts = [window.tilt for window in windows]
        log_mean = np.log([tilt.mean for tilt in tilts])
        cost = np.array([tilt.cost for tilt in tilts])
        value = later(self._next(j, log_mean + shift), np.arange(count)) - cost[:, None]
        best = np.argmax(value, axis=0)
        return best, value[best, np.arange(count)]


def log_first_variance(spec: Spec) -> float:
    """Return the log of the variance of a unit of the first layer, finite for any scales."""
    parts = (spec.weight_std[0], spec.input_norm), (spec.bias_std,)
    logs = [2.0 * sum(math.log(x) if x else -math.inf for x in part) for part in parts]
    return float(np.logaddexp(logs[0], logs[1]))


def _in_range(spec: Spec, log_q: float) -> float:
    """Return the log of a variance that float64 holds with its powers.

    Raises:
        InputError: It does not.
    """
    if abs(log_q) > RANGE and not spec.activation.homogeneous:
        raise InputError(
            f"a unit's standard deviation may come to 1e{log_q / 4.605:.0f}: the grid holds 1e-65 "
            "to 1e65; give an input norm, a bias and weights of more usual size"
        )
    return log_q


def _summed(exponent: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """Return log sum_k mass_k e^exponent_k of (k, m), and whether it is more than rounding.

    It is not only where F rises so steeply that nothing likely reaches it.
    """
    top = np.maximum(exponent.max(axis=0), -1e300)
    scaled = np.exp(exponent - top)
    total, size = mass @ scaled, np.abs(mass) @ scaled
    sure = total > CANCELLED * size
    return np.log(np.where(sure, total, 1.0)) + top, sure
