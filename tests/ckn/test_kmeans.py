"""Spherical k-means: its steps against loops, closed forms, symmetries, repair, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from merkhet.ckn.kmeans import Lloyd, assign, plain_step, spherical_kmeans
from merkhet.ckn.kmeans_repair import repair
from merkhet.core.errors import InputError

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EPS = torch.finfo(torch.float32).eps


def drawn(
    count: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64).to(dtype)


def unit(x: torch.Tensor) -> torch.Tensor:
    return (x.double() / x.double().norm(dim=1, keepdim=True)).to(x.dtype)


def slow_step(points: torch.Tensor, centres: torch.Tensor) -> tuple[list[int], list[list[float]]]:
    """Lloyd's step by Python's numbers, one at a time."""
    labels, sums = [], [[0.0] * points.shape[1] for _ in centres]
    for point in points.tolist():
        cosines = [math.fsum(map(math.prod, zip(point, c, strict=True))) for c in centres.tolist()]
        labels.append(cosines.index(max(cosines)))
        sums[labels[-1]] = [a + b for a, b in zip(sums[labels[-1]], point, strict=True)]
    return labels, sums


def test_the_plain_step_is_lloyds():
    points, centres = unit(drawn(83, 5)), unit(drawn(7, 5, 1))
    labels, cosines, sums, counts = plain_step(points, centres)
    by_hand, totals = slow_step(points, centres)
    assert labels.tolist() == by_hand
    assert counts.tolist() == [by_hand.count(j) for j in range(7)]
    assert (cosines - (points * centres[labels]).sum(1)).abs().max() < 1e-15
    assert (sums - torch.tensor(totals, dtype=torch.float64)).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("count", "width", "many"), [(5, 1, 2), (1000, 75, 64), (4097, 27, 200), (9001, 16, 3)]
)
def test_the_fast_step_is_the_plain_one(count, width, many):
    points, centres = (
        unit(drawn(count, width, 0, torch.float32)),
        unit(drawn(many, width, 1, torch.float32)),
    )
    fast, plain = assign(points, centres), plain_step(points.double(), centres.double())
    # A cosine in float32 is off by d roundings at most, half of which each of two can be wrong.
    assert (fast[1] - plain[1]).abs().max() <= width * EPS
    chosen = (points.double() * centres.double()[fast[0]]).sum(1)
    assert (plain[1] - chosen).max() <= 2 * width * EPS
    assert (fast[0] == plain[0]).double().mean() > 0.999 or width == 1
    sums = torch.zeros(many, width, dtype=torch.float64).index_add_(0, fast[0], points.double())
    assert (fast[2] - sums).abs().max() < 1e-11
    assert torch.equal(fast[3], fast[0].bincount(minlength=many))


def test_of_equal_centres_the_first_takes_the_points():
    points = unit(drawn(50, 6, 0, torch.float32))
    centres = unit(drawn(3, 6, 1, torch.float32)).repeat(30, 1)
    assert int(assign(points, centres)[0].max()) < 3
    assert int(plain_step(points, centres)[0].max()) < 3


@BOTH
def test_the_objective_never_falls_and_is_that_of_the_labels(dtype):
    points = drawn(3000, 8, 2, dtype)
    found = spherical_kmeans(points, 40, iterations=60, tolerance=0)
    rise = torch.tensor(found.history).diff()
    slack = 1e-13 if dtype == torch.float64 else 4 * EPS  # rounded rows, centres and cosines
    assert len(rise) > 10
    assert rise.min() >= -slack
    assert rise[0] > 1e-3
    cosines = unit(points).double() @ found.centres.double().T
    mean = float(cosines.gather(1, found.labels[:, None]).mean())
    assert mean == pytest.approx(found.objective, abs=slack)
    assert found.objective <= float(cosines.max(1).values.mean()) + slack
    assert found.iterations == len(found.history)
    assert found.history[-1] == found.objective
    norms = found.centres.double().norm(dim=1)
    assert (norms - 1).abs().max() < 2 * torch.finfo(dtype).eps


def test_at_the_end_of_lloyds_steps_nothing_moves():
    points = unit(drawn(2000, 6, 3))
    found = spherical_kmeans(points, 10, iterations=500, tolerance=0)
    assert found.iterations < 500
    labels, _, sums, _ = plain_step(points, found.centres)
    assert torch.equal(labels, found.labels)
    assert (unit(sums) - found.centres).abs().max() < 1e-14


@BOTH
def test_one_centre_is_the_mean_direction(dtype):
    points = drawn(500, 9, 4, dtype) + 0.3
    found = spherical_kmeans(points, 1)
    mean = unit(points).double().mean(0)
    assert found.objective == pytest.approx(float(mean.norm()), abs=2 * EPS)
    assert (found.centres[0] - mean / mean.norm()).abs().max() < 2 * EPS


@BOTH
def test_two_caps_are_told_apart_at_their_known_objective(dtype):
    # (t, +-sqrt(1 - t^2) u) about the poles: the mean cosine with the pole is the mean of |t|.
    heights = 0.9 + 0.1 * torch.rand(4000, generator=torch.Generator().manual_seed(0)).double()
    heights = heights.repeat_interleave(2)
    around = unit(drawn(4000, 3, 5)).repeat_interleave(2, 0)
    around[1::2] *= -1  # each cap is symmetric about its pole, so that the pole is its centre
    points = torch.cat([heights[:, None], (1 - heights**2).sqrt()[:, None] * around], 1)
    poles = torch.cat([points, -points]).to(dtype)
    found = spherical_kmeans(poles, 2)
    assert found.objective == pytest.approx(float(heights.mean()), abs=4 * EPS)
    assert (found.centres[:, 0].abs() - 1).abs().max() < 4 * EPS
    assert float(found.centres[:, 0].sum()) == pytest.approx(0, abs=4 * EPS)


@BOTH
def test_only_directions_count(dtype):
    points = drawn(700, 6, 6, dtype)
    scales = 2.0 ** torch.randint(-6, 7, (700, 1), generator=torch.Generator().manual_seed(0))
    one = spherical_kmeans(points, 12)
    other = spherical_kmeans(points * scales.to(dtype), 12)
    assert torch.equal(one.labels, other.labels)
    assert (one.centres - other.centres).abs().max() < 4 * torch.finfo(dtype).eps


def test_centres_turn_with_the_points():
    points = drawn(900, 7, 7)
    turn = torch.linalg.qr(drawn(7, 7, 8)).Q
    one, other = spherical_kmeans(points, 9), spherical_kmeans(points @ turn, 9)
    assert torch.equal(one.labels, other.labels)
    assert (one.centres @ turn - other.centres).abs().max() < 1e-13


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_any_scale_will_do(scale):
    points = drawn(300, 5, 9)
    one, other = spherical_kmeans(points, 6), spherical_kmeans(points * scale, 6)
    assert torch.equal(one.labels, other.labels)
    assert (one.centres - other.centres).abs().max() < 1e-14


def test_float32_of_any_scale_will_do():
    points = drawn(300, 5, 9, torch.float32)
    one = spherical_kmeans(points, 6)
    for scale in (1e-30, 1e37):
        other = spherical_kmeans(points * scale, 6)
        assert other.objective == pytest.approx(one.objective, abs=4 * EPS)


@BOTH
def test_rows_that_are_zero_or_rounding_are_left_out(dtype):
    points = drawn(400, 5, 10, dtype)
    rounding = drawn(30, 5, 11, dtype) * torch.finfo(dtype).eps
    more = torch.cat([points, torch.zeros(20, 5, dtype=dtype), rounding])
    one, other = spherical_kmeans(points, 7), spherical_kmeans(more, 7)
    assert torch.equal(one.centres, other.centres)
    assert torch.equal(one.labels, other.labels[:400])
    assert other.labels[400:].tolist() == [-1] * 50


def test_the_fast_path_does_not_depend_on_the_threads():
    points = drawn(9000, 75, 12, torch.float32)  # samples too: 9000 / 16 >= 32 * 16
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(spherical_kmeans(points, 16, seed=3))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(found[0].centres, other.centres)
        assert torch.equal(found[0].labels, other.labels)
        assert found[0].history == other.history


def test_a_seed_is_a_generator_and_decides():
    points = drawn(2000, 6, 13, torch.float32)
    one = spherical_kmeans(points, 20, seed=5)
    same = spherical_kmeans(points, 20, seed=torch.Generator().manual_seed(5))
    assert torch.equal(one.centres, same.centres)
    assert not torch.equal(one.centres, spherical_kmeans(points, 20, seed=6).centres)


def test_both_paths_find_as_good_centres():
    points = drawn(6000, 10, 14, torch.float32)
    fast, plain = spherical_kmeans(points, 24), spherical_kmeans(points.double(), 24)
    # From the same start, on the same samples; points on a border may fall to either side.
    assert fast.objective == pytest.approx(plain.objective, abs=1e-3)


def test_samples_cost_no_quality():
    points = unit(drawn(20000, 8, 15, torch.float32))
    sampled = [spherical_kmeans(points, 16, seed=seed).objective for seed in range(4)]
    whole = []
    for seed in range(4):
        drawn_rows = torch.randperm(20000, generator=torch.Generator().manual_seed(seed))[:16]
        run = Lloyd(points[drawn_rows], 20, 2e-3)
        run.on(points, lambda _more: None)
        whole.append(run.history[-1])
    assert sum(sampled) / 4 >= sum(whole) / 4 - 2e-3


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_dead_centres_find_the_rare_directions(dtype, seed):
    # 300 points of one direction and 11 others: nearly all of 12 drawn centres are equal.
    directions = unit(drawn(12, 6, 16, dtype))
    points = torch.cat([directions[:1].repeat(300, 1), directions[1:]])
    points *= 1 + torch.arange(311)[:, None].to(dtype)
    found = spherical_kmeans(points, 12, seed=seed)
    assert found.objective == pytest.approx(1, abs=2 * EPS)
    cosines = found.centres.double() @ directions.double().T
    assert sorted(cosines.argmax(1).tolist()) == list(range(12))
    assert (cosines.max(1).values - 1).abs().max() < 4 * EPS


def test_repair_takes_the_worst_then_the_farthest_and_never_lowers_the_objective():
    axes = torch.eye(4, dtype=torch.float64)
    points = torch.cat([axes[:1].repeat(6, 1), axes[3:], axes[3:], axes[2:3]])
    assigned = plain_step(points, torch.stack([axes[0], -axes[0], -axes[1]]))
    before = float(assigned[2].norm(dim=1).sum())
    assert repair(points, assigned) == (2, 0)
    labels, _, sums, counts = assigned
    # One alone is farther from the mean than two; then the first of equal ones, not both.
    assert labels.tolist() == [0] * 6 + [2, 0, 1]
    assert counts.tolist() == [7, 1, 1]
    assert torch.equal(sums[1:], axes[[2, 3]])
    assert float(sums.norm(dim=1).sum()) > before
    again = torch.zeros(3, 4, dtype=torch.float64).index_add_(0, labels, points)
    assert (again - sums).abs().max() < 1e-15


def test_repair_looks_at_all_points_where_the_worst_are_equal():
    axes = torch.eye(3, dtype=torch.float64)
    points = torch.cat([axes[2:].repeat(100, 1), unit(axes[:1] + axes[1:2]), axes[:1]])
    assigned = plain_step(points, torch.stack([axes[0], -axes[0], -axes[1]]))
    assert repair(points, assigned) == (2, 0)  # the 32 worst points are of one direction
    assert assigned[0][100:].tolist().count(2) == 1


def test_repair_says_how_many_are_left():
    axes = torch.eye(3, dtype=torch.float64)
    points = axes[:1].repeat(20, 1)
    assert repair(points, plain_step(points, axes)) == (0, 2)


@BOTH
def test_centres_that_differ_by_rounding_are_one(dtype):
    eps = torch.finfo(dtype).eps
    axes = torch.eye(3, dtype=dtype)
    near = unit(axes[:1] + eps * axes[1:2])
    points = torch.cat([axes[:1], near, axes[:1], near, axes[1:2], axes[2:]])
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    sums = torch.zeros(3, 3, dtype=torch.float64).index_add_(0, labels, points.double())
    assigned = labels, torch.ones(6, dtype=dtype), sums, labels.bincount()
    assert repair(points, assigned) == (1, 0)
    assert labels.tolist() in ([0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 2, 1])


@BOTH
@pytest.mark.parametrize("more", [1, 2, 5])
def test_fewer_directions_than_centres_are_refused_with_their_number(dtype, more):
    directions = drawn(6, 5, 17, dtype)
    scales = 0.1 + torch.rand(40, 1, generator=torch.Generator().manual_seed(0))
    points = (directions[:, None] * scales.to(dtype)).reshape(240, 5)
    assert spherical_kmeans(points, 6).objective == pytest.approx(1, abs=2 * EPS)
    with pytest.raises(InputError, match=r"with 6 directions: give centres=6 or fewer"):
        spherical_kmeans(points, 6 + more)


def test_as_many_points_as_centres_are_the_centres():
    points = drawn(30, 4, 18, torch.float32)
    found = spherical_kmeans(points, 30)
    assert found.objective == pytest.approx(1, abs=2 * EPS)
    assert sorted(found.labels.tolist()) == list(range(30))


@BOTH
def test_opposite_points_cancel_and_leave_a_unit_centre(dtype):
    half = drawn(50, 4, 19, dtype)
    found = spherical_kmeans(torch.cat([half, -half]), 1)
    assert float(found.centres.double().norm()) == pytest.approx(1, abs=2 * EPS)
    assert found.objective == pytest.approx(0, abs=2 * EPS)


def test_points_that_need_no_gradient_get_none_and_any_layout_will_do():
    points = drawn(6, 500, 20, torch.float32).T
    found = spherical_kmeans(points.requires_grad_(), 5)
    assert not found.centres.requires_grad
    assert torch.equal(found.centres, spherical_kmeans(points.detach().contiguous(), 5).centres)


def test_progress_is_told_whole_even_when_steps_end_early():
    told: list[int] = []
    points = unit(drawn(300, 4, 21))
    Lloyd(points[:3].clone(), 50, 0.5).on(points, told.append)
    assert sum(told) == 50 * 300
    assert len(told) < 50


def test_parts_of_one_step_may_be_empty():
    points = unit(drawn(1, 3, 22, torch.float32))
    labels, _, sums, counts = assign(points, points)
    assert labels.tolist() == [0]
    assert torch.equal(sums, points.double())
    assert counts.tolist() == [1]


@pytest.mark.parametrize(
    ("points", "centres", "given", "says"),
    [
        (torch.ones(5, 3, dtype=torch.int64), 2, {}, "torch.int64: give a tensor of float32"),
        (torch.ones(5, 3).half(), 2, {}, "torch.float16"),
        ([[1.0]], 1, {}, "points are list"),
        (torch.ones(5), 2, {}, r"shape \(5,\): give \(n, d\)"),
        (torch.ones(0, 3), 1, {}, r"shape \(0, 3\)"),
        (torch.ones(5, 3), 0, {}, "centres = 0: give an integer of 1 or more"),
        (torch.ones(5, 3), 2.0, {}, "centres = 2.0"),
        (torch.ones(5, 3), True, {}, "centres = True"),
        (torch.ones(5, 3), 2, {"iterations": 0}, "iterations = 0"),
        (torch.ones(5, 3), 2, {"tolerance": math.nan}, "tolerance = nan"),
        (torch.ones(5, 3), 2, {"seed": 1.5}, "seed 1.5"),
        (torch.eye(4), 5, {}, "5 centres of 4 points that are not zero"),
        (torch.zeros(5, 3), 1, {}, r"1 centres of 0 points that are not zero \(of 5\)"),
    ],
)
def test_what_cannot_be_clustered_is_refused(points, centres, given, says):
    with pytest.raises(InputError, match=says):
        spherical_kmeans(points, centres, **given)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_row_that_is_not_finite_is_named(bad):
    points = drawn(9, 3, 23, torch.float32)
    points[4, 1] = bad
    with pytest.raises(InputError, match=r"points\[4\] holds NaN or infinity"):
        spherical_kmeans(points, 2)


def test_large_numbers_whose_sum_overflows_are_no_infinity():
    points = drawn(9, 3, 24, torch.float32).abs() * 1e38
    assert spherical_kmeans(points, 2).objective > 0.5
