"""`--fail-on`: limits on an audit's numbers, judged one by one, never passed for want of time."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merkhet.core.errors import InputError, choose
from merkhet.report import Check

if TYPE_CHECKING:
    from merkhet.audit.report import Report

RELATIONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
SIDES = {">": "above", ">=": "above", "<": "below", "<=": "below"}
WRITTEN = re.compile(r"(?P<name>.*\S)\s*(?P<relation>>=|<=|>|<)\s*(?P<limit>[^<>=\s]+)\s*")
HOLDS, FAILS, OPEN = "holds", "fails", "not decided"
CLOSE = 3  # names that are told when one is not there
EXAMPLE = '"stability(rotation,10)>0.3"'


@dataclass(frozen=True)
class Gate:
    """One limit: the audit fails where the number stands in this relation to it.

    Attributes:
        name: Of a figure or a finding.
        relation: ">", ">=", "<" or "<=".
        limit: What the number is held against.
    """

    name: str
    relation: str
    limit: float

    @property
    def head(self) -> str:
        """What the name begins with, before the bracket."""
        return self.name.partition("(")[0]

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """What became of a limit.

    Attributes:
        gate: The limit as text, "stability(rotation,10)>0.3".
        outcome: "holds", "fails" or "not decided".
        value: The number; None where there is none.
        sentence: Which, and by how much; or why it is not decided.
    """

    gate: str
    outcome: str
    value: float | None
    sentence: str


def parse(text: str) -> Gate:
    """Return the limit that a text says.

    Raises:
        InputError: It is not NAME, a relation, and a number; shows an example.
    """
    found = WRITTEN.fullmatch(text.strip())
    try:
        limit = float(found["limit"]) if found else math.nan
    except ValueError:
        limit = math.nan
    if found is None or not math.isfinite(limit):
        raise InputError(f"--fail-on takes NAME, one of > >= < <=, NUMBER: {EXAMPLE}, not {text!r}")
    return Gate(found["name"].replace(", ", ","), found["relation"], limit)


def known_gates(
    texts: str | Iterable[str], chosen: Sequence[Check], every: Sequence[Check]
) -> list[Gate]:
    """Return the limits that texts say, having made sure that a check which runs can give each.

    Args:
        texts: Such as "stability(rotation,10)>0.3".
        chosen: The checks that are to run.
        every: All that there are.

    Raises:
        InputError: A text that is no limit; a name that no check gives, or none of those chosen.
    """
    gates = [parse(text) for text in ([texts] if isinstance(texts, str) else texts)]
    for gate in gates:
        choose("figure or finding", gate.head, {head for check in every for head in check.heads})
        if not any(gate.head in check.heads for check in chosen):
            giving = [check.name for check in every if gate.head in check.heads]
            raise InputError(
                f"--fail-on {str(gate)!r} is decided by {' or '.join(giving)}, which --checks "
                f"leaves out: add {giving[0]} to --checks"
            )
    return gates


def judge(gate: Gate, report: Report, every: Sequence[Check]) -> Verdict:
    """Return what becomes of a limit on a report.

    Args:
        gate: The limit.
        report: Of an audit.
        every: All checks, to know whose number it is.
    """
    numbers = report.numbers()
    if gate.name not in numbers:
        return Verdict(str(gate), OPEN, None, _why_open(gate, report, numbers, every))
    value = numbers[gate.name]
    if math.isnan(value):
        return Verdict(str(gate), OPEN, None, f"{gate}: not decided, it is not a number")
    fails = RELATIONS[gate.relation](value, gate.limit)
    return Verdict(str(gate), FAILS if fails else HOLDS, value, _said(gate, value, fails))


def _said(gate: Gate, value: float, fails: bool) -> str:
    """Say by how much a number is beyond a limit, or short of it."""
    apart = abs(value - gate.limit)
    side = SIDES[">" if value > gate.limit else "<"]
    far = f"{apart:.6g} {side} the limit" if apart else "at the limit"
    return f"{gate}: {'FAILS' if fails else 'holds'}, it is {value:.6g}, {far}"


def _why_open(
    gate: Gate, report: Report, numbers: Mapping[str, float], every: Sequence[Check]
) -> str:
    """Say why a limit is not decided: a check did not run, or no check gives the name."""
    giving = [check.name for check in every if gate.head in check.heads]
    missing = {
        **report.skipped,
        **{name: f"it broke: {why}" for name, why in report.failed.items()},
    }
    reasons = [
        f"the check {name} was left out ({missing[name]})" for name in giving if name in missing
    ]
    if reasons:
        return f"{gate}: not decided, {'; '.join(reasons)}"
    near = difflib.get_close_matches(gate.name, numbers, n=CLOSE, cutoff=0.4)
    near = near or [name for name in numbers if name.startswith(gate.head)][:CLOSE]
    close = f"; close ones are {', '.join(near)}" if near else ""
    return f"{gate}: not decided, the report has no figure or finding of that name{close}"
