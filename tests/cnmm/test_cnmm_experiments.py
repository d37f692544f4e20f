"""Experiments of the package run end to end, small; their parts are right."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from merkhet.cnmm import cnmm_classifier, estimators
from merkhet.cnmm.costs import count_costs
from merkhet.cnmm.experiments import twin
from merkhet.cnmm.extraction.extract import extract
from merkhet.core.errors import MissingExtraError
from merkhet.report import read_record, trial
from merkhet.report.trial import reproduce

NAMES = ("latency", "mean_field", "recalibration")
MODULES = {name: importlib.import_module(f"merkhet.cnmm.experiments.{name}") for name in NAMES}


@pytest.fixture(autouse=True)
def counted_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count parameters for the cost of edges: to trace a mixture takes longer than to train it."""
    quick = partial(count_costs, by="parameters")
    monkeypatch.setattr(estimators, "count_costs", quick)
    monkeypatch.setattr(MODULES["recalibration"], "count_costs", quick)


def here(work: Mapping[str, Any], workers: int | None = None) -> Iterator[tuple[str, Any, float]]:
    """Do the work in this process: to start others takes longer than these small ones."""
    for name, function in work.items():
        yield name, function(), 0.0


def ran(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """Run an experiment with a smaller plan, and return its record."""
    module = MODULES[name]
    plan = dataclasses.replace(module.PLANS["small"], **changes)
    monkeypatch.setattr(module, "PLANS", {"small": plan})
    monkeypatch.setattr(trial, "in_processes", here)
    record = read_record(reproduce(getattr(module, name), "small", folder))
    assert (folder / "cnmm" / f"{name}.png").exists()
    assert all(math.isfinite(figure.value) for figure in record.figures.values())
    return record


def test_mean_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    module = MODULES["mean_field"]
    few = {name: module.KINDS[name] for name in ("ReLU, batch norm", "affine")}
    monkeypatch.setattr(module, "KINDS", few)
    small = {
        "pictures": 128,
        "calibration": 64,
        "tested": 50,
        "channels": (2, 3),
        "nodes": 3,
        "seeds": 2,
    }
    record = ran("mean_field", tmp_path, monkeypatch, **small)
    assert [goal.met for goal in record.goals] == [True]
    figures = record.figures
    for when in module.TIMES:
        assert figures[f"error, affine, {when}"].value < 1e-5  # percent
        assert figures[f"agreement, affine, {when}"].value == 100
        assert figures[f"error, ReLU, batch norm, {when}"].value > 1
        assert figures[f"error, ReLU, batch norm, {when}"].interval is not None


def test_recalibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    module = MODULES["recalibration"]
    monkeypatch.setattr(module, "PICTURES", (32, 512, 2048))
    small = {"pictures": 512, "tested": 50, "channels": (2, 3), "nodes": 3, "seeds": 2}
    record = ran("recalibration", tmp_path, monkeypatch, **small)
    figures = record.figures
    assert len(record.settings["paths by seed, batch norm"]) == 2
    assert record.settings["paths by seed, batch norm"]["0"]["longest"] == "0-1-2,0-1-2"
    assert figures["points lost, most, 32 pictures"].value >= (
        figures["points lost, mean, 32 pictures"].value
    )
    for stage in range(2):
        start = f"variance after stage {stage}"
        mixture = figures[f"{start}, mixture, fresh"].value
        network = figures[f"{start}, longest network, fresh"].value
        assert mixture < network  # a mean of normalised states varies less than each of them


def test_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    module = MODULES["latency"]
    monkeypatch.setattr(module, "BATCHES", (1,))
    monkeypatch.setattr(module, "THREADS", (1,))
    monkeypatch.setattr(module.torch, "compile", as_it_is)
    record = ran("latency", tmp_path, monkeypatch, repeats=2, paths=3, rounds=2)
    exact = [goal.met for goal in record.goals if "outputs" in goal.goal]
    assert exact == [True, True]
    assert next(goal for goal in record.goals if goal.goal.startswith("operations")).met
    assert "left out" not in record.notes
    assert "longest network, torch.compile, batch 1" in record.figures


def test_runtimes_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = MODULES["latency"]
    monkeypatch.setattr(module.torch, "compile", no_compiler)
    monkeypatch.setattr(module, "export_network", no_library)
    model = cnmm_classifier(1, 10, (2,), 3, stride=2)
    found = module._runtimes(module.Plan(2, 1, 1), model, torch.rand(4, 1, 8, 8))
    assert found["notes"] == [
        "torch.compile is left out: no compiler.",
        "ONNX Runtime is left out: no onnx.",
    ]
    assert list(found["seconds"]) == [f"longest network, eager, batch {n}" for n in (1, 16)]


def as_it_is(network: nn.Module, **options: Any) -> nn.Module:
    return network


def no_compiler(network: nn.Module, **options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler\nand more")

    return run


def no_library(*given: Any) -> None:
    raise MissingExtraError("no onnx")


def test_the_twin_is_told_from_other_networks() -> None:
    model = cnmm_classifier(1, 10, twin.WIDTHS, 5, stride=2).eval()
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    network = extract(model, twin.NODES, [x])
    by_hand = twin.twin_of(network)
    operations = partial(twin._operations, x=x)
    assert operations(network) == operations(by_hand)
    other = extract(model, ((0, 2, 4), (0, 3, 4), (0, 2, 4)), [x])  # of as many convolutions
    assert operations(other) != operations(by_hand)
    with torch.no_grad():
        assert twin._difference(by_hand(x), network(x)) <= 1e-6
        assert twin._difference(by_hand(x), other(x)) > 1e-3
