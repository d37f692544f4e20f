"""Relative distances, pairs and yardsticks: exact values, jackknife, coverage."""

from __future__ import annotations

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.stability import Conditions, measure_yardsticks, relative_distances
from merkhet.stability.distances import draw_pairs, jackknife


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_relative_distances_are_the_formula() -> None:
    one, other = gaussian(5, 3, 4), gaussian(5, 3, 4, seed=1)
    found = relative_distances(one, other)
    wanted = (one - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)
    assert torch.allclose(found, wanted, rtol=1e-14)
    # A metric but for the scale: homogeneous, and the triangle inequality after rescaling.
    third, scale = gaussian(5, 3, 4, seed=2), other.flatten(1).norm(dim=1)
    around = relative_distances(one, third) * third.flatten(1).norm(dim=1) / scale
    assert bool((found <= around + relative_distances(third, other) + 1e-12).all())
    assert torch.allclose(relative_distances(-7 * one, -7 * other), found)
    assert torch.equal(relative_distances(one, one), torch.zeros(5, dtype=torch.float64))


def test_sums_are_accumulated_in_double_precision() -> None:
    reference = torch.ones(1, 10_000_000, dtype=torch.float32)
    found = relative_distances(reference * 1.5, reference)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(0.5, rel=1e-12)
    half = relative_distances(torch.full((1, 300), 1.5).half(), torch.full((1, 300), 500.0).half())
    assert half.item() == pytest.approx(498.5 / 500, rel=1e-6)  # the squares overflow half


def test_the_distance_from_zero_is_not_defined_and_shapes_must_agree() -> None:
    assert relative_distances(
        torch.ones(2, 3), torch.tensor([[0.0] * 3, [1.0] * 3])
    ).isnan().tolist() == [True, False]
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 4\) cannot be compared"):
        relative_distances(torch.ones(2, 3), torch.ones(2, 4))


def test_pairs_are_balanced_different_and_of_one_label(generator: torch.Generator) -> None:
    pairs = draw_pairs(torch.zeros(50, dtype=torch.int64), 500, generator)
    assert len(pairs) == len(pairs.unique(dim=0)) == 500
    assert bool((pairs[:, 0] != pairs[:, 1]).all())
    assert pairs[:, 0].bincount().unique().tolist() == pairs[:, 1].bincount().unique().tolist()
    labels = torch.arange(50) % 7
    labels[0] = 9  # alone in its class
    pairs = draw_pairs(labels, 500, generator)
    assert bool((labels[pairs[:, 0]] == labels[pairs[:, 1]]).all())
    assert 0 not in pairs
    every = draw_pairs(torch.zeros(5, dtype=torch.int64), 2000, generator)
    assert len(every.unique(dim=0)) == len(every) == 20  # all there are
    assert draw_pairs(torch.arange(5), 2000, generator).shape == (0, 2)


def test_the_jackknife_is_the_plain_one() -> None:
    pairs = draw_pairs(torch.zeros(8, dtype=torch.int64), 24, torch.Generator().manual_seed(0))
    distances = gaussian(24).abs()
    found = jackknife(pairs, distances)
    without = torch.stack([distances[(pairs != index).all(1)].mean() for index in range(8)])
    margin = 1.959963984540054 * (7 / 8 * (without - without.mean()).square().sum()).sqrt()
    assert found is not None
    assert found.value == pytest.approx(distances.mean().item())
    assert found.high - found.value == pytest.approx(margin.item())
    assert jackknife(torch.tensor([[0, 1], [1, 0]]), torch.ones(2)) is None


def test_the_jackknife_interval_covers() -> None:
    """Distances on a line: E|X - Y| of two standard Gaussians is 2 / sqrt(pi)."""
    truth, hits = 2 / torch.pi**0.5, 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        points = torch.randn(40, generator=generator, dtype=torch.float64)
        pairs = draw_pairs(torch.zeros(40, dtype=torch.int64), 400, generator)
        found = jackknife(pairs, (points[pairs[:, 0]] - points[pairs[:, 1]]).abs())
        assert found is not None
        hits += found.low <= truth <= found.high
    assert hits >= 180  # 95 % nominal; a binomial of 190 is at 180 after three deviations


def test_yardsticks_are_means_over_all_pairs_where_all_are_drawn() -> None:
    inputs, labels = gaussian(7, 1, 4), torch.tensor([0, 1, 0, 1, 0, 2, 0])
    distance = (
        torch.cdist(inputs.flatten(1), inputs.flatten(1)) / inputs.flatten(1).norm(dim=1)[:, None]
    )
    apart = ~torch.eye(7, dtype=torch.bool)
    same = (labels[:, None] == labels) & apart
    for batch_size in (1, 3, 64):
        found = measure_yardsticks(
            lambda x: x, inputs, labels=labels, conditions=Conditions(batch_size=batch_size)
        )[""]
        assert found.all_label is not None
        assert found.same_label is not None
        assert found.all_label.value == pytest.approx(distance[apart].mean().item())
        assert found.same_label.value == pytest.approx(distance[same].mean().item())
        assert found.all_label.low < found.all_label.value < found.all_label.high


def test_yardsticks_that_are_not_there() -> None:
    inputs = gaussian(6, 1, 4)
    assert measure_yardsticks(lambda x: x, inputs)[""].same_label is None
    found = measure_yardsticks(lambda x: x, inputs, labels=torch.arange(6))[""]
    assert found.same_label is None
    assert found.all_label is not None
    none = measure_yardsticks(lambda x: x, inputs, conditions=Conditions(pairs=0))[""]
    assert none.all_label is None
    assert measure_yardsticks(lambda x: x, inputs[:2])[""].all_label is None


def test_zero_representations_are_left_out_of_the_yardsticks() -> None:
    inputs = gaussian(6, 1, 4)
    inputs[2] = 0
    found = measure_yardsticks(lambda x: x, inputs)[""].all_label
    lengths = inputs.flatten(1).norm(dim=1)
    distance = torch.cdist(inputs.flatten(1), inputs.flatten(1)) / lengths[:, None]
    keep = ~torch.eye(6, dtype=torch.bool) & (lengths > 0)[:, None]
    assert found is not None
    assert found.value == pytest.approx(distance[keep].mean().item())
    with pytest.raises(InputError, match="the output is 0 on every input"):
        measure_yardsticks(lambda x: 0 * x, inputs)


def test_labels_must_fit() -> None:
    for labels in (torch.zeros(5, dtype=torch.int64), torch.zeros(6)):
        with pytest.raises(InputError, match=r"give \(6,\) integers"):
            measure_yardsticks(lambda x: x, gaussian(6, 1, 4), labels=labels)
