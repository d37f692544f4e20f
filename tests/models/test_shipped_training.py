"""The training of the networks that come with merkhet, made tiny: what it leaves is whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import merkhet.data
from merkhet.cnmm.estimators import Recipe
from merkhet.data import Pictures
from merkhet.models import find_target, shipped
from merkhet.models.experiments import cnn, kernel, language, mixture, shipping
from merkhet.models.shipped import read_card
from merkhet.report import Record, Trial, read_record

CLASSES = tuple("abcdefghij")


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of noise, brighter by label, in the place of Fashion-MNIST."""

    def load(name: str, split: str = "all", **_options: object) -> Pictures:
        draw = torch.Generator().manual_seed(len(split))
        labels = torch.arange(120) % 10
        noise = torch.randint(0, 100, (120, 1, 28, 28), generator=draw)
        images = (noise + 15 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
        return Pictures(images, labels, CLASSES, name, split)

    monkeypatch.setattr(merkhet.data, "load", load)
    monkeypatch.setattr(merkhet.data, "splits", lambda name: ("train", "test"))
    monkeypatch.setattr(shipping, "VALIDATION", 40)


def made(experiment: object, folder: Path) -> Record:
    """Run an experiment; return its record."""
    trial = Trial(experiment, "small", folder)
    experiment.run(trial)
    return read_record(trial.finish(0.0))


def folders(folder: Path) -> Iterator[tuple[str, shipped.Card]]:
    """Yield the names and cards of what was left; each folder opens as a run."""
    for path in sorted(folder.glob("models/*/run.json")):
        assert not find_target(str(path.parent)).module.training
        yield path.parent.name, read_card(path.parent)


def test_the_cnn_is_left_plain_and_penalised(few_pictures, tmp_path: Path, monkeypatch) -> None:
    plan = cnn.Plan(1, (2.0,), trial=40, batch=20)
    monkeypatch.setitem(cnn.PLANS, "small", plan)
    monkeypatch.setattr(cnn, "CERTIFIED", 20)
    record = made(cnn.fashion_cnn, tmp_path)
    left = dict(folders(tmp_path))
    assert list(left) == ["fashion-cnn", "fashion-cnn-penalised"]
    assert left["fashion-cnn"].examples == 80
    assert "under a bound of" in left["fashion-cnn-penalised"].training
    for name, card in left.items():
        assert record.figures[f"{name}: test accuracy"] == card.score
        norms = [
            float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))
            for weight in find_target(str(tmp_path / "models" / name)).module.parameters()
            if weight.dim() == 4
        ]
        assert name == "fashion-cnn" or max(norms) < 2.1
    assert {"gain in certified accuracy", "cost in accuracy"} <= set(record.figures)
    assert all(goal.met for goal in record.goals)


def test_of_bounds_that_cost_little_the_one_that_certifies_most_is_chosen(tmp_path: Path) -> None:
    tried = {
        None: {"accuracy": 0.9, "certified": 0.0},
        1.0: {"accuracy": 0.7, "certified": 0.8},
        2.0: {"accuracy": 0.86, "certified": 0.6},
        3.0: {"accuracy": 0.89, "certified": 0.5},
    }
    trial = Trial(cnn.fashion_cnn, "small", tmp_path)
    assert cnn._choose(trial, tried) == 2.0
    assert len(trial.record.figures) == 8
    tried[2.0]["accuracy"] = tried[3.0]["accuracy"] = 0.5
    assert cnn._choose(trial, tried) == 3.0


def test_the_kernel_network_is_left(few_pictures, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(kernel.FILTERS, "small", [4, 8])
    monkeypatch.setitem(kernel.PICTURES, "small", 60)
    record = made(kernel.fashion_ckn, tmp_path)
    ((name, card),) = folders(tmp_path)
    assert name == "fashion-ckn"
    assert card.about["classes"] == list(CLASSES)
    assert record.figures["fashion-ckn: test accuracy"].value > 0.3


def test_the_mixture_is_left_as_its_commands_want_it(
    few_pictures, tmp_path: Path, monkeypatch
) -> None:
    from merkhet.cnmm.commands.runs import open_run

    monkeypatch.setitem(mixture.RECIPES, "small", Recipe(epochs=1, batch_size=54))
    made(mixture.fashion_cnmm, tmp_path)
    ((name, card),) = folders(tmp_path)
    opened = open_run(tmp_path / "models" / name)
    assert opened.model.counts == (10,)
    assert opened.source.data == "fashion-mnist"
    assert card.examples == 108


def test_the_language_model_is_left_with_its_tokenizer(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tokenizers")
    text = tmp_path / "text"
    text.mkdir()
    for place in range(60):
        lines = "\n".join(f"def f_{place}_{line}(x):\n    return x + {line}" for line in range(20))
        (text / f"{place}.py").write_text(lines)
    windows = language.data.load_text
    monkeypatch.setattr(
        language.data,
        "load_text",
        lambda name, *sizes: windows(text, *sizes, cache=tmp_path / "cache"),
    )
    monkeypatch.setattr(language, "VOCABULARY", 300)
    monkeypatch.setattr(language, "CONTEXT", 16)
    small = language.spec(16, 2, 16)
    arguments = {**small.arguments, "vocab_size": 300}
    plan = language.Plan(dataclasses.replace(small, arguments=arguments), 6, 4, (1e-3, 2e-3), 2)
    monkeypatch.setitem(language.PLANS, "small", plan)
    record = made(language.python_memory, tmp_path)
    ((name, card),) = folders(tmp_path)
    assert set(card.files) == {"model.safetensors", "tokenizer.json"}
    assert card.about == {"vocabulary": 300, "context": 16}
    assert find_target(str(tmp_path / "models" / name)).tokenizer.is_file()
    assert 1 < record.figures["python-memory: test perplexity"].value < 400
