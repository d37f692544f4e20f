"""The audit itself: checks in order of cost, within a time budget, findings by weight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from merkhet.audit.sample import Inputs
from merkhet.audit.subject import make_subject
from merkhet.core import discovery
from merkhet.core.errors import InputError, choose
from merkhet.report import Check, Finding, Section, Subject
from merkhet.report.record import machine, now, versions

MOST_FINDINGS = 10
LONGEST = 1e6  # seconds, as good as no limit


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
        settings: Sample size, seed and budget.
        about: What else a reader should know of the network and of how this was made: where its
            weights are from, the command that repeats the audit.
    """

    subject: Subject
    sections: dict[str, Section]
    skipped: dict[str, str]
    failed: dict[str, str]
    seconds: float
    started: str
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """The findings of all checks, the weightiest first, ten at most."""
        every = [finding for section in self.sections.values() for finding in section.findings]
        return sorted(every, key=lambda finding: -finding.weight)[:MOST_FINDINGS]

    def __repr__(self) -> str:
        lines = [f"Report on {self.subject.name}, {self.seconds:.1f} s"]
        return "\n- ".join([*lines, *(finding.sentence for finding in self.findings)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it, without its pictures."""
        return {
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
            "settings": self.settings,
            "machine": machine(),
            "versions": versions(),
            "findings": [asdict(finding) for finding in self.findings],
            "sections": {
                name: {
                    "title": section.title,
                    "summary": section.summary,
                    "figures": section.figures,
                    "notes": section.notes,
                }
                for name, section in self.sections.items()
            },
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def write(self, path: Path | str) -> tuple[Path, Path]:
        """Write the page to `path` and its JSON beside it; return both paths.

        Raises:
            InputError: `path` does not end in .html.
        """
        from merkhet.audit.page import write_report

        return write_report(self, path)


def audit(
    module: nn.Module,
    data: Inputs,
    *,
    name: str | None = None,
    preprocess: Callable[[Any], Any] | None = None,
    checks: Iterable[str] | None = None,
    samples: int = 256,
    seconds: float = 120.0,
    seed: int = 0,
    tell: Callable[[str], object] = lambda line: None,
) -> Report:
    """Audit a network on data.

    Args:
        module: The network; it is left as found.
        data: What it is audited on: the name or path of a data set (as `merkhet.data.load`
            takes it), `Pictures`, a torch `Dataset` or `DataLoader` whose items are (input,
            label), a tensor of inputs, or a pair (inputs, labels). Pictures are
            (count, channels, height, width) in [0, 1], signals (count, channels, length),
            tokens (count, length) int64.
        name: What the report calls the network; by default its class.
        preprocess: Maps inputs to what the network expects, for example normalisation.
        checks: Names of the checks to run; by default all.
        samples: Inputs drawn from the data, by `seed`.
        seconds: Time budget: cheap checks come first, and what does not fit is left out and
            named.
        seed: Seed of everything random.
        tell: Called with a line of progress before each check, such as `print`.

    Returns:
        The report; `write` makes the page.

    Raises:
        InputError: The network does not run on the data, returns NaN, or a name is wrong.
    """
    if not seconds >= 0 or not 0 <= seed < 2**63:
        raise InputError(f"seconds {seconds} and seed {seed}: give numbers from 0 on")
    seconds = min(seconds, LONGEST)
    started, start = now(), time.perf_counter()
    chosen = find_checks(checks)
    subject = make_subject(
        module, data, name=name, preprocess=preprocess, samples=samples, seed=seed
    )
    sections: dict[str, Section] = {}
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    for place, check in enumerate(chosen):
        left = seconds - (time.perf_counter() - start)
        refusal = check.refuse(subject)
        if refusal and check.quiet and checks is None:
            continue
        refusal = refusal or _too_late(check, left)
        if refusal:
            skipped[check.name] = refusal
            continue
        share = left / (len(chosen) - place)
        tell(f"{check.name}: up to {share:.0f} s")
        try:
            sections[check.name] = check.run(subject, share)
        except InputError as error:
            skipped[check.name] = str(error)
        except Exception as error:  # one broken check must not cost the others
            failed[check.name] = f"{type(error).__name__}: {error}"
    settings = {"samples": len(subject.inputs), "seed": seed, "budget_seconds": seconds}
    spent = time.perf_counter() - start
    return Report(subject, sections, skipped, failed, spent, started, settings)


def find_checks(names: Iterable[str] | None = None) -> list[Check]:
    """Return the checks that packages offer, cheapest first.

    Raises:
        InputError: A name is not that of a check.
    """
    every = {
        check.name: check
        for module in discovery.parts("checks").values()
        for check in module.CHECKS
    }
    names = [names] if isinstance(names, str) else names
    chosen = every if names is None else {choose("check", name, every) for name in names}
    return sorted((every[name] for name in chosen), key=lambda check: (check.seconds, check.name))


def _too_late(check: Check, left: float) -> str | None:
    """Say that a check no longer fits the budget, or return None."""
    if left >= check.seconds:
        return None
    return f"needs about {check.seconds:.0f} s and {max(left, 0):.0f} s of the budget are left"
