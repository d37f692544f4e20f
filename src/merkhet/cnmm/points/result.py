"""Operating points: networks of one mixture, each the best found at its cost, as a table and JSON.

How they are chosen and measured: `points.operating_points`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merkhet.cnmm.costs import UNITS
from merkhet.cnmm.nodes import Nodes, parse_nodes, written
from merkhet.cnmm.points.budgets import Minimum, fits
from merkhet.core.errors import InputError, choose

KINDS = {"paths": "network", "node_sets": "node set"}
METRICS = ("accuracy", "mean IoU")
EACH = {"multiply_adds": " for one picture", "latency": " for one batch", "parameters": ""}
HEADS = ("nodes", "cost", "parameters", "log p", "validation", "test", "95 %")


@dataclass(frozen=True)
class OperatingPoint:
    """One network, or one mixture of the networks among some nodes.

    Attributes:
        nodes: Its path, or its node set.
        cost: In the unit of the cost table.
        log_probability: Log p of the network; of a node set, of all its networks together.
        parameters: Of the network, batch norms folded.
        validation: Score on the validation data, by which it was chosen: in [0, 1], optimistic.
        test: Score on the test data, measured once, after all choices.
        interval: Of `test`, at 95 %; None of a single picture's mean IoU.
    """

    nodes: Nodes
    cost: float
    log_probability: float
    parameters: int
    validation: float
    test: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class OperatingPoints:
    """The points that one training gives: a dearer one is better, on validation data.

    Attributes:
        points: By cost, rising.
        kind: "paths" or "node_sets".
        by: What costs are: "multiply_adds", "parameters" or "latency".
        metric: What scores are: "accuracy" or "mean IoU".
        counts: How many nodes each stage of the mixture has.
        notes: What else must be known.
    """

    points: tuple[OperatingPoint, ...]
    kind: str
    by: str
    metric: str
    counts: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Of costs, in words."""
        return UNITS[self.by]

    def within(self, budget: float) -> OperatingPoint:
        """Return the best point, by validation, that costs a budget or less.

        Args:
            budget: In the unit of the costs.

        Raises:
            InputError: There is none; names the cheapest.
        """
        first = self.points[0]
        Minimum(KINDS[self.kind], first.nodes, first.cost, self.unit).check(budget)
        return [one for one in self.points if fits(one.cost, budget)][-1]

    def __str__(self) -> str:
        """Return a table, then what must be known."""
        table = [HEADS, *(self._cells(one) for one in self.points)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        kind = self.kind.replace("_", " ")
        legend = f"{kind}; cost: {self.unit}{EACH[self.by]}; scores: {self.metric}"
        return "\n".join([*lines, legend, *self.notes])

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        found = asdict(self) | {"points": [self._row(one) for one in self.points]}
        return json.dumps(found, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> OperatingPoints:
        """Return the points that `to_json` wrote.

        Raises:
            InputError: `text` is something else.
        """
        try:
            found = json.loads(text)
            counts = tuple(map(int, found["counts"]))
            points = tuple(_point(row, counts) for row in found["points"])
            names = (found["kind"], found["by"], found["metric"])
            made = cls(points, *names, counts, _texts(found["notes"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(
                f"this is not the JSON of operating points ({error}): give what to_json wrote"
            ) from error
        return _checked(made)

    @classmethod
    def load(cls, path: Path | str) -> OperatingPoints:
        """Return the points in a file that holds what `to_json` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It holds something else.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # not text, or not points
            raise InputError(f"{path}: {error}") from error

    def _row(self, point: OperatingPoint) -> dict[str, Any]:
        """Return a point as JSON takes it."""
        return asdict(point) | {"nodes": written(point.nodes)}

    def _cells(self, point: OperatingPoint) -> tuple[str, ...]:
        """Return a point as text."""
        cost = f"{point.cost:.4g}" if self.by == "latency" else f"{point.cost:,.0f}"
        ends = point.interval
        return (
            written(point.nodes),
            cost,
            f"{point.parameters:,}",
            f"{point.log_probability:.3g}",
            f"{point.validation:.4f}",
            f"{point.test:.4f}",
            "-" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]",
        )


def _point(row: dict[str, Any], counts: Sequence[int]) -> OperatingPoint:
    """Return the point that a row of JSON tells of."""
    low_high = row["interval"]
    return OperatingPoint(
        parse_nodes(row["nodes"], counts),
        float(row["cost"]),
        float(row["log_probability"]),
        int(row["parameters"]),
        float(row["validation"]),
        float(row["test"]),
        None if low_high is None else (float(low_high[0]), float(low_high[1])),
    )


def _texts(found: object) -> tuple[str, ...]:
    """Return the notes of JSON, checked."""
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError("notes are a list of texts")
    return tuple(found)


def _checked(points: OperatingPoints) -> OperatingPoints:
    """Return points read from a file, if there are some, by finite cost, of known kinds."""
    choose("kind of operating points", points.kind, KINDS)
    choose("cost", points.by, UNITS)
    choose("metric", points.metric, METRICS)
    costs = [one.cost for one in points.points]
    if not costs or costs != sorted(costs) or not all(map(math.isfinite, costs)):
        raise InputError(
            "operating points are one or more, by rising cost: give what to_json wrote"
        )
    return points
