"""Limits on an audit's numbers: what holds, what fails, and what nobody decided."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from merkhet.audit import Report, audit
from merkhet.audit import run as running
from merkhet.audit.gates import parse
from merkhet.core.errors import InputError
from merkhet.report import Check, Finding, Section

INPUTS = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
LIMITS = ["cost(parameters)>20", "cost(parameters)>30", "stability(x)>1"]
COST = {"cost(parameters)": 28.0, "cost(latency_ms)": 0.5}


def section(subject, seconds) -> Section:
    finding = Finding("cost(time,head)", 0.7, "s", "y", "r", "c", 0.5)
    return Section("Cost", "A summary.", findings=(finding,), figures=dict(COST))


def refused(subject, seconds) -> Section:
    raise InputError("16 inputs need about 9 s")


def broken(subject, seconds) -> Section:
    raise RuntimeError("unforeseen")


def yes(subject) -> None:
    return None


CHECKS = [
    Check("cost", 0.0, yes, section),
    Check("stability", 0.0, yes, refused, gives=("stability", "labels_changed")),
    Check("flips", 0.0, yes, broken),
    Check("late", 1e9, yes, section),
    Check("memory", 0.0, lambda subject: "no memory", section, quiet=True),
]


@pytest.fixture(autouse=True, scope="module")
def few_checks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "find_checks", lambda names=None: CHECKS)
        yield


@pytest.fixture(scope="module")
def report(few_checks) -> Report:
    """An audit to which a limit makes a quiet check one that was asked for."""
    return audit(nn.Linear(6, 4), INPUTS, fail_on=["memory(used)<1", *LIMITS])


@pytest.mark.parametrize(
    ("text", "wanted", "words"),
    [
        ("cost(parameters)>20", "fails", "it is 28, 8 above the limit"),
        ("cost(parameters) > 28", "holds", "at the limit"),
        ("cost(parameters)>=28", "fails", "at the limit"),
        ("cost(parameters)<30", "fails", "it is 28, 2 below the limit"),
        ("cost(parameters)<28", "holds", "at the limit"),
        ("cost(parameters)<=28.0", "fails", "at the limit"),
        ("cost(latency_ms)>6e-1", "holds", "0.1 below the limit"),
        ("cost(time, head)>0.5", "fails", "it is 0.7"),
        ("stability(rotation,10)>0.3", "not decided", "stability was left out (16 inputs need"),
        ("labels_changed(rotation,10)>0.3", "not decided", "stability was left out"),
        ("flips(median)<1", "not decided", "flips was left out (it broke: RuntimeError"),
        ("late(x)<1", "not decided", "late was left out (needs about"),
        ("memory(used)<1", "not decided", "memory was left out (no memory)"),
        ("cost(parameter)>1", "not decided", "close ones are cost(parameters)"),
        ("cost(zzzz)>1", "not decided", "close ones are cost("),
    ],
)
def test_a_limit_fails_holds_or_is_not_decided(
    report: Report, text: str, wanted: str, words: str
) -> None:
    (verdict,) = report.judged(text).verdicts
    assert verdict.outcome == wanted
    assert words in verdict.sentence
    assert verdict.sentence.startswith(text.replace(" ", "").partition(">")[0].partition("<")[0])


def test_a_number_that_is_none_decides_nothing(report: Report) -> None:
    nan = Section("Cost", "s", figures={"cost(x)": float("nan")})
    (verdict,) = replace(report, sections={"cost": nan}).judged("cost(x)>1").verdicts
    assert verdict.outcome == "not decided"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stabilty(rotation,10)>0.3", "Did you mean 'stability'"),
        ("stability(rotation,10)", "--fail-on takes NAME"),
        ("stability(rotation,10)>", "--fail-on takes NAME"),
        (">0.3", "--fail-on takes NAME"),
        ("stability(rotation,10)>many", "--fail-on takes NAME"),
        ("stability(rotation,10)>nan", "--fail-on takes NAME"),
        ("stability(rotation,10)=0.3", "--fail-on takes NAME"),
    ],
)
def test_what_is_no_limit_is_refused_before_the_network_runs(text: str, words: str) -> None:
    class Untouched(nn.Module):
        def forward(self, x):
            raise AssertionError("the audit has begun")

    with pytest.raises(InputError, match=words.replace("(", r"\(")) as error:
        audit(Untouched(), INPUTS, fail_on=[text])
    assert "\n" not in str(error.value)


def test_a_limit_on_a_check_that_was_not_chosen_is_refused(monkeypatch) -> None:
    def of(names=None):
        return CHECKS if names is None else [check for check in CHECKS if check.name in names]

    monkeypatch.setattr(running, "find_checks", of)
    with pytest.raises(InputError, match="add stability to --checks"):
        audit(nn.Linear(6, 4), INPUTS, checks=["cost"], fail_on="labels_changed(rotation,10)>0.1")


def test_from_python_what_is_not_decided_has_not_been_kept(report: Report) -> None:
    (failing,) = report.failing(["cost(parameters)>20", "cost(latency_ms)>1"])
    assert failing.gate == "cost(parameters)>20"
    assert failing.value == 28
    assert report.failing("cost(parameters)>30") == []
    with pytest.raises(InputError, match="stability was left out"):
        report.failing(["cost(parameters)>20", "stability(rotation,10)>0.3"])


def test_verdicts_are_in_the_page_and_in_the_json(report: Report, tmp_path) -> None:
    page, beside = report.write(tmp_path / "r.html")
    found = json.loads(beside.read_text(encoding="utf-8"))["verdicts"]
    assert [one["outcome"] for one in found] == ["not decided", "fails", "holds", "not decided"]
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert all(one["sentence"] in text for one in found)


def test_a_name_may_hold_what_relations_are_written_with() -> None:
    assert parse("cost(a>b)<=2") == parse(" cost(a>b) <= 2.0 ")
    assert parse("cost(a>b)<=2").name == "cost(a>b)"
