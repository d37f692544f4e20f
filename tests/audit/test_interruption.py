"""Ctrl-C and SIGTERM during an audit: what is done is written, what is not is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet import cli
from merkhet.audit import Interrupted, audit
from merkhet.audit import run as running
from merkhet.audit.interruption import Interruption
from merkhet.report import Check, Section

INPUTS = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
NETWORK = """
import os, signal, torch

class Stopping(torch.nn.Linear):
    calls = 0
    def forward(self, x):
        Stopping.calls += len(x) > 2  # not while it is looked at, but in the checks
        if Stopping.calls == WHEN:
            os.kill(os.getpid(), signal.NUMBER)
        return super().forward(x.flatten(1))

def build():
    return Stopping(64, 10)
"""


def section(subject, seconds) -> Section:
    return Section("Done", "A summary.", figures={"done": 1.0})


def stopped(subject, seconds) -> Section:
    raise KeyboardInterrupt


def yes(subject) -> None:
    return None


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_from_python_the_exception_has_the_report(monkeypatch) -> None:
    parts = {"done": section, "stopped": stopped, "after": section, "refused": section}
    checks = [Check(name, 0.0, yes, run) for name, run in parts.items()]
    checks[3] = Check("refused", 0.0, lambda subject: "no labels", section)
    monkeypatch.setattr(running, "find_checks", lambda names=None: checks)
    with pytest.raises(KeyboardInterrupt) as stop:
        audit(nn.Linear(6, 4), INPUTS, fail_on="after>0")
    assert isinstance(stop.value, Interrupted)
    report = stop.value.report
    assert list(report.sections) == ["done"]
    assert report.skipped == {
        "refused": "no labels",
        "stopped": "it was interrupted",
        "after": "the audit was interrupted",
    }
    assert report.interrupted
    assert report.verdicts[0].outcome == "not decided"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_the_command_writes_what_it_has(number: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code = NETWORK.replace("WHEN", "2").replace("NUMBER", number)
    Path("network.py").write_text(code, encoding="utf-8")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    asked = ("--data", "digits", "--samples", "24", "--checks", "outputs,accuracy,cost")
    assert run("audit", f"{tmp_path}/network.py:build", *asked) == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    found = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert found["interrupted"]
    assert list(found["sections"]) == ["outputs"]
    assert found["skipped"]["accuracy"] == "it was interrupted"
    assert found["skipped"]["cost"] == "the audit was interrupted"
    assert "was interrupted: this is what" in Path("report.html").read_text(encoding="utf-8")
    assert "interrupted: the report has what was done" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "network.py",
        "report.html",
        "report.json",
    ]


def test_before_the_first_check_nothing_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    text = "import os, signal\ndef build():\n    os.kill(os.getpid(), signal.SIGINT)\n"
    Path("network.py").write_text(text, encoding="utf-8")
    assert run("audit", f"{tmp_path}/network.py:build", "--data", "digits") == 130
    assert capsys.readouterr().err.startswith("interrupted: no check was done")
    assert [path.name for path in tmp_path.glob("report*")] == []


def test_a_signal_that_something_swallowed_is_raised_again() -> None:
    told: list[str] = []
    with Interruption() as stop:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except BaseException:  # as code does that knows no better
            pass
        with pytest.raises(KeyboardInterrupt):
            stop.telling(told.append)("the next check")
    assert told == []


def test_while_results_are_written_a_signal_is_noted_and_does_not_raise() -> None:
    with Interruption() as stop:
        with stop.writing():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        assert stop.asked


SECOND = """
import os, signal, threading, time, torch
from merkhet.audit.interruption import Interruption
def twice():
    for _ in range(2):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
a = torch.rand(WIDTH, WIDTH, dtype=torch.float64)
with Interruption() as stop:
    print(time.time(), flush=True)
    threading.Thread(target=twice).start()
    while True:  # one call into torch after the other, each longer than both signals
        a @ a
"""


def test_a_second_signal_ends_at_once_in_the_middle_of_a_long_call() -> None:
    code = SECOND.replace("WIDTH", "4000")
    call = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert call.returncode == 130
    assert call.stderr == ""
    assert time.time() - float(call.stdout) < 3.0
