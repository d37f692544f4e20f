"""The command line as a user has it: what it prints, where, and with which exit code."""

from __future__ import annotations

import html
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from merkhet import cli

AUDIT = ("audit", "merkhet.models:SmallCNN", "--arguments", '{"widths": [4]}')


def merkhet(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "merkhet", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "MERKHET_TRACEBACK": ""}
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, env=environment)


def run(*arguments: str) -> int:
    """Run a command in this process, which is quicker; return its exit code."""
    sys.argv = ["merkhet", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_audit_writes_a_page_and_its_json(tmp_path: Path) -> None:
    done = merkhet(
        *AUDIT, "--data", "digits", "--samples", "16", "--checks", "cost", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text())["data"] == "digits, test"


def test_a_report_says_how_it_was_made(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = (*AUDIT, "--data", "digits", "--samples", "16", "--checks", "outputs")
    assert run(*typed) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["network"] == "merkhet.models:SmallCNN"
    assert found["about"]["weights"].startswith("those that the callable made")
    assert shlex.split(found["about"]["command"]) == ["merkhet", *typed]
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert found["about"]["command"] in page


def test_tokens_have_a_graph_too(capsys) -> None:
    model = (
        "merkhet.models:Transformer",
        "--arguments",
        '{"vocab_size": 11, "dim": 8, "heads": 2}',
    )
    assert run("audit", *model, "--graph", "--shape", "6:int64") == 0
    assert "embedding" in capsys.readouterr().out


def test_graph_prints_operations_and_totals(capsys) -> None:
    assert run(*AUDIT, "--graph", "--shape", "1x8x8") == 0
    printed = capsys.readouterr().out
    assert "conv2d" in printed
    assert "features.0.weight" in printed
    assert f"{64 * 4 * 9 + 4 * 4 * 10:,} multiply-adds" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*AUDIT, "--data", "digit"), "digits"),
        ((*AUDIT,), "no data: give --data"),
        ((*AUDIT, "--data", "digits", "--mean", "a"), "--mean takes numbers"),
        ((*AUDIT, "--data", "digits", "--out", "r.pdf"), "--out NAME.html"),
        ((*AUDIT, "--data", "digits", "--checks", "costs"), "Did you mean 'cost'"),
        ((*AUDIT, "--data", "digits", "--size", "8"), "HxW"),
        ((*AUDIT, "--graph", "--shape", "1,8,8"), "--shape takes numbers"),
        ((*AUDIT, "--graph", "--shape", "1x-8x8"), "--shape takes lengths from 1 on"),
        ((*AUDIT, "--graph", "--shape", "8:int63"), "--shape takes lengths from 1 on"),
        ((*AUDIT, "--data", "digits", "--weights", "w.pt"), 'save_file(torch.load("w.pt"'),
        (("audit", "merkhet.models:SmallCNN", "--arguments", "x"), "--arguments is not JSON"),
        (("audit", "no/such/folder", "--data", "digits"), "no network at"),
        ((*AUDIT, "--data", "digits", "--weights", "none.safetensors"), "none.safetensors"),
        (("reproduce", "stabilty"), "Did you mean 'stability'"),
        (("data", "mnst"), "mnist"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], words: str, capsys, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERKHET_TRACEBACK", raising=False)
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_no_permission_is_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code = run(*AUDIT, "--data", "digits", "--checks", "cost", "--out", str(blocked / "r.html"))
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_command_has_help_with_an_example(capsys) -> None:
    import typer.main

    def commands(group, path=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command

    found = dict(commands(typer.main.get_command(cli.build())))
    assert {("audit",), ("demo",), ("data",), ("reproduce",), ("stability", "curve")} <= set(found)
    for path, command in found.items():
        assert f"Example: merkhet {' '.join(path)}" in (command.help or ""), path


def test_version(capsys) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("merkhet ")
