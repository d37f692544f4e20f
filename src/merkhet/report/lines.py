"""Lines and points of a record's figures with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merkhet.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_line(
    axis: Axes,
    record: Record,
    places: Sequence[float],
    names: Sequence[str],
    label: str,
    **style: Any,
) -> None:
    """Draw figures of a record as a line with their intervals.

    Args:
        axis: To draw on.
        record: With the figures.
        places: Where each stands on the horizontal axis.
        names: Of the figures.
        label: Of the line.
        style: What matplotlib's errorbar takes, such as its colour.
    """
    values = [record.figures[name].value for name in names]
    drawn = {"marker": "o", "markersize": 3, "capsize": 2, **style}
    axis.errorbar(places, values, _margins(record, names), label=label, **drawn)


def draw_points(axis: Axes, record: Record, labels: Sequence[str], names: Sequence[str]) -> None:
    """Draw figures of a record as points with their intervals, one below the other."""
    values = [record.figures[name].value for name in names]
    places = range(len(names), 0, -1)
    axis.errorbar(values, places, xerr=_margins(record, names), fmt="o", markersize=4, capsize=2)
    axis.set_yticks(list(places), labels)
    axis.grid(visible=False, axis="y")


def _margins(record: Record, names: Sequence[str]) -> list[list[float]]:
    """Return how far intervals reach below and above their values."""
    found = [record.figures[name] for name in names]
    ends = [one.interval or (one.value, one.value) for one in found]
    return [
        [one.value - low for one, (low, _) in zip(found, ends, strict=True)],
        [high - one.value for one, (_, high) in zip(found, ends, strict=True)],
    ]
