"""Figures: survival on Weibull paper, values by depth, the penalty of a unit, two units jointly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.pictures.axes import name_places, scale_values
from merkhet.unit_prior.pictures.weibull_paper import as_paper, draw_slope, empirical, on_paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from merkhet.unit_prior.prior import UnitPrior

Floats = NDArray[np.float64]

GREY = "#666666"
REACH = 1e-4  # the penalty is drawn to the value that |u| exceeds with this probability
LEVELS = (0.5, 0.2, 0.05, 0.01, 1e-3)  # contours pass where |u| exceeds with this probability
MOST_LAYERS = 10_000  # of powers that are told as fractions
CORNER = 2e-3  # of the reach: nearer to 0 densities may be infinite
SIDE = 121  # points of a quadrant's side


def plot_survival(
    curves: Mapping[str, tuple[Tensor, Tensor]],
    points: Mapping[str, Tensor] | None = None,
    slopes: Mapping[str, float] | None = None,
) -> Figure:
    """Return a figure of survival functions on Weibull paper.

    Curves are drawn solid, samples as points; thin and dashed, through the end of a curve, the
    slope 1/theta that its tail has in the limit. Zeros of a sample count as mass below every
    threshold and are not drawn.

    Args:
        curves: By the name that the legend shows, t (k,) above 0, ascending, and
            log P(|u| > t) (k,).
        points: Samples (n,) of units, of either sign, in the colour of the curve of that name.
        slopes: The asymptotic tail parameter theta of the curve of that name.

    Raises:
        InputError: Nothing to draw.
    """
    from merkhet.report.figures import COLOURS, figure, label

    points, slopes = points or {}, slopes or {}
    names = list(dict.fromkeys([*curves, *points]))
    if not names:
        raise InputError("no survival function to draw: give curves={'layer 2': (t, log_survival)}")
    made, axes = figure(width=5.6, height=4.2)
    for number, name in enumerate(names):
        colour, shown = COLOURS[number % len(COLOURS)], label(name)
        if name in curves:
            t, depth = on_paper(*curves[name])
            axes[0].plot(t, depth, color=colour, linewidth=1.6, label=shown)
            if name in slopes:
                draw_slope(axes[0], t, depth, slopes[name], colour)
        if name in points:
            t, depth = on_paper(*empirical(points[name]))
            said = None if name in curves else shown
            axes[0].plot(t, depth, "o", color=colour, markersize=3.5, mfc="none", label=said)
    as_paper(axes[0])
    _legend_of_paper(axes[0], drawn=bool(points) and bool(curves), limit=bool(slopes))
    return made


def plot_by_depth(
    values: Mapping[str, Sequence[float]],
    ylabel: str,
    *,
    places: Sequence[str] = (),
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Return a figure of a value by depth, a line for each name; logarithmic where it is wide.

    Args:
        values: By the name that the legend shows, a value for each place, the first one first;
            what is not finite leaves a gap.
        ylabel: What the values are.
        places: The places' names, which stand there where they fit.
        intervals: By name, (low, high) of each value.
        reference: A dotted line across, by its name and place: ("Gaussian", 3.0).

    Raises:
        InputError: No finite value.
    """
    from merkhet.report.figures import COLOURS, figure, label

    made, axes = figure(width=5.2)
    for number, (name, line) in enumerate(values.items()):
        shown = np.asarray(line, dtype=float)
        shown = np.where(np.isfinite(shown), shown, np.nan)
        at, colour = np.arange(1, len(shown) + 1), COLOURS[number % len(COLOURS)]
        axes[0].plot(at, shown, "o-", color=colour, markersize=3, label=label(name))
        if intervals and name in intervals:
            low, high = np.asarray(intervals[name], dtype=float).reshape(-1, 2).T
            axes[0].fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
    if reference is not None:
        axes[0].axhline(reference[1], color=GREY, linestyle=":", label=label(reference[0]))
    axes[0].set_ylabel(ylabel)
    name_places(made, axes[0], places)
    scale_values(axes[0], [one for line in values.values() for one in line])
    axes[0].legend(frameon=False, fontsize=8)
    return made


def plot_penalty(prior: UnitPrior, layer: int) -> Figure:
    """Return a figure of the penalty that a unit sees in MAP training, -log of its prior density.

    Over the exact one stands |u|^(2/l), l being the layer, in which the paper reads its bound of
    the tails as a penalty (Vladimirova et al., ICML 2019), scaled by least squares. A constant is
    free in both: the exact one is 0 where |u| is at its median.

    Args:
        prior: The units' prior.
        layer: From 1, counted by weight matrices.

    Raises:
        InputError: No such layer.
    """
    from merkhet.report.figures import COLOURS, figure

    middle, reach = _quantiles(prior, (0.5, REACH), layer)
    u = np.geomspace(CORNER * reach, reach, 400)
    at = torch.from_numpy(np.append(u, middle))
    found = -prior.log_density(at, layer).value.numpy()
    exact = found[:-1] - found[-1]
    power = 1 / prior.tail_parameter(layer)  # 2/l with the envelope property
    scale, shift = np.polyfit(u**power, exact, 1)
    made, axes = figure(width=5.2, height=3.6)
    both = np.concatenate([-u[::-1], [0.0], u])
    axes[0].plot(both, _mirrored(exact), color=COLOURS[0], label="exact: -log p(u) + constant")
    said = f"the paper's reading, fitted: {scale:.3g} |u|^{_power_told(power)} + constant"
    axes[0].plot(both, _mirrored(scale * u**power + shift), "--", color=COLOURS[1], label=said)
    axes[0].set(xlabel=f"u, a unit of layer {layer}", ylabel="penalty")
    axes[0].legend(frameon=False, fontsize=8, loc="upper center")
    axes[0].set_ylim(top=exact.max() + 0.35 * np.ptp(exact))  # room for the legend
    return made


def plot_joint(prior: UnitPrior, layer: int) -> Figure:
    """Return a figure of the prior of two units of one layer: as it is, and as if independent.

    On the left the exact joint density, a scale mixture of circles (they share the layer before);
    on the right the product of the two units' own densities, whose contours go, far out, towards
    balls of l_(2/l). The levels are the same: where the exact density is at points of an axis
    which |u| exceeds with the probabilities on the left.

    Args:
        prior: The units' prior.
        layer: From 1, counted by weight matrices.

    Raises:
        InputError: No such layer.
    """
    from merkhet.report.figures import figure

    ends = _quantiles(prior, LEVELS, layer)
    at = np.geomspace(CORNER * ends[-1], 2 * ends[-1], 200)
    exact = prior.joint(torch.from_numpy(np.stack([at, 0 * at], 1)), layer).value.numpy()
    alone = prior.log_density(torch.from_numpy(at), layer).value.numpy()
    side = np.linspace(CORNER * ends[-1], 1.3 * ends[-1], SIDE)
    x, y = np.meshgrid(side, side)
    joint = np.interp(np.log(np.hypot(x, y)), np.log(at), exact)
    single = np.interp(np.log(side), np.log(at), alone)
    levels = np.interp(np.log(ends), np.log(at), exact)
    made, axes = figure(1, 2, width=4.2, height=4.8)
    power = _power_told(1 / prior.tail_parameter(layer))
    titles = ("exact: circles", f"as if independent: in the limit l_{power} balls")
    for axis, density, title in zip(axes, (joint, single + single[:, None]), titles, strict=True):
        _draw_contours(axis, side, density, dict(zip(levels, LEVELS, strict=True)))
        axis.set(title=title, xlabel=f"one unit of layer {layer}", aspect="equal")
    axes[0].set_ylabel(f"another unit of layer {layer}")
    said = (
        "a contour of the left is named by the probability that one unit's |u| exceeds its radius"
    )
    made.supxlabel(f"{said}; the right has its level", fontsize=8)
    return made


def _quantiles(prior: UnitPrior, probabilities: Sequence[float], layer: int) -> Floats:
    """Return what |u| exceeds with each probability."""
    found: Floats = prior.quantile(list(probabilities), layer).value.numpy()
    return found


def _mirrored(right: Floats) -> Floats:
    """Return values for -u and u, with a gap at 0, where the density may be infinite."""
    return np.concatenate([right[::-1], [np.nan], right])


def _power_told(power: float) -> str:
    """Return a power in words that can be an exponent: 2, (1/2), (2/3), (0.123)."""
    near = Fraction(power).limit_denominator(MOST_LAYERS)
    if abs(near - power) > 1e-9:
        return f"({power:.3g})"
    return f"{near}" if near.denominator == 1 else f"({near})"


def _draw_contours(
    axis: Axes, side: Floats, density: Floats, levels: Mapping[float, float]
) -> None:
    """Draw contours of a density that is the same in four quadrants, given on one."""
    import matplotlib as mpl

    whole = np.concatenate([-side[::-1], side])
    half = np.concatenate([density[::-1], density])
    full = np.concatenate([half[:, ::-1], half], 1)
    ordered = sorted(levels)
    colours = mpl.colormaps["viridis"](np.linspace(0.8, 0, len(ordered)))
    drawn = axis.contour(whole, whole, full, levels=ordered, colors=colours, linewidths=1.3)
    axis.clabel(drawn, fmt={level: f"{levels[level]:g}" for level in ordered}, fontsize=7)


def _legend_of_paper(axis: Axes, *, drawn: bool, limit: bool) -> None:
    """Name curves, and what points and dashes are."""
    from matplotlib.lines import Line2D

    handles, labels = axis.get_legend_handles_labels()
    if drawn:
        handles.append(Line2D([], [], color=GREY, linestyle="", marker="o", ms=3.5, mfc="none"))
        labels.append("samples")
    if limit:
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1))
        labels.append("slope 1/θ of the limit")
    axis.legend(handles, labels, frameon=False, fontsize=8)
