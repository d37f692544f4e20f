"""Experiments of the package run end to end, small; their parts are right."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from merkhet import models
from merkhet.report import read_record, trial
from merkhet.report.trial import reproduce
from merkhet.rkhs import experiments
from merkhet.rkhs.experiments import few_labels

NAMES = ("bracket", "cifar", "digits", "robustness")
MODULES = {name: importlib.import_module(f"merkhet.rkhs.experiments.{name}") for name in NAMES}


def here(work: Mapping[str, Any], workers: int | None = None) -> Iterator[tuple[str, Any, float]]:
    """Do the work in this process: to start others takes longer than these small ones."""
    for name, function in work.items():
        yield name, function(), 0.0


def ran(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(trial, "in_processes", here)
    return read_record(reproduce(getattr(experiments, name), "small", folder))


def shorter(plan: Any, **changes: Any) -> Any:
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, steps=2), **changes)


def first_right(network: torch.nn.Module, held: Any) -> float:
    """Return the share of the first pictures that are right, in percent: not all in a test."""
    return whole_right(network, held.subset(range(50)))


whole_right = few_labels._right


def test_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("mnist")
    module = MODULES["digits"]
    small = {"draws": 2, "others": 2, "tuning": 1, "rates": (2e-3,), "decays": (0.01,)}
    monkeypatch.setattr(module, "PLANS", {"small": shorter(module.PLANS["small"], **small)})
    some = {name: module.PENALTIES[name] for name in ("gradient, mean", "tangent", "spectral")}
    monkeypatch.setattr(module, "PENALTIES", some)
    monkeypatch.setattr(few_labels, "_right", first_right)
    record = ran("digits", tmp_path, monkeypatch)
    assert len(record.goals) == 6
    assert set(record.settings["penalties"]) == {
        *some,
        "gradient, mean + spectral",
        "gradient, mean + tangent",
    }
    assert record.figures["test accuracy, 300 labels, no penalty"].interval is not None
    assert (tmp_path / "rkhs" / "digits.png").exists()


def test_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("cifar10")
    module = MODULES["cifar"]
    whole = module.plan_of

    def small(size: str, activation: str) -> Any:
        plan = shorter(whole(size, activation), draws=2, others=2, tuning=1)
        return dataclasses.replace(plan, rates=(2e-3,), decays=(0.01,))

    monkeypatch.setattr(module, "plan_of", small)
    monkeypatch.setattr(module, "PENALTIES", {"spectral": ("spectral*{:g}", (0.1,))})
    monkeypatch.setattr(few_labels, "_right", lambda network, held: float(len(held)))
    record = ran("cifar", tmp_path, monkeypatch)
    assert record.figures["test accuracy, gelu, no penalty"].value == 10_000
    assert record.figures["gain, relu: spectral"].value == 0


def test_robustness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    module = MODULES["robustness"]
    small = {"pictures": 100, "attacked": 20, "seeds": 2, "steps": 2}
    monkeypatch.setattr(module, "PLANS", {"small": shorter(module.PLANS["small"], **small)})
    record = ran("robustness", tmp_path, monkeypatch)
    for name in module.CHOICES:
        falling = [record.figures[f"accuracy at {radius:g}, {name}"].value for radius in (0, 0.5)]
        assert falling[0] >= falling[1]
    assert record.settings["arms"]["PGD + spectral"]["bound"] in module.BOUNDS


def test_bracket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    module = MODULES["bracket"]
    plan = shorter(module.PLANS["small"], pictures=100, widths=(2, 3), at=(0, 2))
    monkeypatch.setattr(module, "PLANS", {"small": plan})
    monkeypatch.setattr(module, "LOOKED_AT", 10)
    monkeypatch.setattr(module, "ARMS", {"no penalty": "none", "spectral": "spectral(1)*0.1"})
    record = ran("bracket", tmp_path, monkeypatch)
    assert all(goal.met for goal in record.goals)
    same = [record.figures[f"upper, {name}, step 0"].value for name in module.ARMS]
    assert same[0] == same[1]


def test_cropped_pictures_are_moved_and_mirrored_ones() -> None:
    picture = torch.zeros(1, 3, 9, 9)
    picture[:, :, 4, 4] = torch.tensor([1.0, 2.0, 3.0])
    torch.manual_seed(0)
    found = few_labels.cropped(picture.expand(200, -1, -1, -1))
    places = {tuple(one[0].nonzero()[0].tolist()) for one in found}
    assert found.sum((2, 3)).unique(dim=0).tolist() == [[1.0, 2.0, 3.0]]
    assert {row for row, _ in places} == set(range(9))
    ramp = torch.arange(9.0).expand(40, 1, 9, 9)
    inside = few_labels.cropped(ramp)[:, 0, 4]
    steps = (inside[:, 5] - inside[:, 4]).unique().tolist()
    assert {-1.0, 1.0} <= set(steps)


def test_half_of_the_pictures_are_deformed() -> None:
    pictures = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    same = (few_labels.half_deformed(pictures) == pictures).flatten(1).all(1)
    assert same.tolist() == [False, True] * 3


@pytest.mark.parametrize("size", ["small", "full"])
def test_networks_of_every_plan_take_their_pictures(size: str) -> None:
    digits, robust = MODULES["digits"].PLANS[size], MODULES["robustness"].PLANS[size]
    named = [(digits.network, (1, 28, 28))]
    named += [
        (MODULES["cifar"].plan_of(size, activation).network, (3, 32, 32))
        for activation in MODULES["cifar"].ACTIVATIONS
    ]
    networks = [(models.build(name, **given, seed=0), shape) for (name, given), shape in named]
    networks += [
        (models.SmallCNN(1, 10, plan.widths, norm="none", grid=4, seed=0), (1, 28, 28))
        for plan in (robust, MODULES["bracket"].PLANS[size])
    ]
    for network, shape in networks:
        assert network(torch.rand(2, *shape)).shape == (2, 10)
