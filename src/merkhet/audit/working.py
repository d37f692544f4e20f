"""What `merkhet audit` does: audits, judges, compares, writes, and says with which exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from merkhet.audit.case import Case
from merkhet.audit.compare import Comparison, compare
from merkhet.audit.cost import count
from merkhet.audit.earlier import Audited, read_report
from merkhet.audit.gates import FAILS, HOLDS, OPEN, known_gates
from merkhet.audit.interruption import EXIT, Interruption
from merkhet.audit.page import report_paths, write_report
from merkhet.audit.report import Interrupted, Report
from merkhet.audit.run import audit, find_checks
from merkhet.core.errors import InputError
from merkhet.data import Pictures
from merkhet.models import shipped

FAILED = 1  # a limit, or a check that broke
UNDECIDED = 2
NOTHING = "interrupted: no check was done, and nothing is written\n"


@dataclass(frozen=True)
class Limits:
    """What an audit is to do, and within what.

    Attributes:
        checks: Names of the checks to run, or None for all.
        seconds: Time budget of the checks.
        fail_on: Limits on figures and findings.
        stop: What takes note of Ctrl-C.
        tell: Called with lines of progress.
    """

    checks: list[str] | None
    seconds: float
    fail_on: tuple[str, ...]
    stop: Interruption
    tell: Callable[[str], None]


def audit_case(case: Case, out: Path, limits: Limits) -> None:
    """Audit what a case names, and write and tell what came of it."""
    page, _ = report_paths(out)
    _check_names(limits)
    finish(lambda: _audited(case, limits), page, limits.stop)


def compare_cases(case: Case, two: tuple[str, str], out: Path, limits: Limits) -> None:
    """Compare two networks, or reports of earlier audits, and write one page.

    Raises:
        InputError: Options that do not go with two networks, or a report that is not there.
    """
    page, beside = report_paths(out)
    _check_names(limits)
    if limits.fail_on or case.weights or case.arguments:
        raise InputError(
            "--fail-on, --weights and --arguments are of one network: audit each by itself, and "
            "give the JSON of the two reports to --compare"
        )
    if any(Path(one).resolve() == beside.resolve() for one in two):
        raise InputError(f"{beside} would be written over: give --out another name")
    earlier = {one: read_report(one) for one in two if _is_report(one)}
    done = _both(case, two, earlier, limits)
    with limits.stop.keeping():
        _write_comparison(done, page, limits.stop)
    if limits.stop.asked:
        raise typer.Exit(EXIT)


def _both(
    case: Case, two: tuple[str, str], earlier: Mapping[str, Audited], limits: Limits
) -> list[Audited]:
    """Return the reports on two networks: both, or as many as there were until an interruption."""
    done: list[Audited] = []
    try:
        for one in two:
            limits.stop.check()
            if one not in earlier:
                limits.tell(one)
            done.append(earlier[one] if one in earlier else _audited(case.of(one), limits))
    except Interrupted as stopped:
        done.append(stopped.report)
    except KeyboardInterrupt:  # before a check was done
        pass
    return done


def _write_comparison(done: list[Audited], page: Path, stop: Interruption) -> None:
    """Write and tell the comparison of two reports; of one alone, the report itself."""
    if len(done) == 2:
        comparison = compare(*done)
        write_report(comparison, page, stop.writing())
        _tell_comparison(comparison, page)
    elif done and isinstance(done[0], Report):
        write_report(done[0], page, stop.writing())
        _tell_files(page)
        sys.stderr.write("interrupted: this is the report on the first network alone\n")
    else:
        sys.stderr.write(NOTHING)


def finish(run: Callable[[], Report], page: Path, stop: Interruption) -> None:
    """Run an audit, write its report, print what was found, and exit as it ended.

    Raises:
        Exit: With 130 where it was interrupted; with 1 where a limit is not kept or a check
            broke; with 2 where a limit is not decided.
    """
    report = _whole(run)
    with stop.keeping():
        write_report(report, page, stop.writing())
        _tell(report, page)
    code = _exit_code(report, stop)
    if code:
        raise typer.Exit(code)


def _whole(run: Callable[[], Report]) -> Report:
    """Return an audit's report, as far as it is where the audit was interrupted."""
    try:
        return run()
    except Interrupted as stopped:
        return stopped.report
    except KeyboardInterrupt:
        sys.stderr.write(NOTHING)
        raise typer.Exit(EXIT) from None


def _audited(case: Case, limits: Limits) -> Report:
    """Return the report on what a case names."""
    target, inputs, preprocess = case.open()
    about = {"weights": _origin(case), "command": shlex.join(["merkhet", *sys.argv[1:]])}
    title = None if isinstance(inputs, Pictures) else str(case.data or target.data)

    def named(report: Report) -> Report:
        subject = replace(report.subject, data=title or report.subject.data)
        return replace(report, subject=subject, about=about).of_case(case)

    try:
        return named(
            audit(
                target.module,
                inputs,
                name=target.name,
                preprocess=preprocess,
                checks=limits.checks,
                samples=case.samples,
                seconds=limits.seconds,
                seed=case.seed,
                fail_on=limits.fail_on,
                tell=limits.stop.telling(limits.tell),
            )
        )
    except Interrupted as stopped:
        raise Interrupted(named(stopped.report)) from None


def _check_names(limits: Limits) -> None:
    """Refuse names of checks and figures that there are not, before anything is loaded."""
    known_gates(limits.fail_on, find_checks(limits.checks), find_checks())


def _is_report(text: str) -> bool:
    """Tell whether a text names the JSON of a report rather than a network."""
    return text.endswith(".json")


def _origin(case: Case) -> str:
    """Return where the weights are from."""
    if case.weights:
        return case.weights
    if Path(case.model).is_dir():
        return f"in {case.model}"
    if case.model in shipped.names():
        return "those that come with merkhet"
    return "those that the callable made; --weights FILE.safetensors loads others"


def _exit_code(report: Report, stop: Interruption) -> int:
    """Return the exit code that a report stands for."""
    outcomes = {verdict.outcome for verdict in report.verdicts}
    if report.interrupted or stop.asked:
        return EXIT
    if FAILS in outcomes or report.failed:
        return FAILED
    return UNDECIDED if OPEN in outcomes else 0


def _tell(report: Report, page: Path) -> None:
    """Print what was found, what was left out, and what became of limits."""
    for finding in report.findings:
        sys.stdout.write(f"- {finding.sentence}\n  {finding.remedy}\n")
    for name, reason in report.skipped.items():
        sys.stdout.write(f"- {name} was left out: {reason}\n")
    _tell_files(page)
    for name, reason in report.failed.items():
        sys.stderr.write(f"error: the check {name} broke: {reason}\n")
    for verdict in report.verdicts:
        stream = sys.stdout if verdict.outcome == HOLDS else sys.stderr
        stream.write(f"{verdict.sentence}\n")
    if report.interrupted:
        sys.stderr.write("interrupted: the report has what was done until then\n")


def _tell_comparison(comparison: Comparison, page: Path) -> None:
    """Print which findings are new or gone."""
    found = comparison.findings
    for line in comparison.conditions:
        sys.stdout.write(f"- not the same: {line}\n")
    for words, findings in (("new", found.new), ("gone", found.gone)):
        for finding in findings:
            sys.stdout.write(f"- {words}: {finding['sentence']}\n")
    _tell_files(page)


def _tell_files(page: Path) -> None:
    """Print where the page and its JSON are, and how large the page is."""
    size = count(page.stat().st_size, "B")
    sys.stdout.write(f"{page} ({size}), {page.with_suffix('.json')}\n")
