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
    monkeypatch.setattr(spectra, "DIMS", {3: 100})
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
    grown = {name: record.figures[f"{name}, exponent of growth"].value for name in ("NTK", "CKN")}
    assert grown["NTK"] < grown["CKN"]


def test_few_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    plan = {"pool": 80, "test": 60, "labels": (30, 60), "seeds": 2, "networks": 2}
    monkeypatch.setattr(labels, "PLANS", {"small": plan})
    monkeypatch.setattr(labels, "STEPS", 3)
    monkeypatch.setattr(labels, "PASSES", 1)
    monkeypatch.setattr(labels, "NETWORKS", {name: labels.DENSE for name in labels.NETWORKS})
    record = ran("small_data", tmp_path)
    assert record.figures["dense NTK, 60 labels"].value > 30
    methods = (*labels.METHODS, "conv NTK - RBF", "conv NTK - CNN")
    assert set(record.figures) == {f"{m}, {n} labels" for m in methods for n in (30, 60)}
    gain = record.figures["conv NTK - CNN, 60 labels"].value  # of two seeds, which both have
    means = (record.figures[f"{m}, 60 labels"].value for m in ("conv NTK", "CNN"))
    assert gain == pytest.approx(next(means) - next(means))


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


def test_the_ridge_with_the_least_leave_one_out_error_predicts() -> None:
    """Leaving each input out and solving again gives the same errors, choice and predictions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    other = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    targets = x[:, :2].sin() + 0.1 * noise
    own, cross = ((-torch.cdist(one, x).square() / 8).exp() for one in (x, other))
    errors = {}
    for ridge in labels.default_ridges(own):
        shift = own + ridge * torch.eye(12, dtype=torch.float64)
        left = []
        for out in range(12):
            rest = [i for i in range(12) if i != out]
            fitted = torch.linalg.solve(shift[rest][:, rest], targets[rest])
            left.append(own[out, rest] @ fitted - targets[out])
        errors[ridge] = float(torch.stack(left).square().mean())
    best = min(errors, key=lambda ridge: errors[ridge])
    assert min(errors) < best < max(errors)
    wanted = cross @ torch.linalg.solve(own + best * torch.eye(12, dtype=torch.float64), targets)
    error, scores = labels._ridge(own, cross, targets)
    assert error == pytest.approx(errors[best], rel=1e-8)
    torch.testing.assert_close(scores, wanted, rtol=1e-8, atol=1e-8)


def test_distances_of_the_yardsticks_are_those_of_the_map() -> None:
    """Read off a Gram matrix they equal |Phi(x) - Phi(y)| / |Phi(x)| computed without it."""
    head = (deformations.Flatten(), deformations.Linear())
    network = deformations.Sequential(*head, deformations.ReLU())
    x = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = gram(network, x, kind="nngp", dtype=torch.float64, progress=False)
    apart = deformations.distance(network, x, x, "nngp")
    wanted = apart / deformations.diagonal(network, x, "nngp").sqrt()[:, None]
    # The formula from the Gram matrix cancels: its square is right to roundings of the kernel.
    torch.testing.assert_close(deformations._relative(kernel), wanted, rtol=1e-7, atol=1e-7)
    assert bool((wanted.fill_diagonal_(1) > 0.1).all())
