"""What an analysis of units found: a row for each place, as a table, JSON and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from merkhet.unit_prior.prior import UnitPrior

HEADS = ("place", "operation", "units", "theta", "std", "kurtosis")
LEGEND = (
    "theta: P(|u| > t) ~ exp(-t^(1/theta)) in the limit, by rule; theta(p): the local index at "
    "probability p, which is what can be seen"
)


@dataclass(frozen=True)
class Measured:
    """A number of a unit, or why there is none.

    Attributes:
        value: The number; None where there is none.
        interval: (low, high) at 95 % of an estimate from a sample; None of what is exact.
        note: Why there is none, or what else must be known.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.interval is None:
            return f"{self.value:.4g}"
        return f"{self.value:.3g} [{self.interval[0]:.3g}, {self.interval[1]:.3g}]"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it: what is not finite is null."""
        interval = None if self.interval is None else [_plain(end) for end in self.interval]
        return {"value": _plain(self.value), "interval": interval, "note": self.note}


@dataclass(frozen=True)
class Row:
    """One place of a network: what the prior says about one of its units.

    Attributes:
        path: Path of the module whose output it is; "g_2", "h_2" of a prior without a network.
        operation: Class of the module.
        units: Entries of the output for one input.
        weighted: Whether it is the output of weights, not what comes after them.
        theta: Asymptotic tail parameter: inf of tails heavier than every exp(-t^(1/theta));
            None where the rule knows none.
        bound: Whether `theta` is only an upper bound.
        index: Of tails that are powers, their index; None of others.
        reason: How `theta` comes about, or why it is not known.
        std: Standard deviation.
        kurtosis: Fourth central moment over the variance squared: 3 of a Gaussian.
        effective: The local index at probabilities, by probability.
        zero: P(u = 0).
        method: How the numbers were found, in words.
    """

    path: str
    operation: str
    units: int
    weighted: bool
    theta: float | None
    bound: bool
    index: float | None
    reason: str
    std: Measured
    kurtosis: Measured
    effective: Mapping[float, Measured]
    zero: Measured
    method: str

    @property
    def tail(self) -> str:
        """The asymptotic tail parameter in words: "1.5", "<= 1.5", "inf (index 3)", "unknown"."""
        if self.theta is None:
            return "unknown"
        index = "" if self.index is None else f" (index {self.index:g})"
        return f"{'<= ' if self.bound else ''}{self.theta:g}{index}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON takes it: what is not finite is null."""
        return {
            "path": self.path,
            "operation": self.operation,
            "units": self.units,
            "weighted": self.weighted,
            "theta": None if self.theta is None else _plain(self.theta),
            "tail": self.tail,
            "upper_bound": self.bound,
            "index": self.index,
            "reason": self.reason,
            "std": self.std.to_dict(),
            "kurtosis": self.kurtosis.to_dict(),
            "effective": {f"{at:g}": one.to_dict() for at, one in self.effective.items()},
            "zero": self.zero.to_dict(),
            "method": self.method,
        }


@dataclass(frozen=True)
class Analysis:
    """What a prior on weights says about units of a network, for one input.

    All tails here are over draws of the weights, of one unit at one input. Those of a trained
    network over its inputs are another thing.

    Attributes:
        rows: A row for each place, in the network's order.
        prior: The prior on weights, in words.
        n: Draws of the weights, where there was no exact law.
        notes: What else must be known.
        curves: Exact survival of a few places: t (k,) and log P(|u| > t) (k,), by path.
        samples: Draws (n,) of one unit of a few places, by path.
        law: The exact prior of the units, where the network is a chain; None otherwise.
    """

    rows: tuple[Row, ...]
    prior: str
    n: int
    notes: tuple[str, ...] = ()
    curves: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    samples: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    law: UnitPrior | None = field(default=None, repr=False)

    def row(self, path: str) -> Row:
        """Return the row of a place.

        Raises:
            InputError: There is none; names the nearest.
        """
        from merkhet.core.errors import choose

        by_path = {row.path: row for row in self.rows}
        return by_path[choose("place", path, by_path)]

    def __str__(self) -> str:
        """Return a table, then what must be known."""
        at = list(self.rows[0].effective)
        heads = (*HEADS, *(f"theta({one:g})" for one in at), "P(u = 0)", "method", "why theta")
        table = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([*lines, f"weights: {self.prior}", LEGEND, *self.notes, *self._reasons()])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but curves and samples as JSON takes it; inf and NaN are null."""
        return {
            "prior": self.prior,
            "n": self.n,
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }

    def plots(self) -> dict[str, Figure]:
        """Return the figures that these rows can have, by name.

        "survival" on Weibull paper, "kurtosis" and "std" by depth; "penalty" and "joint" of the
        last place, where the law is exact and the place is deeper than the first layer.
        """
        from merkhet.unit_prior.analysis.figures import figures

        return figures(self)

    def save(self, folder: Path | str) -> list[Path]:
        """Write analysis.json and a PNG for each figure, each whole or not at all.

        In a folder with an analysis.json, figures of it that this one lacks are removed.

        Args:
            folder: Where to; made if it is not there.

        Returns:
            The files.
        """
        from merkhet.core.files import atomic_file, write_text
        from merkhet.unit_prior.analysis.figures import NAMES

        files = [Path(folder) / "analysis.json"]
        earlier = {Path(folder) / f"{name}.png" for name in NAMES if files[0].exists()}
        write_text(files[0], json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        for name, made in self.plots().items():
            files.append(Path(folder) / f"{name}.png")
            with atomic_file(files[-1]) as aside:
                made.savefig(aside, format="png", dpi=110)
        for stale in earlier - set(files):
            stale.unlink(missing_ok=True)
        return files

    def _reasons(self) -> list[str]:
        """Return why numbers are missing, each reason once, with its first place."""
        found: dict[str, str] = {}
        for row in self.rows:
            unknown = (row.reason,) if row.theta is None else ()
            given = (row.std, row.kurtosis, row.zero, *row.effective.values())
            for note in (*unknown, *(one.note for one in given)):
                found.setdefault(note, row.path or "output")
        return [f"{path}: {note}" for note, path in found.items() if note]


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row as text."""
    measured = (row.std, row.kurtosis, *row.effective.values(), row.zero)
    names = (row.path or "output", row.operation, f"{row.units:,}", row.tail)
    return (*names, *map(str, measured), row.method, "" if row.theta is None else row.reason)


def _plain(value: float | None) -> float | None:
    """Return a number that JSON has, None for others."""
    return value if value is not None and math.isfinite(value) else None
