"""Experiments of the kernels run end to end, small; their parts are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merkhet.kernels import experiments, gram
from merkhet.kernels.experiments import curves, deformations, labels, smooth, spectra, widths
from merkhet.report import read_record
from merkhet.report.trial import reproduce


def ran(name: str, folder: Path) -> Any:
    return read_record(reproduce(getattr(experiments, name), "small", folder))


def test_spectrum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "SIZES", {"small": (16, 64)})
    monkeypatch.setattr(spectra, "DIMS", {3: 60})
    monkeypatch.setattr(curves, "TEST", 200)
    monkeypatch.setattr(curves, "VALIDATION", 100)
    record = ran("spectrum", tmp_path)
    assert record.figures["exponent, NTK, 2 hidden, p = 3, even degrees"].value < -2.9
    assert (tmp_path / "kernels" / "spectrum.png").exists()


def test_smoothness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    monkeypatch.setattr(smooth, "COUNTS", {"small": 40})
    record = ran("smoothness", tmp_path)
    assert all(goal.met for goal in record.goals)


def test_deformations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("mnist")
    monkeypatch.setattr(deformations, "COUNTS", {"small": (2, 4)})
    monkeypatch.setattr(deformations, "SIZES", (0.1, 1.0))
    whole = deformations.data.load

    def cropped(*given: Any, **options: Any) -> Any:
        return whole(*given, **options, size=(12, 12))

    monkeypatch.setattr(deformations.data, "load", cropped)
    record = ran("deformation_stability", tmp_path)
    ratio = [record.figures[f"NTK, moved at {size} pixels"].value for size in ("0.1", "1")]
    assert 0 < ratio[0] < ratio[1]


def test_few_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    plan = {"pool": 80, "test": 60, "labels": (30, 60), "seeds": 2, "networks": 2}
    monkeypatch.setattr(labels, "PLANS", {"small": plan})
    monkeypatch.setattr(labels, "STEPS", 3)
    monkeypatch.setattr(labels, "NETWORKS", {name: labels.DENSE for name in labels.NETWORKS})
    record = ran("small_data", tmp_path)
    assert record.figures["dense NTK, 60 labels"].value > 30
    assert set(record.figures) == {f"{m}, {n} labels" for m in labels.METHODS for n in (30, 60)}


def test_wide_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "WIDTHS", {"small": (32, 128)})
    monkeypatch.setattr(widths, "SEEDS", {"small": 3})
    monkeypatch.setattr(widths, "STEPS", 20)
    record = ran("infinite_width", tmp_path)
    narrow, broad = (
        record.figures[f"kernel at initialisation, width {width}, relative"].value
        for width in (32, 128)
    )
    assert broad < narrow


def test_the_kernel_is_that_of_the_networks_which_are_trained() -> None:
    """The mean of empirical kernels over wide networks is the kernel, within its error."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = gram(widths.KERNEL, x, dtype=torch.float64, progress=False)
    found = torch.stack(
        [
            widths.empirical_ntk(widths.Wide(6, 300, torch.Generator().manual_seed(seed)), x)
            for seed in range(30)
        ]
    )
    error = found.std(0) / 30**0.5
    assert bool(((found.mean(0) - exact).abs() < 4 * error).all())
