"""Networks and files that an audit cannot use, each one clear line, and odd ones that it can."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from merkhet import cli
from merkhet.audit import audit
from merkhet.audit.page import report_paths
from merkhet.core.errors import InputError
from merkhet.models import SmallCNN

PICTURES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 10


class Odd(nn.Module):
    """A network that does in its forward pass what it is told to."""

    def __init__(self, act) -> None:
        super().__init__()
        self.head, self.act = nn.Linear(64, 10), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.head, x)


def fails_alone(head, x):
    if len(x) == 1:
        raise ValueError("one is too few\nand a second line")
    return head(x.flatten(1))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (fails_alone, "runs on 2 inputs and not on one: one is too few"),
        (lambda head, x: head(x.view(1, 64)), r"does not run on inputs of shape \(2, 1, 8, 8\)"),
        (lambda head, x: head(x.flatten(1)).squeeze(), r"one by \(10,\): keep the batch dimension"),
    ],
)
def test_a_network_that_wants_another_batch_is_refused(act, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        audit(Odd(act), PICTURES, checks=["outputs"])
    assert "\n" not in str(error.value)


def test_labels_beyond_the_head_are_refused() -> None:
    with pytest.raises(InputError, match="labels go to 9 and the network gives 4 scores"):
        audit(SmallCNN(1, 4, widths=(4,)), (PICTURES, LABELS), checks=["outputs"])
    audit(nn.Flatten(2), (PICTURES, LABELS), checks=["outputs"])  # maps are no scores by class


def dropped(head, x):
    return head(nn.functional.dropout(x.flatten(1), 0.5, training=True))


def cropped(head, x):
    place = int(torch.randint(0, 16, ()))
    return head(x.flatten(1).roll(place, 1))


@pytest.mark.parametrize("act", [dropped, cropped])
def test_noise_is_a_finding_and_not_reported_as_instability(act) -> None:
    checks = ["outputs", "accuracy", "stability", "lipschitz", "certified", "flips"]
    found = audit(Odd(act), (PICTURES, LABELS), checks=[*checks, "tangent_kernel"])
    assert "outputs(noise)" in {finding.name for finding in found.findings}
    assert found.sections["outputs"].figures["outputs(noise)"] > 0.01
    assert list(found.sections) == ["outputs", "accuracy"]
    assert {"differently each time" in reason for reason in found.skipped.values()} == {True}


def test_a_network_that_is_deterministic_has_no_noise() -> None:
    found = audit(SmallCNN(widths=(4,)), PICTURES, checks=["outputs"])
    assert found.sections["outputs"].figures["outputs(noise)"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_inputs_are_brought_to_the_type_of_the_weights(dtype: torch.dtype) -> None:
    network = SmallCNN(widths=(4,)).to(dtype)
    checks = ["outputs", "accuracy", "scales", "certified"]
    found = audit(network, (PICTURES, LABELS), checks=checks, preprocess=lambda x: x - 0.5)
    assert list(found.sections) == ["outputs", "accuracy", "scales", "certified"]
    assert not found.skipped | found.failed
    assert found.given().preprocess(PICTURES).dtype is dtype
    plain = audit(
        SmallCNN(widths=(4,)), (PICTURES, LABELS), preprocess=lambda x: x - 0.5, checks=checks
    )
    radius = plain.sections["certified"].figures["certified(accuracy,0.01)"]
    assert found.sections["certified"].figures["certified(accuracy,0.01)"] == pytest.approx(
        radius, abs=0.1
    )


def test_data_without_labels_is_audited_by_what_needs_none(tmp_path: Path) -> None:
    found = audit(SmallCNN(widths=(4,)), PICTURES, checks=["outputs", "accuracy", "certified"])
    assert found.skipped == {"accuracy": "the data has no labels"}
    assert "without labels, the predictions stand" in found.sections["certified"].notes[0]
    page, _ = found.write(tmp_path / "r.html")
    assert "The data has no labels" in page.read_text(encoding="utf-8")


def test_where_nothing_can_be_written_is_said_before_the_audit(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("kept")
    (tmp_path / "r.html").chmod(0o444)
    (tmp_path / "s.json").mkdir()
    for name, words in (
        ("r.html", "r.html is read-only: make it writable"),
        ("s.html", "s.json is a folder"),
        ("none/r.html", "none: create it, or give --out"),
    ):
        with pytest.raises(InputError, match=words):
            report_paths(tmp_path / name)
    assert (tmp_path / "r.html").read_text() == "kept"


def test_files_that_are_no_data_and_no_weights(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERKHET_TRACEBACK", raising=False)
    Path("d.csv").write_text("a,b\n1,2\n")
    Path("empty").mkdir()
    Path("cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    np.savez("beyond.npz", images=PICTURES.numpy(), labels=np.arange(20))
    for more, words in (
        (("--data", "d.csv"), "d.csv cannot be read"),
        (("--data", "empty"), "empty holds no pictures"),
        (("--data", "beyond.npz"), "labels go to 19 and the network gives 10 scores"),
        (("--data", "digits", "--weights", "cut.safetensors"), "cut.safetensors is damaged"),
    ):
        sys.argv = ["merkhet", "audit", "merkhet.models:SmallCNN", *more]
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr().err
        assert (stop.value.code, printed.count("\n"), printed[:7]) == (2, 1, "error: ")
        assert words in printed
    assert not list(tmp_path.glob("report*"))
