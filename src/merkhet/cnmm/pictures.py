"""Pictures of operating points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from merkhet.cnmm.points.result import OperatingPoints

AXES = {
    "latency": ("milliseconds", 1e3),
    "multiply_adds": ("million multiply-adds", 1e-6),
    "parameters": ("thousand parameters", 1e-3),
}


def draw_points(found: OperatingPoints) -> Figure:
    """Return score against cost, with intervals of the test scores.

    Args:
        found: The points.
    """
    from merkhet.report.figures import figure

    made, (axis,) = figure(width=6.4, height=4.0)
    draw_curve(axis, found, "test")
    name, _ = AXES[found.by]
    axis.set(xlabel=name, ylabel=f"{found.metric}, %")
    axis.legend(frameon=False)
    if found.points[0].cost > 0:
        axis.set_xscale("log")
        plain_ticks(axis)
    return made


def draw_curve(axis: Any, found: OperatingPoints, label: str, **style: Any) -> None:
    """Draw points on an axis, cost to the right, scores in percent upwards."""
    _, factor = AXES[found.by]
    x = [factor * one.cost for one in found.points]
    y = [100 * one.test for one in found.points]
    ends = [one.interval or (one.test, one.test) for one in found.points]
    axis.fill_between(x, [100 * a for a, _ in ends], [100 * b for _, b in ends], alpha=0.15)
    axis.plot(x, y, "o-", label=label, **style)


def plain_ticks(axis: Any) -> None:
    """Write the numbers of a log axis in full, a few of them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
