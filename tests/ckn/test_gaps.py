"""What the norms' experiment measures: random labels, gaps under them, orders."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from merkhet.ckn.experiments import bounds, norms
from merkhet.ckn.experiments.gaps import (
    CLASSES,
    ORDER,
    gap,
    labelled,
    middle_margin,
    record_order,
)
from merkhet.report import Trial, read_record
from merkhet.report.trial import reproduce

LABELS = torch.randint(CLASSES, (20000,), generator=torch.Generator().manual_seed(0))


def test_no_label_is_random_at_share_0_and_a_tenth_stays_right_at_share_1() -> None:
    drawn, labels = labelled(LABELS, 20000, 0.0, 3)
    assert labels.equal(LABELS[drawn])
    drawn, labels = labelled(LABELS, 20000, 1.0, 3)
    right = float((labels == LABELS[drawn]).double().mean())
    assert abs(right - 0.1) < 5 * math.sqrt(0.09 / 20000)


def test_draws_of_one_seed_are_nested() -> None:
    few, some = labelled(LABELS, 100, 0.25, 3)
    more, others = labelled(LABELS, 1000, 0.25, 3)
    assert few.equal(more[:100])
    assert some.equal(others[:100])
    _, noisier = labelled(LABELS, 1000, 0.5, 3)
    wrong = others != LABELS[more]
    assert wrong.any()
    assert noisier[wrong].equal(others[wrong])


def test_the_gap_is_that_of_test_labels_drawn_anew() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = F.one_hot(LABELS, CLASSES) + torch.rand(len(LABELS), CLASSES, generator=generator) * 2
    own = scores[:100], scores[:100].argmax(1)  # no training error
    drawn, noisy = labelled(LABELS, len(LABELS), 0.5, 2)
    error = float((scores[drawn].argmax(1) != noisy).double().mean())
    assert abs(gap(own, (scores, LABELS), 0.5) - error) < 5 * math.sqrt(0.25 / len(LABELS))
    assert gap(own, (scores, LABELS), 1.0) == pytest.approx(0.9, abs=1e-12)


def test_the_middle_margin_is_of_right_ones_alone() -> None:
    assert middle_margin(torch.tensor([-5.0, 1.0, 2.0, 3.0, 0.0])) == 2.0
    assert middle_margin(torch.tensor([-5.0])) == 0.0


def test_orders_of_measures(tmp_path: Path) -> None:
    trial = Trial(norms.norm_and_generalisation, "small", tmp_path)
    trial.record.seeds = [0, 1]
    found = {key: [{"gap": float(key + seed)} for seed in (0, 1)] for key in range(5)}
    measures = {
        "up": (lambda key, _: math.inf if key == 4 else math.exp(key), 1.0),
        "down": (lambda key, _: -float(key), -1.0),
        "constant": (lambda key, _: math.inf, 0.0),
    }
    for name, (measure, wanted) in measures.items():
        value, interval = record_order(trial, name, found, measure)
        assert value == pytest.approx(wanted)
        assert interval == pytest.approx((wanted, wanted))
        assert trial.record.figures[f"{ORDER}, {name}"].value == value


@pytest.mark.parametrize("family", bounds.BOUNDS)
def test_bounds_are_above_slopes_between_pictures(family: str) -> None:
    network = bounds._network(family, 3, 0)
    logs = bounds._log_bounds(family, network)
    assert set(logs) == set(bounds.BOUNDS[family])
    x = torch.randn(2, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = network(x)
    apart = (one - one[:, None] - other + other[:, None]).abs()
    pairs = torch.triu_indices(CLASSES, CLASSES, 1)
    steepest = float(apart[pairs[0], pairs[1]].median()) / float((x[0] - x[1]).norm())
    # The kernel's map has Lipschitz constant 1, its average pooling at most 1.
    assert min(logs.values()) > math.log(steepest)


def test_norm_and_generalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_data: Callable[[str], Path]
) -> None:
    need_data("fashion-mnist")
    plan: dict[str, Any] = {"seeds": 2, "pool": 200, "test": 100, "fitted": 100, "patches": 2000}
    plan |= {"filters": (8, 16), "labels": (60, 150)}
    plan["cnn"] = {"labels": 40, "steps": 10, "channels": 2}
    monkeypatch.setattr(norms, "PLANS", {"small": plan})
    monkeypatch.setattr(norms, "PENALTIES", (1e-1, 1e-3))
    monkeypatch.setattr(norms, "SHARES", (0.0, 1.0))
    monkeypatch.setattr(bounds, "SHARES", (0.0, 1.0))
    monkeypatch.setattr(bounds, "DECAYS", (1.0, 10.0))
    record = read_record(reproduce(norms.norm_and_generalisation, "small", tmp_path))
    figures = {name: figure.value for name, figure in record.figures.items()}
    # A head with a smaller penalty is at least as long, and its pictures' margins are smaller.
    loose, tight = (f"CKN, 60 labels, 0% random, penalty {penalty:g}" for penalty in (1e-1, 1e-3))
    assert figures[f"norm, {loose}"] < figures[f"norm, {tight}"]
    assert figures[f"margin, {loose}"] > figures[f"margin, {tight}"]
    assert 0 < figures["gap, CKN, 60 labels, 100% random, penalty 0.001"] <= 0.9
    assert len(record.goals) == 9
    assert (tmp_path / "ckn" / "norm_and_generalisation.png").exists()
