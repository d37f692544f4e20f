"""Attacks against linear classifiers, whose smallest flips are known, and balls as they are."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.rkhs.attacked import attacked, margin, soft_margin
from merkhet.rkhs.attacks import PGD, Noise
from merkhet.rkhs.smallest_flips import smallest_flips
from merkhet.rkhs.threat import Examples, Threat

NORMS = ("l2", "linf")


def linear(classes: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).double()


def curved(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    parts = (nn.Flatten(), nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, 4))
    return nn.Sequential(*parts).double()


def examples_of(model: nn.Module, count: int = 40, seed: int = 0) -> Examples:
    """Return inputs (n, 1, 6, 6) in [0, 1], labelled as the model says."""
    x = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        return Examples(x, model(x).argmax(1), torch.arange(count), seed)


def distances(model: nn.Module, examples: Examples, norm: str) -> torch.Tensor:
    """Return the exact distance to the nearest other class of a linear classifier, (n,)."""
    weight = model[1].weight.detach()
    scores = model(examples.x).detach()
    gaps = scores.gather(1, examples.y[:, None]) - scores
    rows = (weight[examples.y][:, None] - weight[None]).abs()
    lengths = rows.sum(2) if norm == "linf" else rows.norm(dim=2)
    return (gaps / lengths).nan_to_num(nan=math.inf).amin(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_pgd_reaches_what_a_linear_classifier_allows(norm, loss) -> None:
    model = linear(2 if loss == "cross_entropy" else 4)
    examples = examples_of(model)
    exact = distances(model, examples, norm)
    radius = float(exact.median())
    with attacked(model) as network:
        _, wrong = PGD(loss, restarts=0).find(network, examples, Threat(norm, None), radius)
    # Where two classes are equally near, the margin may turn between them: 3 % is left to that.
    assert not bool((wrong & (exact > radius)).any())
    assert bool(wrong[exact < 0.97 * radius].all())


@pytest.mark.parametrize("norm", NORMS)
def test_smallest_flips_of_a_linear_classifier_are_exact(norm) -> None:
    model = linear(4)
    examples = examples_of(model)
    found = smallest_flips(model, (examples.x, examples.y), norm, clip=None, steps=3)
    # 16 halvings of an overshoot of 2 % leave 2^-16 of the size.
    torch.testing.assert_close(
        found.sizes, distances(model, examples, norm), rtol=2**-15, atol=1e-12
    )
    assert bool((found.sizes >= distances(model, examples, norm) * (1 - 1e-9)).all())
    assert torch.equal(model(found.points).argmax(1), found.labels)
    assert not bool((found.labels == examples.y).any())


def test_smallest_flips_within_limits_are_those_of_a_bisection_over_the_multiplier() -> None:
    model = linear(2, seed=3)
    examples = examples_of(model)
    found = smallest_flips(model, (examples.x, examples.y), restarts=0)
    for x, y, size in zip(examples.x, examples.y.tolist(), found.sizes.tolist(), strict=True):
        slope = (model[1].weight[1 - y] - model[1].weight[y]).detach()
        gap = float((model(x[None])[0, y] - model(x[None])[0, 1 - y]).detach())
        low, high = 0.0, 1e3  # |delta| is least at delta = clip(x + m slope) - x, gap closed
        for _ in range(80):
            middle = (low + high) / 2
            delta = (x.flatten() + middle * slope).clamp(0, 1) - x.flatten()
            low, high = (low, middle) if float(delta @ slope) > gap else (middle, high)
        assert size >= float(delta.norm()) * (1 - 1e-9)
        assert size <= float(delta.norm()) * 1.02  # active limits are found one after another


def test_smallest_flips_of_a_curved_network_are_below_what_pgd_needs() -> None:
    model = curved()
    examples = examples_of(model)
    found = smallest_flips(model, (examples.x, examples.y))
    assert bool(found.found.all())
    torch.testing.assert_close(
        (found.points - examples.x).flatten(1).norm(dim=1), found.sizes, rtol=1e-9, atol=1e-12
    )
    assert not bool((model(found.points).argmax(1) == examples.y).any())
    with attacked(model) as network:
        for radius in (0.05, 0.1, 0.2):
            wrong = PGD().find(network, examples, Threat(), radius)[1]
            # Both search a boundary that is not convex: one in twenty may go the other way.
            assert int((wrong & (found.sizes > radius)).sum()) <= 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_within_the_ball_and_valid_in_exact_arithmetic(norm, clip, dtype) -> None:
    examples = examples_of(linear())
    x, threat = examples.x.to(dtype), Threat(norm, clip)
    spread = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for radius in (1e-6, 0.03, 0.5, 3.0):
        drawn = threat.draw(examples, radius, 1).to(dtype)
        for points in (drawn, threat.reach(x, x + spread, radius), x + spread, x + math.nan):
            settled = threat.settle(x, points, radius)
            assert settled.dtype == dtype
            assert float(threat.sizes(x, settled).max()) <= radius
            assert clip is None or (float(settled.min()) >= 0 and float(settled.max()) <= 1)
        # Nothing is given away: at 1e-6 rounding of float32 is a good part of the radius itself.
        moved = threat.sizes(x, threat.settle(x, x + 9 * spread.sign(), radius))
        least = radius * (1 - 1e-3) if radius > 1e-3 or dtype == torch.float64 else radius / 3
        assert clip is not None or float(moved.min()) > least


@pytest.mark.parametrize("norm", NORMS)
def test_draws_are_uniform_in_the_ball(norm) -> None:
    count, size = 4000, 3
    examples = Examples(
        torch.zeros(count, size).double(), torch.zeros(count).long(), torch.arange(count)
    )
    threat = Threat(norm, None)
    shares = threat.sizes(examples.x, threat.draw(examples, 2.0, 0)) / 2
    # |x|^d of a uniform point is uniform: Kolmogorov's distance is below 1.95 / sqrt(n) in 999
    # of 1000 draws.
    uniform = (shares**size).sort().values
    steps = torch.arange(1, count + 1).double() / count
    assert float((uniform - steps).abs().max()) < 1.95 / math.sqrt(count)
    edge = threat.sizes(examples.x, threat.draw(examples, 2.0, 0, edge=True))
    torch.testing.assert_close(edge, torch.full_like(edge, 2.0), rtol=1e-6, atol=0)


def test_draws_of_an_example_do_not_depend_on_the_others() -> None:
    examples = examples_of(linear())
    some = examples.take(torch.tensor([5, 2]))
    whole = Threat().draw(examples, 0.3, 7)
    assert torch.equal(Threat().draw(some, 0.3, 7), whole[[5, 2]])
    assert not torch.equal(Threat().draw(examples, 0.3, 8), whole)


def test_the_steepest_step_gains_the_dual_norm_and_survives_any_scale() -> None:
    gradients = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    for norm, order in (("l2", 2), ("linf", 1)):
        steps = Threat(norm, None).steepest(gradients)
        gain = (steps * gradients).flatten(1).sum(1)
        torch.testing.assert_close(gain, gradients.flatten(1).norm(p=order, dim=1))
        for scale in (1e-200, 1e200):
            torch.testing.assert_close(Threat(norm, None).steepest(gradients * scale), steps)
        nothing = Threat(norm, None).steepest(gradients * math.nan)
        assert torch.equal(nothing, torch.zeros_like(gradients))


def test_the_soft_margin_is_the_cross_entropy_by_another_name() -> None:
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    plain = nn.functional.cross_entropy(scores, y, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(soft_margin(scores, y)), plain)
    torch.testing.assert_close(soft_margin(1e4 * scores, y) / 1e4, margin(scores, y))
    leaf = (1e6 * scores).requires_grad_()
    soft_margin(leaf, y).sum().backward()
    assert float(leaf.grad.abs().sum(1).min()) == pytest.approx(2)


def test_restarts_and_draws_only_add() -> None:
    model = curved()
    examples = examples_of(model)
    with attacked(model) as network:
        for kind, few, many in (
            (PGD, {"restarts": 0}, {"restarts": 3}),
            (Noise, {"draws": 2}, {"draws": 9}),
        ):
            steps = {"steps": 4} if kind is PGD else {}
            for radius in (0.1, 0.3):
                first = kind(**few, **steps).find(network, examples, Threat(), radius)[1]
                more = kind(**many, **steps).find(network, examples, Threat(), radius)[1]
                assert not bool((first & ~more).any())


def test_an_attack_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    parts = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 3))
    model = nn.Sequential(*parts).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before, modes = copy.deepcopy(model), [part.training for part in model.modules()]
    x, y = torch.rand(6, 1, 6, 6), torch.zeros(6).long()
    drawn = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), attacked(model) as network:
        PGD(steps=3).find(network, Examples(x, y, torch.arange(6)), Threat(), 0.1)
        raise RuntimeError
    assert [part.training for part in model.modules()] == modes
    assert [one.requires_grad for one in model.parameters()] == [
        one.requires_grad for one in before.parameters()
    ]
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert model[4].bias.grad is None
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="cross_entropy, margin"):
        PGD("hinge")
    with pytest.raises(InputError, match="1 step or more"):
        PGD(steps=0)
    with pytest.raises(InputError, match="give 1 or more"):
        Noise(0)
    with pytest.raises(InputError, match="l2, linf"):
        Threat("l1")
    with pytest.raises(InputError, match=r"as \(0, 1\), or None"):
        Threat("l2", (1.0, 0.0))
    with pytest.raises(InputError, match="restarts 0 or more"):
        smallest_flips(linear(), (torch.rand(2, 36), torch.zeros(2).long()), restarts=-1)
