from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from merkhet import cli
from merkhet.models import Spec
from merkhet.models.target import find_target

pytest.importorskip("tokenizers")

SMALL = (
    *("--vocabulary", "300", "--context", "16", "--width", "16", "--layers", "2"),
    *("--subkeys", "32", "--steps", "6", "--batch", "4", "--save-every", "2"),
)


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_a_model_is_trained_evaluated_and_writes(text: Path, tmp_path: Path, capsys) -> None:
    folder = str(tmp_path / "run")
    assert run("memory", "train", "--data", str(text), "--out", folder, *SMALL) == 0
    trained = capsys.readouterr().out
    assert "after 6 steps" in trained
    assert "of 1,024 slots used" in trained
    assert run("memory", "train", "--data", str(text), "--out", folder, *SMALL) == 0
    assert trained.splitlines()[-2:] == capsys.readouterr().out.splitlines()[-2:], "found finished"
    assert run("memory", "evaluate", folder, "--split", "validation") == 0
    assert capsys.readouterr().out.splitlines() == trained.splitlines()[-2:]
    assert run("memory", "generate", folder, "--prompt", "text 1", "--tokens", "5") == 0
    first = capsys.readouterr().out
    assert first.startswith("text 1")
    assert run("memory", "generate", folder, "--prompt", "text 1", "--tokens", "5") == 0
    assert capsys.readouterr().out == first
    target = find_target(folder)
    assert target.tokenizer is not None
    assert target.tokenizer.is_file()


def test_a_memory_run_is_audited_on_text(text: Path, tmp_path: Path, capsys) -> None:
    folder = str(tmp_path / "run")
    run("memory", "train", "--data", str(text), "--out", folder, *SMALL)
    whole = tmp_path / "whole.txt"
    whole.write_text("".join(path.read_text() for path in sorted(text.iterdir())))
    page = tmp_path / "r.html"
    code = run(
        *("audit", folder, "--data", str(whole), "--checks", "memory,feed_forward"),
        *("--samples", "8", "--out", str(page)),
    )
    assert code == 0, capsys.readouterr().err
    figures = json.loads(page.with_suffix(".json").read_text())["sections"]["memory"]["figures"]
    assert 0 < figures["memory(used,layers.1.feed_forward.memory.values)"] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--places", "2"), "give blocks from 0 to 1"),
        (("train", "--places", "0,0"), "give blocks from 0 to 1, each once"),
        (("train", "--places", "a"), "--places takes numbers, as in 3,5"),
        (("train", "--rate", "-1"), "--rate -1.0: give a number from 0 on"),
        (("train", "--value-rate", "nan"), "--value-rate nan"),
        (("train", "--out", __file__), "is a file: give a folder"),
        (("train", "--out", "texts", "--data", "texts"), "is the text itself"),
        (("train", "--mode", "besides"), "Did you mean 'beside'"),
        (("train", "--subkeys", "8"), "--subkeys 8: a head reads 32 slots"),
        (("train", "--data", "nowhere"), "nowhere"),
        (("evaluate", "nowhere"), "nowhere is not a run of `merkhet memory train`"),
        (("generate", "nowhere"), "nowhere is not a run of `merkhet memory train`"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], words: str, text: Path, tmp_path: Path, capsys
) -> None:
    verb, *given = arguments
    own = {given[place] for place in range(0, len(given), 2)}
    common = [SMALL[i : i + 2] for i in range(0, len(SMALL), 2) if SMALL[i] not in own]
    more = [word for pair in common for word in pair] if verb == "train" else []
    if verb == "train" and "--data" not in given:
        more += ["--data", str(text)]
    out = ["--out", str(tmp_path / "run")] if verb == "train" and "--out" not in given else []
    assert run("memory", verb, *given, *more, *out) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert words in printed
    assert not (tmp_path / "run").exists()


def test_too_little_text_is_told_before_training(text: Path, tmp_path: Path, capsys) -> None:
    for path in list(text.iterdir())[2:]:
        path.unlink()
    out = tmp_path / "run"
    assert run("memory", "train", "--data", str(text), "--out", str(out), *SMALL) == 2
    assert "give more documents or a smaller context" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_is_audited_on_the_folder_it_was_trained_on(
    text: Path, tmp_path: Path, capsys
) -> None:
    folder = str(tmp_path / "run")
    run("memory", "train", "--data", str(text), "--out", folder, *SMALL)
    out = ["--out", str(tmp_path / "report.html"), "--samples", "4", "--checks", "memory"]
    assert run("audit", folder, *out) == 0
    assert f"On 4 windows of tokens of {text}" in (tmp_path / "report.html").read_text()


def test_networks_with_memories_are_built_by_name() -> None:
    spec = Spec(
        "memory_transformer",
        {"vocab_size": 11, "dim": 16, "layers": 2, "places": [1], "memory": {"num_subkeys": 64}},
    )
    network = Spec.from_json(spec.to_json()).build()
    assert network.layers[1].feed_forward.memory.values.slots == 64**2
