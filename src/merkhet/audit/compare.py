"""Two audits side by side: which figures moved, which findings went away, which are new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merkhet.audit.earlier import Audited, read_report

SETTINGS = (
    ("samples", "Inputs"),
    ("seed", "Seed"),
    ("sample", "Sample (digest)"),
    ("budget_seconds", "Budget in seconds"),
)


@dataclass(frozen=True)
class Difference:
    """One figure of two audits.

    Attributes:
        name: Of the figure.
        first: Its value in the first report; None where that has none.
        second: Its value in the second.
    """

    name: str
    first: float | None
    second: float | None

    @property
    def change(self) -> float | None:
        """What the second is more than the first; None where one is missing."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first

    @property
    def relative(self) -> float:
        """How far apart they are, as a share of the larger one in size; 0 where one is missing."""
        larger = max(abs(self.first or 0.0), abs(self.second or 0.0))
        return abs(self.change or 0.0) / larger if larger else 0.0


@dataclass(frozen=True)
class Findings:
    """The findings of two audits, by what became of them.

    Attributes:
        new: In the second report alone, though the first one looked.
        gone: In the first report alone, though the second one looked.
        kept: In both, as pairs.
        open: In one report, where the other did not look: (finding, name of that report's network,
            why not).
    """

    new: tuple[dict[str, Any], ...]
    gone: tuple[dict[str, Any], ...]
    kept: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    open: tuple[tuple[dict[str, Any], str, str], ...]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two reports, as JSON has them, and what is different between them.

    Attributes:
        first: The report before.
        second: The report after.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]

    @property
    def differences(self) -> list[Difference]:
        """The figures of both, those that are furthest apart first, then those of one alone."""
        before, after = _figures(self.first), _figures(self.second)
        found = [Difference(n, before.get(n), after.get(n)) for n in {**before, **after}]
        return sorted(found, key=lambda one: (one.change is None, -one.relative, one.name))

    @property
    def findings(self) -> Findings:
        """What became of the findings."""
        before, after = _findings(self.first), _findings(self.second)
        gone, lost = _missing(before, after, self.second)
        new, unseen = _missing(after, before, self.first)
        kept = tuple((one, after[name][1]) for name, (_, one) in before.items() if name in after)
        return Findings(new, gone, kept, lost + unseen)

    @property
    def conditions(self) -> list[str]:
        """What else differs between the audits, so that figures may differ for it."""
        return [
            f"{what}: {_told(first)} in the first, {_told(second)} in the second"
            for what, first, second in _conditions(self.first, self.second)
            if first != second
        ]

    def __repr__(self) -> str:
        found = self.findings
        return (
            f"{self.first['network']} and {self.second['network']}: {len(self.differences)} "
            f"figures, {len(found.new)} findings new, {len(found.gone)} gone"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON has it, with both reports in it."""
        found = self.findings
        return {
            "conditions": self.conditions,
            "figures": [{**asdict(d), "change": d.change} for d in self.differences],
            "findings": {
                "new": found.new,
                "gone": found.gone,
                "kept": [{"first": one, "second": other} for one, other in found.kept],
                "open": [
                    {"finding": one, "not_in": where, "reason": why}
                    for one, where, why in found.open
                ],
            },
            "first": dict(self.first),
            "second": dict(self.second),
        }

    def render(self) -> str:
        """Return the page as HTML."""
        from merkhet.audit.page import render

        return render("compare.html.j2", comparison=self)

    def write(self, path: Path | str) -> tuple[Path, Path]:
        """Write the page to `path` and its JSON beside it; return both paths.

        Raises:
            InputError: `path` does not end in .html, or nothing can be written there.
        """
        from merkhet.audit.page import write_report

        return write_report(self, path)


def compare(report: Audited, other: Audited) -> Comparison:
    """Compare two audits.

    Args:
        report: The one before: a report, or the path or contents of an earlier one's JSON.
        other: The one after.

    Raises:
        InputError: A file is not there, or is not the JSON of a report.
    """
    return Comparison(read_report(report), read_report(other))


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a report by name."""
    sections = report["sections"].values()
    return {name: value for one in sections for name, value in one["figures"].items()}


def _findings(report: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the findings of a report by name, each with its check; the weightiest first."""
    every = [
        (check, finding)
        for check, section in report["sections"].items()
        for finding in section["findings"]
    ]
    every.sort(key=lambda pair: -pair[1]["weight"])
    return {finding["name"]: (check, finding) for check, finding in every}


def _missing(
    here: Mapping[str, tuple[str, dict[str, Any]]],
    there: Mapping[str, Any],
    report: Mapping[str, Any],
) -> tuple[tuple[dict[str, Any], ...], tuple[tuple[dict[str, Any], str, str], ...]]:
    """Return findings that another report lacks: where it looked, and where it did not."""
    lacking = [pair for name, pair in here.items() if name not in there]
    reasons = {**report["skipped"], **report["failed"]}
    looked = tuple(finding for check, finding in lacking if check in report["sections"])
    unseen = tuple(
        (finding, str(report["network"]), reasons.get(check, f"{check} was not run"))
        for check, finding in lacking
        if check not in report["sections"]
    )
    return looked, unseen


def _conditions(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """Return what an audit depends on besides the network, in both reports."""
    every = [
        ("Data", first["data"], second["data"]),
        *(
            (words, first["settings"].get(key), second["settings"].get(key))
            for key, words in SETTINGS
        ),
        ("Machine", _machine(first), _machine(second)),
        ("Version of torch", first["versions"].get("torch"), second["versions"].get("torch")),
        ("Version of merkhet", first["versions"].get("merkhet"), second["versions"].get("merkhet")),
        ("Stopped before its end", first.get("interrupted"), second.get("interrupted")),
    ]
    return every


def _machine(report: Mapping[str, Any]) -> str:
    """Return a report's machine in words."""
    machine = report["machine"]
    return f"{machine.get('processor')}, {machine.get('cores')} cores, GPU {machine.get('gpu')}"


def _told(value: object) -> str:
    """Return a setting in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
