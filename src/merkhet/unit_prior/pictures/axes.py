"""Axes that read well: names of places where they fit, few and plain numbers, no offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merkhet.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDE = 20.0  # largest over smallest from which an axis is logarithmic
FLAT = 0.1  # least height of a linear axis, of its largest value: smaller differences are no shape
LEVEL = 60  # letters of all names together that stand side by side
UPRIGHT = 30  # names that stand on end
LONGEST = 28  # letters of such a name
LETTER = 0.075  # inches that a letter of it takes


def name_places(made: Figure, axis: Axes, names: Sequence[str]) -> None:
    """Label places 1, 2, ... by their names where these fit, by numbers elsewhere.

    For names that stand on end the figure grows.

    Args:
        made: The figure.
        axis: Of which the horizontal axis counts places.
        names: Of the places; empty for numbers.
    """
    from matplotlib.ticker import MaxNLocator

    from merkhet.report.figures import label

    axis.set_xlabel("place in the network, from the input")
    longest = max(map(len, names), default=0)
    if not names or len(names) > UPRIGHT or longest > LONGEST:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    level = sum(map(len, names)) + 2 * len(names) <= LEVEL
    if not level:
        made.set_figheight(made.get_figheight() + LETTER * longest)
    axis.set_xticks(
        range(1, len(names) + 1),
        [label(name) for name in names],
        fontsize=8,
        rotation=0 if level else 90,
    )


def scale_values(axis: Axes, values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic where values above 0 are far apart, or else linear.

    Args:
        axis: On which the values are drawn already.
        values: Of which those that are not finite are not looked at.

    Raises:
        InputError: None is finite.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise InputError("no finite value to draw by depth: give at least one")
    if min(finite) > 0 and max(finite) > WIDE * min(finite):
        axis.set_yscale("log")
        plain_logs(axis.yaxis, *axis.get_ylim())
        return
    axis.ticklabel_format(axis="y", useOffset=False)
    low, high = axis.get_ylim()
    least = FLAT * max(map(abs, finite))
    if high - low < least:
        axis.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def plain_logs(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis of under two decades by few plain numbers; leave a longer one.

    Args:
        axis: The axis.
        low: Where it begins, above 0.
        high: Where it ends.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    decades = math.log10(high / low)
    if decades >= 2:
        return
    few = LogLocator(subs=(1.0, 2.0, 5.0)) if decades > 0.7 else MaxNLocator(4)
    axis.set_major_locator(few)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
