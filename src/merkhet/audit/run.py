"""The audit itself: checks in order of cost, within a time budget, findings by weight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from merkhet.audit.budget import share, too_late
from merkhet.audit.gates import Gate, judge, known_gates
from merkhet.audit.report import Interrupted, Report, Timing
from merkhet.audit.sample import Inputs, digest
from merkhet.audit.subject import UNSTEADY, make_subject, refuse_classes
from merkhet.core import discovery
from merkhet.core.errors import InputError, choose
from merkhet.report import Check, Section, Subject
from merkhet.report.record import now

__all__ = ["Interrupted", "Report", "audit", "find_checks"]

LONGEST = 1e6  # seconds, as good as no limit
Tell = Callable[[str], object]


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
    fail_on: str | Iterable[str] = (),
    tell: Tell = lambda line: None,
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
        seconds: Time budget of the checks: the cheap ones come first, and what does not fit is
            left out and named. Loading and tracing come before.
        seed: Seed of everything random.
        fail_on: Limits on figures or findings, such as "stability(rotation,10)>0.3"; the report
            has a verdict on each.
        tell: Called with a line of progress before each check, such as `print`.

    Returns:
        The report; `write` makes the page.

    Raises:
        InputError: The network does not run on the data, returns NaN or fewer scores than there
            are classes, or a name is wrong.
        Interrupted: Ctrl-C during the checks; a KeyboardInterrupt whose `report` has what was
            done.
    """
    if not seconds >= 0 or not 0 <= seed < 2**63:
        raise InputError(f"seconds {seconds} and seed {seed}: give numbers from 0 on")
    started, start = now(), time.perf_counter()
    chosen = find_checks(checks)
    every = chosen if checks is None else find_checks()
    gates = known_gates(fail_on, chosen, every)
    subject = make_subject(
        module, data, name=name, preprocess=preprocess, samples=samples, seed=seed
    )
    refuse_classes(subject)
    seconds = min(seconds, LONGEST)
    end = time.perf_counter() + seconds  # loading and tracing are not the checks' time
    settings = {
        "samples": len(subject.inputs),
        "sample": digest(subject.inputs, subject.labels),
        "seed": seed,
        "budget_seconds": seconds,
    }
    going = _Audit(subject, chosen, end, _asked_for(chosen, gates, checks), tell)

    def report(interrupted: bool) -> Report:
        spent = time.perf_counter() - start
        return going.report(spent, started, settings, gates, every, interrupted)

    try:
        going.run()
        return report(False)
    except KeyboardInterrupt as error:
        going.stop()
        raise Interrupted(report(True)) from error


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


def _asked_for(
    chosen: Sequence[Check], gates: Sequence[Gate], names: Iterable[str] | None
) -> set[str]:
    """Return the checks that the user named, or whose numbers a limit is on."""
    heads = {gate.head for gate in gates}
    return {check.name for check in chosen if names is not None or heads & set(check.heads)}


class _Audit:
    """The checks of one audit, as far as they are."""

    def __init__(
        self, subject: Subject, checks: Sequence[Check], end: float, asked: set[str], tell: Tell
    ) -> None:
        self.subject, self.end, self.tell = subject, end, tell
        self.sections: dict[str, Section] = {}
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.timings: dict[str, Timing] = {}
        self.running = ""
        self.waiting = [check for check in checks if self._accepts(check, check.name in asked)]

    def run(self) -> None:
        """Run the checks that wait, one after the other."""
        while self.waiting:
            check, left = self.waiting[0], self.end - time.perf_counter()
            seconds = share(self.waiting, left)
            if seconds is None:
                self.skipped[check.name] = too_late(check, left)
            else:
                self._run(check, seconds)
            self.waiting.pop(0)

    def stop(self) -> None:
        """Name what an interruption leaves out."""
        done = {*self.sections, *self.skipped, *self.failed}
        for name in [check.name for check in self.waiting if check.name not in done]:
            begun = name == self.running
            self.skipped[name] = "it was interrupted" if begun else "the audit was interrupted"

    def report(
        self,
        spent: float,
        started: str,
        settings: dict[str, Any],
        gates: Sequence[Gate],
        every: Sequence[Check],
        interrupted: bool,
    ) -> Report:
        """Return what there is, with verdicts on limits."""
        found = Report(
            self.subject,
            self.sections,
            self.skipped,
            self.failed,
            spent,
            started,
            settings,
            timings=self.timings,
            interrupted=interrupted,
        )
        verdicts = tuple(judge(gate, found, every) for gate in gates)
        return replace(found, verdicts=verdicts)

    def _accepts(self, check: Check, asked: bool) -> bool:
        """Tell whether a check can run on the subject; note why not."""
        try:
            refusal = check.refuse(self.subject)
        except Exception as error:  # one broken check must not cost the others
            self.failed[check.name] = f"{type(error).__name__}: {error}"
            return False
        if refusal is None and check.steady and self.subject.noise > UNSTEADY:
            refusal = "the network answers the same input differently each time"
        if refusal and (asked or not check.quiet):
            self.skipped[check.name] = refusal
        return not refusal

    def _run(self, check: Check, seconds: float) -> None:
        """Run one check; note what it gave, or why it gave nothing, and how long it took."""
        self.tell(f"{check.name}: up to {seconds:.0f} s")
        self.running, start = check.name, time.perf_counter()
        try:
            self.sections[check.name] = check.run(self.subject, seconds)
        except InputError as error:
            self.skipped[check.name] = str(error)
        except Exception as error:  # one broken check must not cost the others
            self.failed[check.name] = f"{type(error).__name__}: {error}"
        self.timings[check.name] = Timing(time.perf_counter() - start, seconds)
