"""The figures of an analysis: which of its rows they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from merkhet.unit_prior.analysis.result import Analysis, Measured, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("survival", "kurtosis", "std", "penalty", "joint")
MOST_CURVES = 6
GAUSSIAN = ("Gaussian", 3.0)

Item = TypeVar("Item")


def figures(found: Analysis) -> dict[str, Figure]:
    """Return the figures that an analysis can have, by name; see `Analysis.plots`.

    Args:
        found: The analysis.
    """
    from merkhet.unit_prior.pictures import plot_joint, plot_penalty

    made = {}
    if found.curves or found.samples:
        made["survival"] = _survival(found)
    weighted = [row for row in found.rows if row.weighted or not row.path] or list(found.rows)
    for name, reference in (("kurtosis", GAUSSIAN), ("std", None)):
        drawn = _by_depth(name, weighted, reference)
        if drawn is not None:
            made[name] = drawn
    if found.law is not None and found.law.spec.layers > 1:
        made["penalty"] = plot_penalty(found.law, found.law.spec.layers)
        made["joint"] = plot_joint(found.law, found.law.spec.layers)
    return made


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items, evenly spaced, the first and the last among them.

    Args:
        items: In their order.
        most: 2 or more.
    """
    if len(items) <= most:
        return list(items)
    places = (round(at * (len(items) - 1) / (most - 1)) for at in range(most))
    return [items[place] for place in places]


def _survival(found: Analysis) -> Figure:
    """Draw exact curves, and samples."""
    from merkhet.unit_prior.pictures import plot_survival

    slopes = {
        row.path: row.theta
        for row in found.rows
        if row.theta is not None and row.path in found.curves
    }
    named = {path: path or "output" for path in (*found.curves, *found.samples)}
    return plot_survival(
        {named[path]: curve for path, curve in found.curves.items()},
        {named[path]: sample for path, sample in found.samples.items() if sample.any()},
        {named[path]: theta for path, theta in slopes.items()},
    )


def _by_depth(name: str, rows: Sequence[Row], reference: tuple[str, float] | None) -> Figure | None:
    """Draw a number of rows by depth, with its intervals where it has them; None without any."""
    from merkhet.unit_prior.pictures import plot_by_depth

    given: list[Measured] = [getattr(row, name) for row in rows]
    values = [math.nan if one.value is None else one.value for one in given]
    if not any(map(math.isfinite, values)):
        return None
    words = "estimates from samples" if any(one.interval for one in given) else "exact"
    ends = [one.interval or (value, value) for one, value in zip(given, values, strict=True)]
    return plot_by_depth(
        {words: values},
        f"{name} of a unit",
        places=[row.path or "output" for row in rows],
        intervals={words: ends},
        reference=reference,
    )
