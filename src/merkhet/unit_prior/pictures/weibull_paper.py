"""Weibull paper: log t against log(-log P(|u| > t)), where a tail of parameter theta is a line.

-log P(|u| > t) = (t / b)^(1/theta) is a line of slope 1/theta there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.pictures.axes import plain_logs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

PROBABILITIES = (0.9, 0.5, 0.1, 1e-2, 1e-3, 1e-5, 1e-10, 1e-20, 1e-50, 1e-100, 1e-300)
SHALLOW = 0.1  # the least -log P that is drawn
APART = 0.05  # of the axis's height: the least between two of its labels
MOST_POINTS = 40  # of one sample
EXTREMES = 10  # of a sample's largest, each shown


def on_paper(t: Tensor, log_survival: Tensor) -> tuple[Floats, Floats]:
    """Return t and -log P(|u| > t), where both can stand on logarithmic axes.

    What is exceeded with more than probability 0.9 is left out: the paper is for tails.

    Args:
        t: (k,) thresholds.
        log_survival: (k,) log P(|u| > t).

    Raises:
        InputError: Other shapes, or nothing that can stand there.
    """
    at, depth = (np.asarray(one.detach().cpu(), dtype=float) for one in (t, -log_survival))
    if at.shape != depth.shape or at.ndim != 1:
        raise InputError(f"t {at.shape} and log_survival {depth.shape}: give both as (k,)")
    kept = (at > 0) & np.isfinite(at) & (depth >= SHALLOW) & np.isfinite(depth)
    if not kept.any():
        raise InputError("no point with 0 < t and 0 < P(|u| > t) < 0.9: there is nothing to draw")
    return at[kept], depth[kept]


def empirical(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return thresholds of a sample and log of the share of it at or above each, thinned.

    The i-th largest of n stands at probability (i - 1/2) / n. Zeros, of dead units, count in n.

    Args:
        sample: (n,) of either sign.

    Returns:
        Thresholds (k,) and logs (k,), evenly spaced on the paper, the largest all there.

    Raises:
        InputError: No finite value but 0, or another shape.
    """
    if sample.dim() != 1 or not sample.isfinite().all():
        raise InputError(f"a sample of shape {tuple(sample.shape)}: give finite values (n,)")
    size = sample.abs().double().detach().cpu()
    ordered = size[size > 0].sort(descending=True).values
    if not len(ordered):
        raise InputError("a sample of zeros has no survival function to draw")
    places = _places(len(ordered), len(size))
    logs = np.log((places + 0.5) / len(size))
    return ordered[places], ordered.new_tensor(logs)


def draw_slope(axis: Axes, t: Floats, depth: Floats, theta: float, colour: str) -> None:
    """Draw the limit's slope 1/theta through the end of a curve, thin and dashed.

    Args:
        axis: Weibull paper.
        t: Thresholds of the curve, ascending.
        depth: -log P(|u| > t).
        theta: Above 0 and finite, or nothing is drawn: such tails are no line here.
        colour: Of the curve.
    """
    if not 0 < theta < math.inf:
        return
    start = depth[-1] * (max(depth[0], 1e-4 * depth[-1]) / depth[-1]) ** 0.3
    line = np.geomspace(start, depth[-1], 2)
    axis.plot(t[-1] * (line / depth[-1]) ** theta, line, "--", color=colour, linewidth=1, alpha=0.8)


def as_paper(axis: Axes) -> None:
    """Make axes, on which everything is drawn already, into Weibull paper."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set(xscale="log", yscale="log", xlabel="t", ylabel="P(|u| > t)")
    plain_logs(axis.xaxis, *axis.get_xlim())
    low, high = axis.get_ylim()
    kept: list[float] = []
    for probability in PROBABILITIES:
        place = _place(probability, low, high)
        if 0 <= place <= 1 and (not kept or place - _place(kept[-1], low, high) > APART):
            kept.append(probability)
    axis.yaxis.set_major_locator(FixedLocator([-math.log(one) for one in kept]))
    axis.yaxis.set_major_formatter(FixedFormatter([_told(one) for one in kept]))
    axis.yaxis.set_minor_locator(NullLocator())


def _places(count: int, total: int) -> NDArray[np.int64]:
    """Return which of `count` ordered values to show, evenly spaced on the paper."""
    if count <= MOST_POINTS:
        return np.arange(count)
    first = math.log(-math.log(0.5 / total))
    last = math.log(max(-math.log((count - 0.5) / total), SHALLOW))
    spaced = total * np.exp(-np.exp(np.linspace(first, last, MOST_POINTS))) - 0.5
    chosen = np.concatenate([np.arange(EXTREMES), np.rint(spaced).astype(int)])
    return np.unique(chosen.clip(0, count - 1))


def _place(probability: float, low: float, high: float) -> float:
    """Return where a probability stands on an axis from low to high, from 0 to 1."""
    return math.log(-math.log(probability) / low) / math.log(high / low)


def _told(probability: float) -> str:
    """Return a probability as its label."""
    exponent = round(math.log10(probability))
    return f"{probability:g}" if probability > 5e-3 else f"$10^{{{exponent}}}$"
