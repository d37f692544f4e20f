"""The penalties against closed forms, double loops, finite differences; the ratios as bounds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.deformations import deform, displacement_norms
from merkhet.core.errors import InputError
from merkhet.rkhs.adversarial import AdversarialPenalty, ascend
from merkhet.rkhs.deformation import DeformationPenalty, TangentPenalty
from merkhet.rkhs.fields import random_fields, tangents
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.rkhs.loss_based import AdversarialLoss, LossGradientPenalty
from merkhet.rkhs.penalty import Penalty
from merkhet.rkhs.variation import (
    adversarial_ratio,
    deformation_ratio,
    gradient_norms,
    tangent_ratio,
)

ROUNDING = 1e-12  # float64, sums of some hundred terms


def linear(inputs: int = 48, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).double()


def smooth() -> nn.Sequential:
    """Return a small smooth network, for which finite differences converge."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 3),
    ).double()


def pictures(count: int = 5, channels: int = 3, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 3


def weights(network: nn.Sequential) -> Tensor:
    return network[1].weight.detach()


@pytest.mark.parametrize(
    "penalty",
    [GradientPenalty(), GradientPenalty("mean", exact=True)],
    ids=["sup", "mean"],
)
def test_the_gradient_of_a_linear_network_is_its_weight(penalty: Penalty) -> None:
    network, (x, _) = linear(), pictures()
    value, logs = penalty(network, x)
    assert float(value) == pytest.approx(float(weights(network).square().sum()), rel=ROUNDING)
    assert float(logs["gradient"]) == float(value)


@pytest.mark.parametrize(
    ("select", "reduction"), [("gradient", "sup"), ("all", "sup"), ("all", "mean")]
)
def test_the_attack_of_a_linear_network_reaches_the_sphere(select: str, reduction: str) -> None:
    network, (x, _) = linear(), pictures()
    value, _ = AdversarialPenalty(0.3, select=select, reduction=reduction, chunk=7)(network, x)
    assert float(value) == pytest.approx(0.09 * float(weights(network).square().sum()), rel=1e-10)


def test_the_tangents_of_a_linear_network_are_products() -> None:
    network, (x, _) = linear(), pictures()
    for reduction in ("mean", "sup"):
        penalty = TangentPenalty(reduction=reduction, generator=torch.Generator().manual_seed(5))
        value, _ = penalty(network, x)
        fields = random_fields(x, 1.0, 0.25, generator=torch.Generator().manual_seed(5))
        products = tangents(x, fields).flatten(1) @ weights(network).T
        squares = products.square()
        expected = squares.sum(1).mean() if reduction == "mean" else squares.amax(0).sum()
        assert float(value) == pytest.approx(float(expected), rel=ROUNDING)


def test_the_ratios_of_a_linear_network_are_at_most_its_weights_norms() -> None:
    network, (x, _) = linear(), pictures()
    norms = weights(network).norm(dim=1).expand(5, 3)
    torch.testing.assert_close(gradient_norms(network, x, batch_size=2), norms, rtol=1e-12, atol=0)
    reached = adversarial_ratio(network, x, 0.5, batch_size=3)
    torch.testing.assert_close(reached, norms, rtol=1e-10, atol=0)
    for ratios in (deformation_ratio(network, x), tangent_ratio(network, x)):
        assert (ratios <= norms * (1 + 1e-12)).all()
        assert (ratios > 0).all()


def test_ratios_are_exact_where_the_direction_is_the_weight() -> None:
    """f(x) = <t, x> for the tangent t of x itself: the ratio is |t|, nothing is lost."""
    x = pictures(1)[0]
    fields = random_fields(x, 1.0, 0.25, generator=torch.Generator().manual_seed(0))
    along = tangents(x, fields).flatten()
    network = linear(classes=1)
    with torch.no_grad():
        network[1].weight.copy_(along[None])
    assert float(tangent_ratio(network, x)) == pytest.approx(float(along.norm()), rel=1e-12)


def test_the_penalties_equal_double_loops() -> None:
    network, (x, y) = smooth(), pictures(channels=2, side=6)
    jacobians = [torch.func.jacrev(lambda z: network(z[None])[0])(example) for example in x]
    squares = torch.stack([jacobian.flatten(1).square().sum(1) for jacobian in jacobians])
    sup, logs = GradientPenalty()(network, x)
    assert float(sup) == pytest.approx(float(squares.amax(0).sum()), rel=ROUNDING)
    assert float(logs["gradient_batch_sup"]) == pytest.approx(
        float(squares.max().sqrt()), rel=1e-12
    )
    mean, _ = GradientPenalty("mean", exact=True)(network, x)
    assert float(mean) == pytest.approx(float(squares.sum(1).mean()), rel=ROUNDING)
    gradients = []
    for example, label in zip(x, y, strict=True):
        leaf = example[None].clone().requires_grad_()
        loss = F.cross_entropy(network(leaf), label[None])
        gradients.append(torch.autograd.grad(loss, leaf)[0].flatten())
    rows = torch.stack(gradients)
    l2, _ = LossGradientPenalty()(network, x, y)
    l1, _ = LossGradientPenalty(1)(network, x, y)
    assert float(l2) == pytest.approx(float(rows.square().sum(1).mean()), rel=ROUNDING)
    assert float(l1) == pytest.approx(float(rows.abs().sum(1).mean()), rel=ROUNDING)


def attack_by_loops(network: nn.Module, x: Tensor, radius: float, steps: int) -> Tensor:
    """Return the rises (n, K), each example attacked alone."""
    rises = torch.zeros(len(x), 3, dtype=x.dtype)
    for (place, example), k in itertools.product(enumerate(x), range(3)):
        delta = torch.zeros_like(example)
        for _ in range(steps):
            leaf = delta.clone().requires_grad_()
            gradient = torch.autograd.grad(network((example + leaf)[None])[0, k], leaf)[0]
            delta = delta + 1.5 * radius / steps * gradient / gradient.norm()
            delta = delta * min(1.0, radius / float(delta.norm()))
        before, after = network(example[None])[0, k], network((example + delta)[None])[0, k]
        rises[place, k] = (after - before).detach()
    return rises


def test_the_attack_equals_double_loops() -> None:
    network, (x, _) = smooth(), pictures(channels=2, side=6)
    rises = attack_by_loops(network, x, 0.7, 4)
    settings = {"radius": 0.7, "steps": 4, "select": "all"}
    for chunk in (1, 10, 512):
        sup, _ = AdversarialPenalty(**settings, chunk=chunk)(network, x)
        mean, _ = AdversarialPenalty(**settings, reduction="mean", chunk=chunk)(network, x)
        assert float(sup) == pytest.approx(float(rises.amax(0).square().sum()), rel=1e-10)
        assert float(mean) == pytest.approx(float(rises.square().sum(1).mean()), rel=1e-10)
    chosen = gradient_norms(network, x).argmax(0)
    selected, _ = AdversarialPenalty(0.7, steps=4)(network, x)
    expected = rises[chosen, torch.arange(3)].square().sum()
    assert float(selected) == pytest.approx(float(expected), rel=1e-10)


def test_an_attack_stays_in_its_ball_and_rises_with_the_radius() -> None:
    network, (x, _) = smooth(), pictures(channels=2, side=6)
    classes = torch.arange(5) % 3
    values = []
    for radius in (0.01, 0.1, 1.0):
        delta = ascend(network, x, classes, radius, 5)
        assert (delta.flatten(1).norm(dim=1) <= radius * (1 + 1e-12)).all()
        values.append(float((network(x + delta) - network(x)).gather(1, classes[:, None]).min()))
    assert 0 < values[0] < values[1] < values[2]
    small = AdversarialPenalty(1e-5, select="all")(network, x)[0]
    gradient = GradientPenalty()(network, x)[0]
    assert math.sqrt(float(small)) / 1e-5 == pytest.approx(math.sqrt(float(gradient)), rel=1e-4)


def test_the_adversarial_loss_of_a_linear_network_is_known() -> None:
    """Of two classes, the worst delta is along the difference of the weights."""
    network, (x, _) = linear(classes=2), pictures()
    y = torch.arange(5) % 2
    difference = weights(network)[1] - weights(network)[0]
    sign = (1 - 2 * y).double()
    margin = (network(x)[:, 0] - network(x)[:, 1]).detach() * sign
    for norm, length in (("l2", difference.norm()), ("linf", difference.abs().sum())):
        value, _ = AdversarialLoss(0.2, norm)(network, x, y)
        expected = F.softplus(-(margin - 0.2 * length)).mean()
        assert float(value) == pytest.approx(float(expected), rel=1e-10)


def test_the_adversarial_loss_keeps_to_the_range() -> None:
    network, (x, y) = smooth(), pictures(channels=2, side=6)
    free, clipped = (
        float(AdversarialLoss(2.0, norm, clip=clip)(network, x, y)[0])
        for norm, clip in (("l2", None), ("l2", (0.0, 1.0)))
    )
    assert float(F.cross_entropy(network(x), y)) < clipped < free
    with pytest.raises(InputError, match="outside of clip"):
        AdversarialLoss(0.1, clip=(0.0, 1.0))(network, x + 1, y)


def test_the_random_projection_is_unbiased() -> None:
    network, (x, _) = smooth(), pictures(channels=2, side=6)
    exact = float(GradientPenalty("mean", exact=True)(network, x)[0])
    penalty = GradientPenalty("mean", generator=torch.Generator().manual_seed(0))
    draws = torch.stack([penalty(network, x)[0].detach() for _ in range(400)])
    error = float(draws.std()) / math.sqrt(400)
    assert error < 0.05 * exact
    assert abs(float(draws.mean()) - exact) < 4 * error


DETERMINISTIC = [
    GradientPenalty(),
    GradientPenalty("mean", exact=True),
    LossGradientPenalty(),
    TangentPenalty(),
    TangentPenalty(reduction="sup"),
    DeformationPenalty(samples=2),
    DeformationPenalty(samples=2, reduction="mean"),
]


@pytest.mark.parametrize("penalty", [*DETERMINISTIC, GradientPenalty("mean")], ids=repr)
def test_the_gradient_by_the_parameters_is_that_of_finite_differences(penalty: Penalty) -> None:
    network, (x, y) = smooth(), pictures(channels=2, side=6)

    def value() -> Tensor:
        torch.manual_seed(3)
        return penalty(network, x, y)[0]

    check_gradient(network, value)


@pytest.mark.parametrize("reduction", ["sup", "mean"])
def test_the_gradient_of_the_adversarial_penalty_is_that_at_a_fixed_delta(reduction: str) -> None:
    """Delta is detached, so the reference holds the attacked inputs fixed."""
    network, (x, _) = smooth(), pictures(channels=2, side=6)
    penalty = AdversarialPenalty(0.3, select="all", reduction=reduction)
    found = torch.autograd.grad(penalty(network, x)[0], list(network.parameters()))
    rows, classes = x.repeat(3, 1, 1, 1), torch.arange(3).repeat_interleave(5)
    fixed = rows + ascend(network, rows, classes, 0.3, 5)
    rises = (network(fixed) - network(rows)).gather(1, classes[:, None]).view(3, 5)
    value = rises.amax(1).square().sum() if reduction == "sup" else rises.square().sum(0).mean()
    expected = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def check_gradient(network: nn.Module, value) -> None:
    """Compare with central differences along random directions; errors are of order h^2."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        directions = [
            torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
        ]
        slope = sum(
            float((g * d).sum())
            for g, d in zip(gradients, directions, strict=True)
            if g is not None
        )
        ends = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(d, alpha=sign * 1e-5)
            ends.append(float(value()))
        difference = (ends[0] - ends[1]) / 2e-5
        assert difference == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_deformed_rises_equal_plain_ones() -> None:
    network, (x, _) = smooth(), pictures(channels=2, side=6)
    generator = torch.Generator().manual_seed(4)
    values = {
        reduction: float(
            DeformationPenalty(
                0.7,
                0.2,
                samples=3,
                reduction=reduction,
                generator=torch.Generator().manual_seed(4),
            )(network, x)[0]
        )
        for reduction in ("sup", "mean")
    }
    fields = [random_fields(x, 0.7, 0.2, generator=generator) for _ in range(3)]
    rises = torch.stack([network(deform(x, field)) - network(x) for field in fields]).amax(0)
    assert values["sup"] == pytest.approx(float(rises.amax(0).square().sum()), rel=1e-11)
    assert values["mean"] == pytest.approx(float(rises.square().sum(1).mean()), rel=1e-11)


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 7, 12), (2, 16)])
def test_every_variant_of_a_field_has_the_norms_asked_for(shape: tuple[int, ...]) -> None:
    x = torch.zeros(40, *shape)
    fields = random_fields(x, 1.5, 0.3, generator=torch.Generator().manual_seed(0))
    displacement, gradient = displacement_norms(fields.double())
    # the pool is kept in float32
    torch.testing.assert_close(displacement, torch.full_like(displacement, 1.5), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.3), rtol=1e-5, atol=0)
    assert len({tuple(field.flatten().tolist()) for field in fields}) > 30


@pytest.mark.parametrize("padding", ["zeros", "border", "circular", "reflection"])
def test_tangents_are_central_differences_of_deformations(padding: str) -> None:
    """For translations by a pixel, t is half the difference of the two moved pictures."""
    x, _ = pictures()
    for offset in ((1.0, 0.0), (0.0, 1.0)):
        field = torch.tensor(offset, dtype=torch.float64)[None, :, None, None].expand(1, 2, 4, 4)
        ahead, behind = (deform(x, sign * field, padding=padding) for sign in (1, -1))
        expected = (ahead - behind) / 2
        torch.testing.assert_close(tangents(x, field, padding), expected, rtol=0, atol=1e-12)


def test_signals_are_deformed_too() -> None:
    network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(30, 2))
    x = torch.randn(4, 2, 12)
    for penalty in (DeformationPenalty(), TangentPenalty()):
        value, _ = penalty(network, x)
        assert float(value) > 0


def test_a_single_function_has_no_class_dimension() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0)).double()
    x, _ = pictures()
    square = float(network[1].weight.detach().square().sum())
    assert float(GradientPenalty()(network, x)[0]) == pytest.approx(square, rel=1e-12)
    assert gradient_norms(network, x).shape == (5, 1)


def test_flat_places_have_a_gradient() -> None:
    """At a zero gradient nothing is NaN, in value and in the parameters' gradient."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        network[1].bias.fill_(-100.0)
    x, y = pictures()
    penalties = (
        *DETERMINISTIC,
        AdversarialPenalty(0.1),
        LossGradientPenalty(1),
        AdversarialLoss(1),
    )
    for penalty in penalties:
        value, _ = penalty(network, x.float(), y)
        gradients = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
        assert value.isfinite()
        assert all(g is None or g.isfinite().all() for g in gradients)


def test_differences_that_are_all_rounding_are_no_lower_bounds() -> None:
    network = linear().float()
    flat = torch.full((4, 3, 4, 4), 0.3)
    for padding in ("border", "circular", "reflection"):  # of which nothing moves
        ratios = deformation_ratio(network, flat, padding=padding)
        assert torch.equal(ratios, torch.zeros_like(ratios))
    x = pictures()[0].float()
    with pytest.raises(InputError, match="lost in the rounding"):
        adversarial_ratio(network, x, 1e-6)
    norms = weights(network).norm(dim=1)
    # At 1e-3 an input moves by thousands of its roundings.
    assert (adversarial_ratio(network, x, 1e-3) <= norms * 1.001).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradient_norms_neither_vanish_nor_overflow(scale: float) -> None:
    network, x = linear().float(), pictures()[0].float()
    norms = weights(network).norm(dim=1).expand(5, 3)
    network[1].weight.data.mul_(scale)
    torch.testing.assert_close(gradient_norms(network, x) / scale, norms)
