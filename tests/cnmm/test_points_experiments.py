"""The experiments on Fashion-MNIST and street scenes run end to end, small."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from merkhet.cnmm import experiments
from merkhet.cnmm.estimators import Recipe
from merkhet.cnmm.experiments.alone import chain, step_seconds
from merkhet.cnmm.networks import cnmm_classifier
from merkhet.cnmm.objective import Schedule
from merkhet.data import load
from merkhet.report import read_record, trial
from merkhet.report.trial import reproduce

MODULES = {
    name: importlib.import_module(f"merkhet.cnmm.experiments.{name}")
    for name in ("fashion", "camvid")
}
SHORT = Recipe(epochs=1, batch_size=64)


def here(work: Mapping[str, Any], workers: int | None = None) -> Iterator[tuple[str, Any, float]]:
    """Do the work in this process: to start others takes longer than these small ones."""
    for name, function in work.items():
        yield name, function(), 0.0


def ran(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    module = MODULES[name]
    plan = dataclasses.replace(module.PLANS["small"], recipe=SHORT, **changes)
    monkeypatch.setattr(module, "PLANS", {"small": plan})
    monkeypatch.setattr(trial, "in_processes", here)
    return read_record(reproduce(getattr(experiments, name), "small", folder))


def test_fashion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    monkeypatch.setattr(MODULES["fashion"], "LEVELS", 3)
    monkeypatch.setattr(MODULES["fashion"], "VALIDATION", 200)
    small = {"pictures": 192, "channels": (3, 4), "nodes": (0, 1, 1), "widths": (0.5, 1.0)}
    record = ran("fashion", tmp_path, monkeypatch, **small)
    assert len(record.goals) == 6
    points = [name for name in record.figures if name.endswith("test accuracy")]
    assert points
    assert all(record.figures[name].interval is not None for name in points)
    assert any(name.startswith("alone 0-") for name in record.figures)
    assert record.figures["ratio"].value > 0
    assert (tmp_path / "cnmm" / "fashion.png").exists()


def test_camvid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("camvid")
    small = {"size": (24, 32), "channels": (3, 3, 3), "nodes": (1, 2, 1)}
    record = ran("camvid", tmp_path, monkeypatch, **small)
    shown = [one for name, one in record.figures.items() if name.endswith("mean IoU")]
    assert all(0 <= one.value <= 100 for one in shown)
    assert (tmp_path / "cnmm" / "camvid_scenes.png").exists()


@pytest.mark.parametrize("size", ["small", "full"])
def test_networks_of_every_plan_take_their_pictures(size: str) -> None:
    fashion, camvid = (MODULES[name].PLANS[size] for name in ("fashion", "camvid"))
    model = MODULES["fashion"]._network(fashion, 0)
    assert model(torch.rand(2, 1, 28, 28), model.sample()).shape == (2, 10)
    scenes = MODULES["camvid"]._network(camvid)
    height, width = camvid.size
    assert scenes(torch.rand(1, 3, height, width), scenes.sample()).shape == (1, 11, height, width)


def test_a_chain_is_what_the_mixture_runs_and_no_part_of_it() -> None:
    model = cnmm_classifier(1, 3, (3, 4), 3)
    path = ((0, 1, 2), (0, 2))
    alone, x = chain(model, path), torch.rand(4, 1, 8, 8)
    assert torch.equal(alone(x), model(x, model.path(path)))
    assert {id(p) for p in alone.parameters()}.isdisjoint(id(p) for p in model.parameters())


def test_a_step_of_the_mixture_is_timed_over_whole_cycles() -> None:
    schedule = Schedule(mixture_every=2, starts=2)
    digits = load("digits", "train")
    found = step_seconds(
        cnmm_classifier(1, 10, (3,), 3), digits, Recipe(batch_size=16), schedule, turns=2
    )
    assert found["ratio"] > 0
    assert found["seconds a step, mixture"] > 0
