"""Operating points of mixtures beside networks that were trained alone: figures, goals, picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from merkhet.cnmm.nodes import written
from merkhet.cnmm.points.result import OperatingPoint, OperatingPoints
from merkhet.report import Trial

GAP, SPREAD, COUNT, STEP = 1.0, 5.0, 8, 2.0  # the goals


@dataclass(frozen=True)
class Compared:
    """What was found, one entry a seed where it is a sequence.

    Attributes:
        points: Of each mixture.
        alone: Test accuracies, by "alone NODES SEED" and "width FACTOR SEED".
        drawn: For each point the accuracies of random paths of its cost.
        widths: Of the narrower networks.
        timed: Measured seconds, by "point NODES" of the first mixture and "width FACTOR".
        steps: Seconds of a training step by name, and "ratio".
    """

    points: Sequence[OperatingPoints]
    alone: Mapping[str, float]
    drawn: Sequence[Sequence[Sequence[float]]]
    widths: Sequence[float]
    timed: Mapping[str, float]
    steps: Mapping[str, float]

    def by_itself(self, one: OperatingPoint, seed: int = 0) -> float:
        """Return the accuracy of a point's network, trained alone."""
        return self.alone[f"alone {written(one.nodes)} {seed}"]

    def seconds(self, one: OperatingPoint) -> float:
        """Return the measured latency of a point of the first mixture."""
        return self.timed[f"point {written(one.nodes)}"]


def tell(trial: Trial, found: Compared) -> None:
    """Record every point, and what it is held against."""
    for seed, points in enumerate(found.points):
        mark = f", seed {seed}" if len(found.points) > 1 else ""
        for one in points.points:
            name = f"point {written(one.nodes)}{mark}"
            low, high = one.interval or (one.test, one.test)
            trial.figure(f"{name}: test accuracy", 100 * one.test, "%", (100 * low, 100 * high))
            trial.figure(f"{name}: latency, predicted", 1e3 * one.cost, "ms")
        for one, drawn in zip(points.points, found.drawn[seed], strict=True):
            name = f"{written(one.nodes)}{mark}"
            trial.figure(f"alone {name}", 100 * found.by_itself(one, seed), "%")
            if drawn:
                trial.figure(f"random, at {name}", 100 * sum(drawn) / len(drawn), "%")
        for width in found.widths:
            value = found.alone[f"width {width} {seed}"]
            trial.figure(f"narrower, {width:g}{mark}", 100 * value, "%")
    for name, seconds in found.timed.items():
        trial.figure(f"latency, {name}", 1e3 * seconds, "ms")
    for name, value in found.steps.items():
        trial.figure(name, value)


def judge(trial: Trial, found: Compared) -> None:
    """Record the goals."""
    first = found.points[0].points
    trial.goal("operating points of one training", f"{COUNT}", len(first), len(first) >= COUNT)
    span = found.seconds(first[-1]) / found.seconds(first[0])
    trial.goal("measured latency, dearest over cheapest", f"{SPREAD:g}", span, span >= SPREAD)
    rising = all(one.test <= other.test for one, other in pairwise(first))
    trial.goal("test accuracy rises with cost", "at every point", str(rising), rising)
    gaps = [
        100 * (found.by_itself(one, seed) - one.test)
        for seed, points in enumerate(found.points)
        for one in points.points
    ]
    lost = "points of accuracy lost against the same network trained alone, at most"
    trial.goal(lost, f"{GAP:g}", max(gaps), max(gaps) <= GAP)
    ahead, all_ = _ahead(found)
    enough = all_ > 0 and ahead >= 2 * all_ / 3
    goal = "points ahead of narrower networks of equal latency"
    trial.goal(goal, "two thirds", f"{ahead} of {all_}", enough)
    ratio = found.steps["ratio"]
    step = "training step over one of the longest chain, on average"
    trial.goal(step, f"{STEP:g}", ratio, ratio <= STEP)


def draw(found: Compared, axis_name: str) -> Any:
    """Draw accuracy against measured latency.

    Args:
        found: What was found.
        axis_name: Of the horizontal axis.
    """
    from merkhet.cnmm.pictures import plain_ticks
    from merkhet.report.figures import COLOURS, figure

    points = found.points[0].points
    rows = {
        "one mixture, one training": ([(found.seconds(one), one.test) for one in points], "o-"),
        "the same networks, trained alone": (
            [(found.seconds(one), found.by_itself(one)) for one in points],
            "s",
        ),
        "narrower networks, trained alone": (_narrower(found), "^--"),
    }
    made, (axis,) = figure(width=6.4, height=4.2)
    for (name, (pairs, style)), colour in zip(rows.items(), COLOURS, strict=False):
        x, y = zip(*pairs, strict=True)
        scaled = ([1e3 * seconds for seconds in x], [100 * score for score in y])
        axis.plot(*scaled, style, color=colour, label=name)
    axis.set(xscale="log", xlabel=axis_name, ylabel="test accuracy, %")
    axis.legend(frameon=False)
    plain_ticks(axis)
    return made


def _narrower(found: Compared) -> list[tuple[float, float]]:
    """Return seconds and accuracy of the narrower networks, the quickest first."""
    names = [f"width {width}" for width in found.widths]
    return sorted((found.timed[name], found.alone[f"{name} 0"]) for name in names)


def _ahead(found: Compared) -> tuple[int, int]:
    """Return how many points within the narrower networks' latencies are above them, and all."""
    seconds, scores = zip(*_narrower(found), strict=True)
    logs = [math.log(one) for one in seconds]
    spent = [(math.log(found.seconds(one)), one.test) for one in found.points[0].points]
    inside = [(log, score) for log, score in spent if logs[0] <= log <= logs[-1]]
    return sum(score > np.interp(log, logs, scores) for log, score in inside), len(inside)
