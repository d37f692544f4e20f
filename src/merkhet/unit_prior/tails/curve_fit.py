"""theta from an exact curve of survival: least squares on its logarithm, far below sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.tails.sample import Floats, Samples, real_numbers

HIGHEST, LOWEST, LEVELS = 0.1, 1e-300, 100
FEWEST = 8  # points: twice the numbers that are fitted
NARROWEST = 0.5  # the least range of log(-log S) that tells theta from the other terms
RANGE = (0.02, 50.0)  # of theta; a fit at an end of it is none
SHARE = 1e-6  # of the curve's range, below which the stretched term is none

Numbers = Samples | Answer


@dataclass(frozen=True)
class CurveFit:
    """The fit -log S(t) = offset + (t / scale)^(1 / theta) - power log(t / scale).

    Attributes:
        theta: The tail parameter: an estimate of the asymptotic one, the closer the deeper the
            curve goes.
        scale: In units of t.
        offset: A.
        power: C.
        residual: The largest difference of log S to the fit's.
        points: How many points of the curve it rests on.
        levels: The highest and the lowest S among them, as logarithms.
    """

    theta: float
    scale: float
    offset: float
    power: float
    residual: float
    points: int
    levels: tuple[float, float]

    def log_survival(self, t: Tensor) -> Tensor:
        """Return the fit's log S at t, of t's shape, float64."""
        logs = (t.double() / self.scale).log()
        fitted: Tensor = self.power * logs - self.offset - torch.exp(logs / self.theta)
        return fitted

    def __str__(self) -> str:
        high, low = (level / math.log(10) for level in self.levels)
        return (
            f"theta {self.theta:.4g}, scale {self.scale:.4g}, offset {self.offset:.4g}, power "
            f"{self.power:.4g}: {self.points} points from 1e{high:.0f} to 1e{low:.0f}, log S "
            f"within {self.residual:.2g}"
        )


def fit_levels(lowest: float = LOWEST, highest: float = HIGHEST, count: int = LEVELS) -> Tensor:
    """Return probabilities at which to take a curve for `fit_curve`, (count,) float64, falling.

    Evenly spaced in log(-log S), in which a stretched exponential is straight.

    Args:
        lowest: The last.
        highest: The first.
        count: How many.

    Raises:
        InputError: They are not in order between 0 and 1, or fewer than 8, or no whole number.
    """
    if not (_probable(lowest) and _probable(highest) and lowest < highest and _enough(count)):
        raise InputError(
            f"levels from {highest!r} down to {lowest!r}, {count!r} of them: give "
            f"probabilities between 0 and 1, falling, {FEWEST} or more, a whole number of them"
        )
    first, last = (math.log(-math.log(level)) for level in (highest, lowest))
    return torch.exp(-torch.exp(torch.linspace(first, last, count, dtype=torch.float64)))


def fit_curve(t: Numbers, log_survival: Numbers, highest: float = HIGHEST) -> CurveFit:
    """Fit a stretched exponential, with a power in front, to an exact curve of survival.

    Least squares of -log S, points weighted by their share of the range of log(-log S), so that
    how they are spaced has no part in it. For a fixed theta the fit is linear in the other terms
    (variable projection); theta is searched for on a grid, then refined. With levels down to
    1e-300 theta is the asymptotic l / 2 of a ReLU network's layer l up to 5 % at width 10, up to
    15 % at width 100; down to 1e-30, which samples never see, it is farther.

    Args:
        t: Thresholds (m,), above 0, growing: `prior.quantile(p, layer)` with p = fit_levels().
        log_survival: log S at each, (m,), falling: p.log().
        highest: Points with a larger S are left out; the default is the upper tenth of the law.

    Raises:
        InputError: Fewer than 8 points below `highest`, or over too short a range; t does not
            grow or log S does not fall; or it falls like a power law or to an end, without theta.
    """
    t, logs = (real_numbers(values, name) for values, name in ((t, "t"), (log_survival, "log S")))
    t, heights = _below(t, -logs, highest)
    weights = _shares(np.log(heights))
    theta = _best(t, heights, weights)
    fitted, (offset, growth, power) = _linear(t, heights, weights, theta)
    _refuse_other_laws(theta, growth / float(heights[-1] - heights[0]))
    # The linear fit is in units of the last t.
    scale = float(t[-1]) * growth ** (-theta)
    shift = offset - power * math.log(scale / t[-1])
    residual = float(np.abs(fitted - heights).max())
    ends = (float(-heights[0]), float(-heights[-1]))
    return CurveFit(theta, scale, shift, power, residual, len(t), ends)


def _refuse_other_laws(theta: float, share: float) -> None:
    """Refuse laws without a theta.

    Args:
        theta: The best in RANGE.
        share: The share of the curve's range that the stretched term has.
    """
    if theta > 0.99 * RANGE[1] or share <= SHARE:
        raise InputError(
            "the curve falls like a power law, slower than stretched exponentials do: it has an "
            "index and no theta"
        )
    if theta < 1.01 * RANGE[0]:
        raise InputError(
            "the curve falls faster than stretched exponentials do, as that of a bounded "
            "variable: its theta is 0"
        )


def _best(t: Floats, heights: Floats, weights: Floats) -> float:
    """Return theta with the least squares, to 1e-9 of itself."""
    from scipy.optimize import minimize_scalar

    def loss(log_theta: float) -> float:
        fitted, _ = _linear(t, heights, weights, math.exp(log_theta))
        return float(weights @ (fitted - heights) ** 2)

    grid = np.log(np.geomspace(*RANGE, 60))
    best = int(np.argmin([loss(value) for value in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x)


def _linear(
    t: Floats, heights: Floats, weights: Floats, theta: float
) -> tuple[Floats, tuple[float, float, float]]:
    """Return the fit for a fixed theta, (m,), and its offset, growth and power at t over its end.

    heights = offset + growth (t / t_end)^(1 / theta) - power log(t / t_end).
    """
    logs = np.log(t / t[-1])
    columns = np.stack([np.ones_like(t), np.exp(logs / theta), -logs], 1)
    root = np.sqrt(weights)
    found, *_ = np.linalg.lstsq(columns * root[:, None], heights * root, rcond=None)
    offset, growth, power = found.tolist()
    return columns @ found, (offset, growth, power)


def _below(t: Floats, heights: Floats, highest: float) -> tuple[Floats, Floats]:
    """Return the checked points with S at most `highest`."""
    if t.shape != heights.shape or t.ndim != 1:
        raise InputError(f"t of shape {t.shape}, log S of {heights.shape}: give (m,) both")
    if not _probable(highest):
        raise InputError(f"highest {highest!r}: give a probability between 0 and 1")
    chosen = heights >= -math.log(highest) * (1 - 1e-9)
    t, heights = t[chosen], heights[chosen]
    if not ((t > 0).all() and (np.diff(t) > 0).all() and (np.diff(heights) > 0).all()):
        raise InputError("t or log S out of order: give t above 0 that grows, log S that falls")
    if len(t) < FEWEST or math.log(heights[-1] / heights[0]) < NARROWEST:
        raise InputError(
            f"{len(t)} points of the curve with S up to {highest:g}: give {FEWEST} or more, over "
            "a longer range; fit_levels() gives levels to take them at"
        )
    return t, heights


def _probable(given: object) -> TypeGuard[float]:
    """Whether it is a number above 0 and below 1."""
    return isinstance(given, Real) and 0 < float(given) < 1


def _enough(count: object) -> bool:
    """Whether it is a whole number of points that can be fitted."""
    return not isinstance(count, bool) and isinstance(count, Integral) and int(count) >= FEWEST


def _shares(places: Floats) -> Floats:
    """Return the trapezoid rule's weights at places in growing order, adding up to 1."""
    gaps = np.diff(places)
    sums = np.concatenate([gaps, [0.0]]) + np.concatenate([[0.0], gaps])
    shares: Floats = sums / sums.sum()
    return shares
