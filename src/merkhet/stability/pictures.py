"""Figures: stability curves side by side, and what a deformation looks like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.stability.curves import StabilityCurve
from merkhet.stability.kinds import DEFAULTS, UNITS, Conditions, deformed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, StabilityCurve | Sequence[StabilityCurve]] | Sequence[StabilityCurve]


def plot_curves(curves: Curves, *, columns: int | None = None) -> Figure:
    """Return a figure with one panel a kind, and a line with its band for each representation.

    Dashed and dotted lines in its colour say how far apart inputs of one label, and of any
    labels, are in that representation: a curve that reaches them confuses a deformation with
    another input.

    Args:
        curves: By name, one curve or one of each kind; or curves that are named by their layer,
            such as the values of `stability_curves`.
        columns: Panels in a row, by default all.

    Raises:
        InputError: No curve.
    """
    from merkhet.report.figures import COLOURS, figure
    from merkhet.report.figures import label as label_of

    named = _named(curves)
    if not named:
        raise InputError("no curves to plot: give at least one StabilityCurve")
    kinds = list(dict.fromkeys(curve.kind for _, curve in named))
    names = list(dict.fromkeys(name for name, _ in named))
    columns = min(columns or len(kinds), len(kinds))
    made, axes = figure(math.ceil(len(kinds) / columns), columns)
    for axis in axes[len(kinds) :]:
        axis.set_axis_off()
    for kind, axis in zip(kinds, axes, strict=False):
        for name, curve in named:
            if curve.kind == kind:
                colour = COLOURS[names.index(name) % len(COLOURS)]
                curve.plot(axis, label=label_of(name), colour=colour)
        axis.set(title=kind, xlabel=_unit(kind, named), ylabel="relative distance", ylim=(0, None))
        axis.set_xlim(left=0)
    _legend(made, axes[0], [curve for _, curve in named])
    return made


def plot_deformations(
    images: Tensor, kind: str, sizes: Sequence[float], *, conditions: Conditions = DEFAULTS
) -> Figure:
    """Return a figure with a row for each picture: as it is, then deformed by each size.

    Args:
        images: (batch, channels, height, width) in [0, 1], 1 or 3 channels, at most 8 pictures.
        kind: "translation", "rotation", "scaling" or "deformation".
        sizes: Sizes above 0.
        conditions: Seed, padding and the like.

    Raises:
        InputError: No such pictures, kind or sizes.
    """
    from merkhet.report.figures import figure

    if images.dim() != 4 or images.shape[1] not in (1, 3) or not 1 <= len(images) <= 8:
        raise InputError(
            f"images of shape {tuple(images.shape)}: give 1 to 8 pictures, "
            "(batch, 1 or 3, height, width)"
        )
    shown = [images, *(deformed(images, kind, size, conditions=conditions) for size in sizes)]
    unit = "" if kind == "scaling" else UNITS[kind]
    titles = ["as it is", *(f"{size:g} {unit}".strip() for size in sizes)]
    made, axes = figure(len(images), len(shown), width=1.3, height=1.4)
    for index, axis in enumerate(axes):
        row, column = divmod(index, len(shown))
        picture = shown[column][row].detach().cpu().float().clamp(0, 1).movedim(0, -1)
        axis.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
        if row == 0:
            axis.set_title(titles[column], fontsize=8)
    return made


def _named(curves: Curves) -> list[tuple[str, StabilityCurve]]:
    """Return the curves with their names."""
    if not isinstance(curves, Mapping):
        return [(curve.layer or "output", curve) for curve in curves]
    named = []
    for name, found in curves.items():
        several = [found] if isinstance(found, StabilityCurve) else found
        named += [(name or "output", curve) for curve in several]
    return named


def _unit(kind: str, named: Sequence[tuple[str, StabilityCurve]]) -> str:
    """Return the unit of a kind's sizes for a label."""
    unit = next(curve.unit for _, curve in named if curve.kind == kind)
    return f"|τ| in {unit}" if kind == "deformation" else unit


def _legend(made: Figure, axis: Axes, curves: Sequence[StabilityCurve]) -> None:
    """Name the lines below the panels, and what dashes and dots mean where there are any."""
    from matplotlib.lines import Line2D

    handles, labels = axis.get_legend_handles_labels()
    styles = (("same label", "--", "same_label"), ("any label", ":", "all_label"))
    for label, style, field in styles:
        if any(getattr(curve, field) for curve in curves):
            handles.append(Line2D([], [], color="#666666", linestyle=style, linewidth=1))
            labels.append(label)
    where = "outside lower center"
    made.legend(handles, labels, fontsize=8, frameon=False, loc=where, ncols=min(4, len(labels)))
