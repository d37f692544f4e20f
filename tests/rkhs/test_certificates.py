"""Certified radii: exact for linear networks, below every flip; margins; the margin bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.models import SmallCNN
from merkhet.rkhs.bracket import lipschitz
from merkhet.rkhs.certificates import (
    certified_accuracy,
    certified_radius,
    margins,
    normalised_margins,
)
from merkhet.rkhs.margin_bound import margin_bound


def _pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _linear(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def test_of_a_linear_classifier_the_radius_is_the_distance_to_the_nearest_boundary() -> None:
    model, x = _linear(), _pixels(20, 3, 4)
    y = model(x).argmax(1)
    logits = model.double()(x.double()).detach()
    weight = (model[2].weight @ model[1].weight).detach()
    expected = torch.full((20,), math.inf, dtype=torch.float64)
    for i in range(20):
        for j in set(range(4)) - {int(y[i])}:
            away = (logits[i, y[i]] - logits[i, j]) / (weight[y[i]] - weight[j]).norm()
            expected[i] = torch.minimum(expected[i], away)
    found = certified_radius(model, x, y)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-6)
    assert bool((found <= expected).all())


def test_no_point_within_the_radius_is_classified_otherwise() -> None:
    model = SmallCNN(1, 3, (4, 4), norm="batch", seed=1).double().eval()
    x = _pixels(16, 1, 8, 8).double()
    y = model(x).argmax(1)
    radii = certified_radius(model, x, y)
    assert bool((radii > 0).all())
    # Towards every other class, by gradients: the shortest way there that is not far off.
    for step in range(20):
        point = x.clone()
        for _ in range(5):
            point.requires_grad_()
            logits = model(point)
            other = logits.scatter(1, y[:, None], -math.inf).topk(1 + step % 2).values[:, -1]
            gap = other - logits.gather(1, y[:, None])[:, 0]
            (slope,) = torch.autograd.grad(gap.sum(), point)
            away = point.detach() + slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            moved = away - x
            size = moved.flatten(1).norm(dim=1).clamp(min=1e-12)
            point = (x + moved * (radii / size).view(-1, 1, 1, 1)).detach()
        assert bool((model(point).argmax(1) == y).all())


def test_the_heads_rows_never_make_a_radius_smaller_than_the_fallback() -> None:
    model, x = SmallCNN(1, 5, (4,), seed=2).eval(), _pixels(8, 1, 8, 8)
    y = model(x).argmax(1)
    bracket = lipschitz(model, x, ascents=0)
    found = certified_radius(model, x, y, bracket=bracket)
    fallback = margins(model, x, y) / (math.sqrt(2) * bracket.upper)
    assert bool((found >= fallback * (1 - 1e-6)).all())
    assert bool((found > 1.05 * fallback).any())


def test_a_network_that_does_not_end_in_a_linear_layer_has_the_fallback() -> None:
    model, x = nn.Sequential(_linear(), nn.Tanh()).eval(), _pixels(6, 3, 4)
    y = model(x).argmax(1)
    bracket = lipschitz(model, x, ascents=0)
    assert bracket.head is None
    expected = margins(model, x, y) / (math.sqrt(2) * bracket.upper)
    found = certified_radius(model, x, y, bracket=bracket)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_wrong_predictions_and_networks_without_a_bound_have_radius_zero() -> None:
    model, x = _linear(), _pixels(10, 3, 4)
    y = (model(x).argmax(1) + 1) % 4
    assert bool((certified_radius(model, x, y) == 0).all())

    class Exponential(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.exp()

    unbounded = nn.Sequential(_linear(), Exponential(), nn.Linear(4, 4)).eval()
    right = unbounded(x).argmax(1)
    assert bool((certified_radius(unbounded, x, right) == 0).all())


def test_normalisation_inside_the_network_puts_radii_in_pixels() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _linear()
            self.register_buffer("std", torch.tensor(0.25))

        def forward(self, z: Tensor) -> Tensor:
            found: Tensor = self.inner((z - 0.5) / self.std)
            return found

    x = _pixels(10, 3, 4)
    inside = Normalised().eval()
    y = inside(x).argmax(1)
    outside = certified_radius(_linear(), (x - 0.5) / 0.25, y, pixels=False)
    assert torch.allclose(certified_radius(inside, x, y), outside * 0.25, rtol=1e-6)
    with pytest.raises(InputError, match=r"pixels in \[0, 1\]"):
        certified_radius(_linear(), (x - 0.5) / 0.25, y)


def test_scaling_all_logits_changes_no_radius() -> None:
    model, x = _linear(), _pixels(10, 3, 4)
    y = model(x).argmax(1)
    before = certified_radius(model, x, y)
    with torch.no_grad():
        model[2].weight.mul_(1000)
        model[2].bias.mul_(1000)
    assert torch.allclose(certified_radius(model, x, y), before, rtol=1e-5)


def test_certified_accuracy_counts_radii_above() -> None:
    radii = torch.tensor([0.0, 0.5, 1.0, math.inf], dtype=torch.float64)
    found = certified_accuracy(radii, [0.0, 0.5, 0.9, 2.0])
    assert found.tolist() == [0.75, 0.5, 0.5, 0.25]


def test_margins_are_gaps_to_the_best_other_class() -> None:
    model, x = _linear(), _pixels(10, 3, 4)
    y = torch.arange(10) % 4
    logits = model.double()(x.double()).detach()
    best = logits.scatter(1, y[:, None], -math.inf).amax(1)
    found = margins(model, x, y)
    assert torch.allclose(found, logits.gather(1, y[:, None])[:, 0] - best)
    assert torch.allclose(normalised_margins(model, x, y, 4.0), found / 4)
    norms = torch.rand(4, 4, dtype=torch.float64) + 1
    gaps = (logits.gather(1, y[:, None]) - logits) / norms[y]
    expected = gaps.scatter(1, y[:, None], math.inf).amin(1)
    assert torch.allclose(normalised_margins(model, x, y, norms), expected)
    with pytest.raises(InputError, match="positive"):
        normalised_margins(model, x, y, 0.0)


def test_what_cannot_be_certified_is_refused() -> None:
    model, x = _linear(), _pixels(4, 3, 4)
    y = torch.zeros(4, dtype=torch.long)
    estimate = lipschitz(model, x, method="power", ascents=0)
    with pytest.raises(InputError, match="certifies nothing"):
        certified_radius(model, x, y, bracket=estimate)
    with pytest.raises(InputError, match=r"model.eval\(\)"):
        certified_radius(_linear().train(), x, y)
    with pytest.raises(InputError, match="labels from 0 to 4"):
        certified_radius(model, x, torch.tensor([0, 1, 2, 4]))
    with pytest.raises(InputError, match="integers"):
        certified_radius(model, x, torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="two classes"):
        certified_radius(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).eval(), x, y)
    with pytest.raises(InputError, match="NaN"):
        certified_radius(model, x * math.nan, y)
    with pytest.raises(InputError, match="outputs"):
        other = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
        certified_radius(model, x, y, bracket=lipschitz(other, x, ascents=0))


def test_the_margin_bound_is_its_three_terms_at_the_best_of_the_grids() -> None:
    values = torch.tensor([0.2, 1.0, 3.0, -0.5] * 2500, dtype=torch.float64)
    gammas, lambdas = (0.1, 1.0, 2.0), (1.0, 2.0, 8.0)
    found = margin_bound(
        values, norm=1.5, trace=1e4, gammas=gammas, lambdas=lambdas, eps=0.1, eta=0.01
    )
    totals = []
    for bound in (2.0, 8.0):
        for gamma in gammas:
            ramp = sum(min(1, max(0, 1 - (m - 0.1 * bound) / gamma)) for m in (0.2, 1, 3, -0.5)) / 4
            spread = 3 * math.sqrt(math.log(2 * 9 / 0.01) / 2e4)
            totals.append(ramp + 2 * bound * 100 / (gamma * 1e4) + spread)
    assert found.value == pytest.approx(min(totals))
    assert found.norm_class == 2.0
    assert not found.vacuous
    assert found.value == pytest.approx(found.empirical + found.complexity + found.confidence)
    assert "two classes" in str(found)


def test_the_margin_bound_grows_with_eps_and_norm_and_falls_with_examples() -> None:
    def value(n: int = 10**6, norm: float = 1.0, eps: float = 0.0) -> float:
        settings = {"gammas": (0.5, 1.0), "lambdas": (1.0, 4.0)}
        return margin_bound(torch.ones(n), norm=norm, trace=float(n), eps=eps, **settings).value

    assert value() < value(eps=0.2) < value(eps=0.7)
    assert value() < value(norm=2.0)
    assert value() < value(n=10**4)


def test_the_margin_bound_holds_for_a_kernel_machine_on_fresh_examples() -> None:
    # f(x) = <w, x> in the ball, labels sign(<w, x>) with 5 % flipped: the error is known.
    failures = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator).double())
        w = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        flips = torch.where(torch.rand(4000, generator=generator) < 0.05, -1.0, 1.0).double()
        y = (x @ w).sign() * flips
        found = margin_bound(
            y * (x @ w), norm=1.0, trace=4000.0, gammas=(0.1, 0.3), lambdas=(1.0,), eps=0.1
        )
        # Robust error: flipped, or |<w, x>| <= 0.1, which is uniform on [0, 1] on the sphere.
        failures += found.value < 0.05 + 0.95 * 0.1
        assert not found.vacuous
    assert failures == 0


def test_a_vacuous_bound_says_so_and_bad_numbers_are_refused() -> None:
    settings = {"trace": 10.0, "gammas": (1.0,), "lambdas": (1.0,)}
    found = margin_bound(torch.ones(10), norm=1.0, **settings)
    assert found.vacuous
    assert found.value == 1
    assert "vacuous" in str(found)
    with pytest.raises(InputError, match="above every lambda"):
        margin_bound(torch.ones(10), norm=2.0, **settings)
    with pytest.raises(InputError, match="finite upper bound"):
        margin_bound(torch.ones(10), norm=math.inf, **settings)
    with pytest.raises(InputError, match="eta"):
        margin_bound(torch.ones(10), norm=1.0, eta=1.0, **settings)
    with pytest.raises(InputError, match="gammas"):
        margin_bound(torch.ones(10), norm=1.0, trace=1.0, gammas=(0.0,), lambdas=(1.0,))


def test_the_radius_allows_for_a_network_that_rounds_itself() -> None:
    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor([[1.0, 1e-8], [1.0, 0.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x).to(torch.float32)

    class Exact(Rounds):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    x, y = torch.tensor([[1.0, 0.5]]), torch.tensor([0])
    assert float(certified_radius(Rounds().eval(), x, y)) == 0
    assert float(certified_radius(Exact().eval(), x, y)) > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"y": [0, 0]}, "labels in list"),
        ({"y": torch.zeros(2, dtype=torch.complex64)}, "integers"),
        ({"bracket": 3.0}, "lipschitz"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_is_no_label_or_bracket_is_refused(given: dict[str, object], words: str) -> None:
    settings = {"y": torch.zeros(2, dtype=torch.int64), **given}
    with pytest.raises(InputError, match=words):
        certified_radius(nn.Linear(3, 2).eval(), torch.rand(2, 3), **settings)  # type: ignore[arg-type]


def test_radii_are_a_tensor_and_grids_lists() -> None:
    with pytest.raises(InputError, match="radii in list"):
        certified_accuracy([0.1], [0.0])  # type: ignore[arg-type]
    good = {"norm": 1.0, "trace": 5.0, "gammas": [1.0], "lambdas": [1.0]}
    for bad in ({"norm": "a"}, {"gammas": 1.0}, {"eps": "a"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            margin_bound(torch.ones(5), **{**good, **bad})  # type: ignore[arg-type]
