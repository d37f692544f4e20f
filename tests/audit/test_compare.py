"""Two audits side by side: figures, findings, and what else was not the same."""

from __future__ import annotations

import html
import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from merkhet import cli
from merkhet.audit import Comparison, audit, compare
from merkhet.core.errors import InputError
from merkhet.models import SmallCNN

SAMPLES = 24
CHECKS = ["outputs", "accuracy"]


@pytest.fixture(scope="module")
def report():
    return audit(SmallCNN(widths=(4,)), "digits", samples=SAMPLES, checks=CHECKS, name="first")


def finding(name: str, weight: float = 0.5) -> dict[str, Any]:
    words = dict.fromkeys(("yardstick", "remedy", "code"), "w")
    return {"name": name, "value": 1.0, "sentence": f"{name}!", "weight": weight, **words}


def made(figures: dict[str, float], *names: str, **changes: Any) -> dict[str, Any]:
    """Return a report as JSON has it, of one check."""
    findings = [finding(name) for name in names]
    section = {"title": "t", "summary": "s", "figures": figures, "findings": findings, "notes": []}
    return {
        "network": "net",
        "data": "digits",
        "started": "then",
        "settings": {"samples": 9, "seed": 0, "sample": "ab", "budget_seconds": 5.0},
        "sections": {"one": section},
        "skipped": {},
        "failed": {},
        "machine": {"processor": "p", "cores": 2, "gpu": None},
        "versions": {"torch": "2", "merkhet": "1"},
        **changes,
    }


def test_the_largest_relative_differences_come_first() -> None:
    before = made({"a": 1.0, "b": 1e9, "same": 2.0, "zero": 0.0, "gone": 1.0})
    after = made({"a": 2.0, "b": 1.1e9, "same": 2.0, "zero": 0.0, "new": 3.0})
    found = compare(before, after).differences
    assert [one.name for one in found] == ["a", "b", "same", "zero", "gone", "new"]
    assert [one.change for one in found] == [1.0, pytest.approx(1e8), 0.0, 0.0, None, None]
    assert found[0].relative == 0.5
    assert compare(after, before).differences[0].change == -1.0


def test_findings_are_new_gone_in_both_or_not_looked_at() -> None:
    before, after = made({}, "kept", "gone"), made({}, "kept", "new")
    found = compare(before, after).findings
    assert [one["name"] for one in found.new] == ["new"]
    assert [one["name"] for one in found.gone] == ["gone"]
    assert [one["name"] for one, _ in found.kept] == ["kept"]
    assert found.open == ()
    unseen = made({}, sections={}, skipped={"one": "needs about 8 s"})
    found = compare(before, unseen).findings
    assert found.gone == ()
    assert [(one["name"], why) for one, _, why in found.open] == [
        ("kept", "needs about 8 s"),
        ("gone", "needs about 8 s"),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "mnist"}, "Data: digits in the first, mnist in the second"),
        ({"settings": {"samples": 9, "seed": 1, "sample": "ab", "budget_seconds": 5.0}}, "Seed: 0"),
        ({"settings": {"samples": 9, "seed": 0, "sample": "cd", "budget_seconds": 5.0}}, "Sample"),
        ({"machine": {"processor": "q", "cores": 2, "gpu": None}}, "Machine: p"),
        ({"versions": {"torch": "3", "merkhet": "1"}}, "Version of torch: 2 in"),
        ({"interrupted": True}, "Stopped before its end"),
    ],
)
def test_what_else_was_not_the_same_is_said_on_the_page(changes, words: str) -> None:
    found = compare(made({}), made({}, **changes))
    assert [line for line in found.conditions if words in line]
    assert words in html.unescape(found.render())
    assert compare(made({}), made({})).conditions == []


def test_a_report_is_compared_with_its_own_json(report, tmp_path: Path) -> None:
    _, beside = report.write(tmp_path / "r.html")
    found = compare(report, beside)
    assert isinstance(found, Comparison)
    assert found.conditions == []
    assert {one.change for one in found.differences} == {0.0}
    assert not found.findings.new + found.findings.gone
    page, data = found.write(tmp_path / "c.html")
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert all(one.name in text for one in found.differences)
    assert json.loads(data.read_text(encoding="utf-8"))["figures"][0]["change"] == 0


def test_a_finding_beyond_the_tenth_has_not_gone_away(report) -> None:
    many = deepcopy(report.to_dict())
    many["sections"]["outputs"]["findings"] = [finding(f"f{n}", n / 20) for n in range(15)]
    few = deepcopy(many)
    few["findings"] = many["findings"][:3]
    assert not compare(many, few).findings.gone


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "no file"), ("{", "cannot be read as JSON"), ("[1]", "not the JSON of an audit")],
)
def test_what_is_no_report_is_one_clear_line(text, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        compare(path, path)


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_command_compares_a_network_with_an_earlier_report(
    report, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    report.write("old.html")
    asked = ("--data", "digits", "--samples", str(SAMPLES), "--checks", ",".join(CHECKS))
    two = ("--compare", "old.json", "merkhet.models:SmallCNN")
    assert run("audit", *two, *asked) == 0
    found = json.loads(Path("comparison.json").read_text(encoding="utf-8"))
    assert found["conditions"] == []
    assert found["first"]["network"] == "first"
    assert found["second"]["network"] == "merkhet.models:SmallCNN"
    assert "SmallCNN" in Path("comparison.html").read_text(encoding="utf-8")
    capsys.readouterr()
    for wrong, words in (
        ((*two, "--weights", "w.safetensors"), "are of one network"),
        ((*two, "--fail-on", "accuracy<1"), "are of one network"),
        ((*two, "--out", "old.html"), "would be written over"),
        (("--compare", "none.json", "old.json"), "no file none.json"),
        (("merkhet.models:SmallCNN", *two), "give one of MODEL and --compare"),
        ((), "give one of MODEL and --compare"),
    ):
        assert run("audit", *wrong, *asked) == 2
        assert words in capsys.readouterr().err
