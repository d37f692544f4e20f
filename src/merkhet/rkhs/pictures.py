"""Figures: factors of a Lipschitz bound, certified accuracy, perturbations that flip a class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merkhet.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from merkhet.rkhs.bracket import Bracket
    from merkhet.rkhs.rules_state import Part

MOST_BARS = 30
ROW = 0.22  # inches of one bar
LONGEST = 20  # letters of a class name above a picture


def plot_bracket(bracket: Bracket) -> Figure:
    """Return a figure of the factors of a bound, a bar for each part, on a logarithmic axis.

    Bars to the right of 1 widen the bound, those to the left of it narrow it. Of a network of
    many parts those that are furthest from 1 are shown.

    Args:
        bracket: With parts.

    Raises:
        InputError: No part has a factor that is finite and above 0.
    """
    from merkhet.report.figures import figure, label

    parts = _shown(bracket.parts)
    if not parts:
        raise InputError("the bracket has no parts with a finite factor: there is nothing to draw")
    made, axes = figure(width=6.4, height=0.8 + ROW * len(parts))
    axis, places = axes[0], list(range(len(parts), 0, -1))
    widths = [part.factor - 1 for part in parts]  # a bar begins at 1, which changes nothing
    axis.barh(places, widths, left=1, height=0.7)
    for place, part in zip(places, parts, strict=True):
        side = "left" if part.factor >= 1 else "right"
        shift = 3 if part.factor >= 1 else -3
        axis.annotate(
            f"{part.factor:.3g}",
            (part.factor, place),
            (shift, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=7,
        )
    names = [label(f"{part.path or 'input'}: {part.operation}") for part in parts]
    axis.set_yticks(places, names, fontsize=7)
    low, high = (bound(part.factor for part in parts) for bound in (min, max))
    axis.set(xscale="log", xlabel="factor of the upper bound")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")  # where the bars carry their numbers
    room = (max(high, 1) / min(low, 1)) ** 0.15 * 2  # for the numbers beside the bars
    axis.set_xlim(min(low, 1) / (room if low < 1 else 2), max(high, 1) * room)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.grid(visible=False, axis="y")
    return made


def plot_accuracy(
    radii: Mapping[str, Tensor], *, unit: str = "pixels of [0, 1]", share: str = "accuracy"
) -> Figure:
    """Return a figure of accuracy against the radius: the share of examples that stand beyond it.

    With certified radii the curve lies below the robust accuracy of the sample, with lengths of
    perturbations that flip an example above it.

    Args:
        radii: By the name that the legend shows, radii (n,): 0 where the prediction is wrong,
            infinite where no perturbation was found.
        unit: Of the radii.
        share: What the share of examples is called.

    Raises:
        InputError: No radii.
    """
    from merkhet.report.figures import figure, label

    if not radii or not all(found.numel() for found in radii.values()):
        raise InputError("no radii to draw: give at least one, as in {'certified': radii}")
    made, axes = figure(width=5.2)
    largest = max(map(_reach, radii.values()))
    for name, found in radii.items():
        _draw_survival(axes[0], found.detach().double().cpu(), largest, label(name))
    axes[0].set(xlabel=f"l2 radius in {unit}", ylabel=share)
    axes[0].set(xlim=(0, largest), ylim=(0, 1.02))
    axes[0].legend(frameon=False, fontsize=8)
    return made


def plot_flips(
    originals: Tensor, perturbations: Tensor, before: Sequence[str], after: Sequence[str]
) -> Figure:
    """Return a figure with a row for each picture: as it is, what was added, and the sum.

    A perturbation is shown scaled to fill the range of grey or colour, about the middle.

    Args:
        originals: (n, channels, height, width) in [0, 1], at most 8; the first 3 channels of
            other than grey pictures are shown.
        perturbations: (n, channels, height, width), as they were added.
        before: The classes predicted for the pictures.
        after: Those predicted for the sums.

    Raises:
        InputError: Shapes or counts that do not fit together.
    """
    from merkhet.report.figures import figure, label

    count = len(originals)
    fits = originals.dim() == 4 and originals.shape == perturbations.shape
    if not fits or not 1 <= count <= 8 or len(before) != count or len(after) != count:
        raise InputError(
            f"{tuple(originals.shape)} pictures, {tuple(perturbations.shape)} perturbations, "
            f"{len(before)} and {len(after)} classes: give 1 to 8 of each, of one shape"
        )
    made, axes = figure(count, 3, width=1.6, height=1.7)
    for row in range(count):
        added = perturbations[row]
        scale = 0.5 / float(added.abs().max().clamp(min=1e-30))
        columns = (originals[row], 0.5 + scale * added, originals[row] + added)
        titles = (before[row], f"length {float(added.norm()):.2g}", after[row])
        for axis, picture, title in zip(axes[3 * row :], columns, titles, strict=False):
            _draw_picture(axis, picture)
            axis.set_title(label(_short(title)), fontsize=8)
    return made


def _shown(parts: Sequence[Part]) -> list[Part]:
    """Return the parts to draw, in their order."""
    finite = [part for part in parts if 0 < part.factor < math.inf]
    away = sorted(finite, key=lambda part: -abs(math.log(part.factor)))[:MOST_BARS]
    kept = {id(part) for part in away}
    return [part for part in finite if id(part) in kept]


def _reach(radii: Tensor) -> float:
    """Return the largest radius to draw: nine tenths of the finite ones lie below it."""
    finite = radii[radii.isfinite()].double()
    reach = float(finite.quantile(0.9)) * 1.3 if len(finite) else 0.0
    return reach or 1.0


def _draw_survival(axis: Axes, radii: Tensor, largest: float, name: str) -> None:
    """Draw the share of radii above each radius, which falls in steps."""
    ordered = radii.sort().values
    edges = torch.cat([torch.zeros(1, dtype=ordered.dtype), ordered.clamp(max=2 * largest)])
    wrong = float((ordered <= 0).double().mean())
    left = 1 - torch.arange(len(ordered) + 1, dtype=ordered.dtype) / len(ordered)
    left = left.clamp(max=1 - wrong)  # those that are wrong as they are count at no radius
    axis.step(edges.numpy(), left.numpy(), where="post", label=name)


def _short(name: str) -> str:
    """Return a name that fits above a small picture."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _draw_picture(axis: Axes, picture: Tensor) -> None:
    """Show one picture (channels, height, width), grey or in colour."""
    shown = picture.detach().cpu().float().clamp(0, 1)
    shown = shown[:3] if len(shown) >= 3 else shown[:1]
    axis.imshow(shown.movedim(0, -1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
