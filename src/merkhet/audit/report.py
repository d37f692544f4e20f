"""The report: what an audit found, as an object, as JSON, as a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from merkhet.audit.case import Case, Given, given
from merkhet.audit.gates import FAILS, OPEN, Verdict, judge, known_gates
from merkhet.core.errors import InputError
from merkhet.report import Finding, Section, Subject
from merkhet.report.record import machine, versions

MOST_FINDINGS = 10
FROM_PYTHON = "network, inputs, labels, preprocess = report.given()  # `report` is the audit's"


@dataclass(frozen=True)
class Timing:
    """How long a check took, and how long it was to take at most, in seconds."""

    seconds: float
    share: float


@dataclass(frozen=True, repr=False)
class Report:
    """What an audit found.

    Attributes:
        subject: The network and data that were audited.
        sections: What each check gave back, by its name, in the order they ran.
        skipped: Why each check that did not run was left out, by its name.
        failed: Checks that broke, with the error: a fault of merkhet to be reported.
        seconds: How long the audit took.
        started: When it started, ISO 8601 in UTC.
        settings: Sample size, seed and budget, and a digest of the sample.
        about: What else a reader should know of the network and of how this was made: where its
            weights are from, the command that repeats the audit.
        timings: How long each check took, of which share.
        interrupted: Whether the audit was stopped before its end; `skipped` says what is missing.
        verdicts: What became of the limits that the audit was given.
        setup: Lines that define the names which the code of findings uses.
    """

    subject: Subject
    sections: dict[str, Section]
    skipped: dict[str, str]
    failed: dict[str, str]
    seconds: float
    started: str
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    interrupted: bool = False
    verdicts: tuple[Verdict, ...] = ()
    setup: str = FROM_PYTHON

    @property
    def every_finding(self) -> list[Finding]:
        """The findings of all checks, the weightiest first."""
        every = [finding for section in self.sections.values() for finding in section.findings]
        return sorted(every, key=lambda finding: -finding.weight)

    @property
    def findings(self) -> list[Finding]:
        """The weightiest findings, ten at most."""
        return self.every_finding[:MOST_FINDINGS]

    def numbers(self) -> dict[str, float]:
        """Return every figure and the value of every finding, by name."""
        found = {finding.name: finding.value for finding in self.every_finding}
        for section in self.sections.values():
            found |= section.figures
        return found

    def judged(self, limits: str | Iterable[str]) -> Report:
        """Return the report with verdicts on limits such as "stability(rotation,10)>0.3".

        Raises:
            InputError: A text that is no limit, or a name that no check gives.
        """
        from merkhet.audit.run import find_checks

        every = find_checks()
        gates = known_gates(limits, every, every)
        return replace(self, verdicts=tuple(judge(gate, self, every) for gate in gates))

    def failing(self, limits: str | Iterable[str]) -> list[Verdict]:
        """Return the verdicts of the limits that the report fails.

        Args:
            limits: Such as ["stability(rotation,10)>0.3", "accuracy<0.9"].

        Raises:
            InputError: A text that is no limit, a name that is not there, or a limit that is not
                decided because its check was left out: it has not been kept.
        """
        verdicts = self.judged(limits).verdicts
        undecided = [verdict.sentence for verdict in verdicts if verdict.outcome == OPEN]
        if undecided:
            raise InputError("; ".join(undecided))
        return [verdict for verdict in verdicts if verdict.outcome == FAILS]

    def given(self) -> Given:
        """Return network, inputs, labels and preparation, as the code of findings uses them.

        Of data without labels, `labels` are the classes that the network predicts.
        """
        subject = self.subject
        return given(subject.module, subject.inputs, subject.labels, subject.preprocess)

    def of_case(self, case: Case) -> Report:
        """Return the report of an audit that the command line named, with its setup filled in."""
        sections = {
            name: replace(section, findings=tuple(_filled(one, case) for one in section.findings))
            for name, section in self.sections.items()
        }
        return replace(self, setup=case.setup(), sections=sections)

    def __repr__(self) -> str:
        lines = [f"Report on {self.subject.name}, {self.seconds:.1f} s"]
        return "\n- ".join([*lines, *(finding.sentence for finding in self.findings)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it, without its pictures."""
        return {
            "setup": self.setup,
            "network": self.subject.name,
            "data": self.subject.data,
            "about": self.about,
            "graph": {
                "source": self.subject.network.source,
                "reason": self.subject.network.reason,
                "operations": len(self.subject.network.nodes),
            },
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "settings": self.settings,
            "machine": machine(),
            "versions": versions(),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "findings": [asdict(finding) for finding in self.findings],
            "sections": {name: _plain(section) for name, section in self.sections.items()},
            "timings": {name: asdict(timing) for name, timing in self.timings.items()},
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def render(self) -> str:
        """Return the page as HTML."""
        from merkhet.audit.page import render

        return render("page.html.j2", report=self, subject=self.subject, data=self.to_dict())

    def write(self, path: Path | str) -> tuple[Path, Path]:
        """Write the page to `path` and its JSON beside it; return both paths.

        Raises:
            InputError: `path` does not end in .html, or nothing can be written there.
        """
        from merkhet.audit.page import write_report

        return write_report(self, path)


class Interrupted(KeyboardInterrupt):
    """An audit that Ctrl-C or a signal stopped; `report` holds what was done until then."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{len(report.sections)} checks were done")
        self.report = report


def _plain(section: Section) -> dict[str, Any]:
    """Return a section as JSON has it: all its findings, no tables, no pictures."""
    return {
        "title": section.title,
        "summary": section.summary,
        "figures": section.figures,
        "findings": [asdict(finding) for finding in section.findings],
        "notes": section.notes,
    }


def _filled(finding: Finding, case: Case) -> Finding:
    """Return a finding whose command names the case's MODEL and DATA."""
    if not finding.code.startswith("merkhet "):
        return finding
    model, data = case.options()
    words = {"MODEL": model, "DATA": data}
    code = " ".join(words.get(word, word) for word in finding.code.split(" "))
    return replace(finding, code=code)
