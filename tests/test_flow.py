"""The flow of the whole: a run is trained, its folder audited, the way a user would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merkhet import data, models
from merkhet.audit import audit
from merkhet.audit.demo import cross_entropy
from merkhet.models import find_target
from merkhet.training import Optimisation, TrainingConfig, fit

CONFIG = TrainingConfig(60, 64, optimisation=Optimisation(learning_rate=1e-2))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    spec = models.Spec("small_cnn", {"widths": [8, 16]})
    made = {"model": {"name": spec.name, "arguments": spec.arguments}, "data": "digits"}
    fit(spec.build(), data.load("digits", "train"), cross_entropy, CONFIG, folder=folder, spec=made)
    return folder


def test_a_runs_folder_is_audited_on_its_own_data(run: Path) -> None:
    target = find_target(str(run))
    assert target.data == "digits"
    report = audit(target.module, target.data, samples=150, seconds=60)
    assert not report.failed
    assert not report.skipped
    assert report.sections["accuracy"].figures["accuracy"] > 0.8
    assert report.sections["stability"].figures["stability(rotation,10)"] > 0


def test_the_same_seed_gives_the_same_findings(run: Path) -> None:
    module = find_target(str(run)).module
    figures = [
        audit(module, "digits", samples=60, checks=["accuracy", "stability"], seed=3).to_dict()
        for _ in range(2)
    ]
    assert json.dumps(figures[0]["findings"]) == json.dumps(figures[1]["findings"])


def test_augmentation_that_the_report_asks_for_helps(run: Path) -> None:
    """The remedy remedies: rotated copies in training make the output turn less."""
    from merkhet.core.deformations import rotate

    def augmented(module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]):
        images, labels = batch
        return cross_entropy(module, (rotate(images, 10 * torch.randn(len(images))), labels))

    before = find_target(str(run)).module
    after = models.build("small_cnn", widths=[8, 16])
    fit(after, data.load("digits", "train"), augmented, CONFIG)
    changed = [
        audit(module, "digits", samples=200, checks=["stability"])
        .sections["stability"]
        .figures["stability(rotation,10)"]
        for module in (before, after)
    ]
    assert changed[1] < changed[0]
