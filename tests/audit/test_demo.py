"""The demo: a report, a remedy of it, the report after, and what is different."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
import typer

from merkhet import data as datasets
from merkhet.audit import demo
from merkhet.audit.demo_motions import Motion
from merkhet.audit.interruption import Interruption
from merkhet.core.errors import InputError

SECTIONS = {"outputs", "accuracy", "cost", "stability", "tangent_kernel", "lipschitz", "certified"}
SECTIONS |= {"flips", "unit_tails", "dead_units", "scales", "trained_tails"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 60), ("REMEDY_STEPS", 40), ("JUDGED", 150), ("SECONDS", 200.0)):
        monkeypatch.setattr(demo, name, value)


def test_the_demo_runs_on_what_is_always_here(tmp_path: Path, capsys) -> None:
    with Interruption() as stop:
        demo.show(tmp_path / "r.html", "digits", 0, stop)
    printed = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        f"r{word}.{ending}" for word in ("", "-after", "-compared") for ending in ("html", "json")
    }
    before = json.loads((tmp_path / "r.json").read_text())
    assert set(before["sections"]) == SECTIONS
    after = json.loads((tmp_path / "r-after.json").read_text())
    assert after["network"] == f"{before['network']}, remedied"
    compared = json.loads((tmp_path / "r-compared.json").read_text())
    assert not compared["conditions"]
    assert compared["pictures"] == 150
    page = (tmp_path / "r-compared.html").read_text()
    for effect in compared["effects"]:
        low, high = effect["change"]["interval"]
        assert low <= effect["change"]["value"] <= high
        assert effect["what"] in printed
        assert effect["what"] in page
        assert f"{effect['change']['value']:+.1f} [{low:+.1f}, {high:+.1f}]" in page
    assert compared["motion"] in page
    assert "training a small network on" in printed
    assert printed.rstrip().endswith(demo.NEXT)


def test_the_remedy_is_of_the_motion_that_weighs_most() -> None:
    asked = demo.Demo.on("digits", 0, lambda line: None)
    network, _ = asked.network()
    report = demo.audit(network, asked.test, checks=["stability"], samples=64, seconds=10)
    motion = demo.first_motion(report)
    assert isinstance(motion, Motion)
    stable = [one for one in report.every_finding if one.name.startswith("stability(")]
    assert stable[0].name == f"stability({motion.kind},{motion.size:g})"


def test_the_remedy_leaves_the_network_as_it_was_and_reproduces() -> None:
    asked = demo.Demo.on("digits", 0, lambda line: None)
    network, _ = asked.network()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    one, other = (asked.remedied(network, Motion("rotation", 10.0)) for _ in range(2))
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    differ = [not torch.equal(state[name], tensor) for name, tensor in one.state_dict().items()]
    assert any(differ)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_an_interrupted_remedy_leaves_the_first_report(tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupted(*_arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)

    def only_outputs(asked: demo.Demo, network: torch.nn.Module, name: str) -> demo.Report:
        return demo.audit(network, asked.test, name=name, checks=["outputs"], samples=64)

    monkeypatch.setattr(demo.Demo, "remedied", interrupted)
    monkeypatch.setattr(demo, "first_motion", lambda report: Motion("rotation", 10.0))
    monkeypatch.setattr(demo.Demo, "audit", only_outputs)
    with Interruption() as stop, pytest.raises(typer.Exit) as ended:
        demo.show(tmp_path / "r.html", "digits", 0, stop)
    assert ended.value.exit_code == 130
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "r.json"}
    assert "r.html is whole, the remedy is not" in capsys.readouterr().err


def test_without_fashion_mnist_the_demo_says_what_it_is_on(monkeypatch) -> None:
    def absent(name: str) -> Path:
        if name != "digits":
            raise InputError("absent")
        return Path()

    monkeypatch.setattr(datasets, "find", absent)
    lines: list[str] = []
    assert demo.Demo.on(None, 0, lines.append).train.name == "digits"
    assert "fashion-mnist, which a network comes for, is not here" in lines[0]


def test_where_fashion_mnist_is_the_network_that_comes_with_merkhet_is_taken(need_data) -> None:
    need_data("fashion-mnist")
    asked = demo.Demo.on(None, 0, lambda line: None)
    network, name = asked.network()
    assert name == "fashion-cnn"
    assert type(network).__name__ == "SmallCNN"


def test_data_without_labels_is_refused(tmp_path: Path) -> None:
    import numpy as np

    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=np.zeros((40, 1, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"has no labels"):
        demo.Demo.on(str(tmp_path), 0, lambda line: None)
