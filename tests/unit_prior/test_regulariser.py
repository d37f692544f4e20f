"""The penalty of a prior, against densities in closed form, and as a module to train with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, kve
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.unit_prior.design.penalty_curve import (
    STEP,
    exact_curve,
    known_from,
    power_curve,
    slope_at,
)
from merkhet.unit_prior.design.regulariser import Regulariser, regulariser
from merkhet.unit_prior.design.unit_penalty import unit_penalty
from merkhet.unit_prior.prior import UnitPrior

Floats = NDArray[np.float64]


class Normal:
    """A standard normal unit: layer 1."""

    def log_joint_density(self, radius: Floats, units: int) -> tuple[Floats, Floats]:
        found = -units / 2 * math.log(2 * math.pi) - radius**2 / 2
        return found, np.zeros_like(found)


class Linear:
    """Layer 2 of a linear network of some width: |h| z with |h|^2 chi-square, a Bessel law."""

    def __init__(self, width: int) -> None:
        self.width = width

    def log_joint_density(self, radius: Floats, units: int) -> tuple[Floats, Floats]:
        order = (self.width - units) / 2
        bessel = np.log(kve(order, radius)) - radius
        constant = math.log(2) - units / 2 * math.log(2 * math.pi)
        constant -= self.width / 2 * math.log(2) + gammaln(self.width / 2)
        found = constant + order * np.log(radius) + bessel
        return found, np.zeros_like(found)


class Unsure(Normal):
    """A law that is not known at some lengths."""

    def __init__(self, *between: float) -> None:
        self.between = between

    def log_joint_density(self, radius: Floats, units: int) -> tuple[Floats, Floats]:
        found, error = super().log_joint_density(radius, units)
        low, high = self.between
        return found, np.where((radius > low) & (radius < high), np.nan, error)


def penalty(law: object, rate: float, units: int = 1, drop: float = 400.0) -> Regulariser:
    return Regulariser(exact_curve(law, units, 1e-3, drop, rate), units=units)  # type: ignore[arg-type]


def wanted(law: Normal | Linear, radius: Tensor, units: int = 1) -> Tensor:
    return -torch.from_numpy(law.log_joint_density(radius.numpy(), units)[0])


CASES = [(Normal(), 2.0), (Linear(1), 1.0), (Linear(2), 1.0), (Linear(20), 1.0)]


@pytest.mark.parametrize(("law", "rate"), CASES)
def test_it_is_the_law_from_the_floor_to_beyond_the_knots(law, rate: float) -> None:
    module = penalty(law, rate)
    radius = torch.logspace(-3, 1.3 if rate == 2 else 2.6, 997, dtype=torch.float64)
    found = module(radius) + module.offset
    # The quintic is off by (h/4)^6 / 720 of the sixth derivative, 2^6 of the values at most.
    bound = 3e-8 * (1 + found.abs())
    assert bool(((found - wanted(law, radius)).abs() <= bound).all())


@pytest.mark.parametrize(("law", "rate"), CASES)
def test_beyond_the_knots_it_goes_on_as_the_law(law, rate: float) -> None:
    module = penalty(law, rate, drop=100.0)
    radius = torch.tensor([30.0, 300.0] if rate == 2 else [200.0, 600.0], dtype=torch.float64)
    found = module(radius) + module.offset
    assert bool((found > 130).all())
    assert torch.allclose(found, wanted(law, radius), rtol=2e-3)


def test_a_normal_unit_has_a_square_as_penalty() -> None:
    module = penalty(Normal(), 2.0)
    units = torch.linspace(-40, 40, 1001, dtype=torch.float64)
    assert torch.allclose(module(units), units.square() / 2, rtol=1e-8, atol=1e-14)
    assert module.offset == pytest.approx(math.log(2 * math.pi) / 2, abs=1e-12)


@pytest.mark.parametrize("units", [2, 5])
def test_units_together_have_the_penalty_of_their_length(units: int) -> None:
    law = Linear(7)
    module = penalty(law, 1.0, units)
    given = 3 * torch.randn(50, units, dtype=torch.float64, generator=seeded())
    found = module(given) + module.offset
    assert torch.allclose(found, wanted(law, given.norm(dim=1), units), atol=1e-7)
    apart = penalty(law, 1.0)
    assert not torch.allclose(found, apart(given).sum(1) + units * apart.offset, atol=0.1)


@pytest.mark.parametrize(("law", "rate"), CASES)
def test_gradients_and_second_ones_are_those_of_the_values(law, rate: float) -> None:
    module = penalty(law, rate, drop=60.0)
    units = [0.0, 3e-4, -9e-4, 2e-3, -0.7, 1.0, 9.5, 500.0]
    given = torch.tensor(units, dtype=torch.float64, requires_grad=True)
    small = given.detach().abs().clamp(min=1e-3) * 1e-5
    for step, one in zip(small, range(len(units)), strict=True):
        x = given[one : one + 1]
        assert torch.autograd.gradcheck(module, x, eps=float(step), atol=1e-4, rtol=1e-5)
        assert torch.autograd.gradgradcheck(module, x, eps=float(step), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("law", "rate"), CASES)
def test_derivatives_are_those_of_the_density(law, rate: float) -> None:
    module = penalty(law, rate)
    radius = torch.logspace(-2.9, 1.2, 200, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(module(radius).sum(), radius)
    # -d log p_1 / dr = 2 pi r p_3 / p_1
    here = radius.detach()
    true = 2 * math.pi * here * (wanted(law, here) - wanted(law, here, 3)).exp()
    assert torch.allclose(found, true, rtol=1e-6)


def test_at_zero_it_is_finite_where_the_density_is_not() -> None:
    module = penalty(Linear(1), 1.0)
    given = torch.tensor([0.0, 1e-300, 1e-12, 1e-4, 1e-3], dtype=torch.float64, requires_grad=True)
    found = module(given)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert found[0].item() == 0
    assert gradient[0].item() == 0
    assert bool((found.diff() >= 0).all())
    assert bool(gradient.isfinite().all())
    assert float(gradient.max()) <= 2.5 / module.floor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_widths_of_floats_give_the_same_up_to_rounding(dtype: torch.dtype) -> None:
    module = penalty(Linear(3), 1.0)
    units = torch.randn(200, dtype=torch.float64, generator=seeded()).mul(3).to(dtype)
    found = module(units)
    assert found.dtype == dtype
    eps = max(torch.finfo(dtype).eps, 4e-7)
    assert torch.allclose(found.double(), module(units.double()), rtol=2 * eps, atol=2 * eps)
    assert torch.equal(module.to(dtype)(units), found)  # the table stays in float64
    assert module.pieces.dtype == torch.float64


def test_far_values_and_nan_are_what_they_are() -> None:
    module = penalty(Linear(3), 1.0).float()
    given = torch.tensor([1e30, -1e30, torch.inf, torch.nan])
    found = module(given)
    assert bool(found[:2].isfinite().all())
    assert float(found[0]) == pytest.approx(1e30, rel=0.05)
    assert float(found[2]) == torch.inf
    assert bool(found[3].isnan())


def test_units_after_relu_have_no_mass_below_zero_and_after_leaky_relu_another_density() -> None:
    curve = exact_curve(Linear(5), 1, 1e-3, 400.0, 1.0)  # type: ignore[arg-type]
    units = torch.tensor([-2.0, -0.1, 0.0, 0.5, 3.0], dtype=torch.float64)
    before = Regulariser(curve)
    relu = Regulariser(curve, (0.0, 1.0))(units)
    assert relu[0] == torch.inf
    assert torch.equal(relu[2:], before(units[2:]))
    leaky = Regulariser(curve, (0.2, 1.0))(units)
    assert torch.equal(leaky[2:], before(units[2:]))
    # The density of 0.2 g at u is that of g at 5 u, times 5.
    assert torch.allclose(leaky[:2], before(5 * units[:2]) - math.log(5.0))


def test_a_power_is_one_above_the_floor() -> None:
    module = Regulariser(power_curve(1e-3, 2.0, 0.5))
    units = torch.logspace(-3, 6, 100, dtype=torch.float64)
    found = module(units) + module.offset
    assert torch.allclose(found, 2 * units.sqrt(), rtol=1e-9)
    curve = exact_curve(Normal(), 1, 1e-3, 50.0, 2.0)  # type: ignore[arg-type]
    assert slope_at(curve, 3.0) == pytest.approx(9.0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reductions_and_shapes(reduction: str) -> None:
    module = Regulariser(exact_curve(Normal(), 1, 1e-3, 50.0, 2.0), reduction=reduction)  # type: ignore[arg-type]
    units = torch.randn(4, 3, 2, generator=seeded()).transpose(0, 2)
    found = module(units)
    whole = units.square() / 2
    expected = whole if reduction == "none" else getattr(whole, reduction)()
    assert torch.allclose(found, expected, rtol=1e-5)
    assert module(units[:0]).shape == ((0, 3, 4) if reduction == "none" else ())
    assert module(torch.tensor(2.0)).item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.arange(3), "torch.int64: give a tensor of floats"),
        ([1.0], "list: give a tensor of floats"),
    ],
)
def test_what_are_no_units_is_refused(given, told: str) -> None:
    with pytest.raises(InputError, match=told):
        penalty(Normal(), 2.0)(given)


def test_another_number_of_units_is_refused() -> None:
    with pytest.raises(InputError, match=r"of 3 units together, give \(\.\.\., 3\)"):
        penalty(Linear(7), 1.0, 3)(torch.zeros(2, 4))
    with pytest.raises(InputError, match="no reduction 'total'"):
        Regulariser(power_curve(1e-3, 1.0, 1.0), reduction="total")


def test_it_compiles_in_one_graph() -> None:
    module = penalty(Linear(3), 1.0)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    units = torch.randn(20, generator=seeded(), requires_grad=True)
    assert torch.allclose(compiled(units), module(units))
    (found,) = torch.autograd.grad(compiled(units).sum(), units)
    assert torch.allclose(found, torch.autograd.grad(module(units).sum(), units)[0])


def test_its_state_is_in_its_buffers() -> None:
    one, other = penalty(Linear(3), 1.0), penalty(Linear(3), 1.0)
    with torch.no_grad():
        for buffer in other.buffers():
            buffer.zero_()
    other.load_state_dict(one.state_dict())
    units = torch.randn(9, generator=seeded())
    assert torch.equal(other(units), one(units))


@pytest.mark.parametrize(
    ("prior", "layer"),
    [
        (UnitPrior((20, 20)), 3),
        (UnitPrior((5, 5), "leaky_relu(0.1)", input_norm=3.0), 2),
        (UnitPrior((8,), "tanh", bias_std=0.3), 2),
        (UnitPrior((8,), bias_std=0.3), 1),
    ],
)
def test_the_penalty_of_a_prior_is_its_log_density(prior: UnitPrior, layer: int) -> None:
    module = regulariser(prior, layer)
    assert module.floor == pytest.approx(1e-3 * float(prior.quantile(0.5, layer)), rel=0.2)
    probabilities = [0.9, 0.5, 0.1, 1e-2, 1e-5, 1e-20]
    at = prior.quantile(probabilities, layer).value
    at = torch.cat([at, -at])
    density = prior.log_density(at, layer)
    found = module(at) + module.offset
    bound = 1e-7 * (1 + found.abs()) + 2 * density.error
    assert bool(((found + density.value).abs() <= bound).all())


def test_beyond_its_knots_the_penalty_of_a_prior_goes_on() -> None:
    prior = UnitPrior((20, 20))
    module = regulariser(prior, 3)
    at = module.floor * math.exp(STEP * len(module.pieces)) * torch.tensor([1.5, 10.0]).double()
    found = module(at) + module.offset
    assert bool((found > 1e4).all())
    assert torch.allclose(found, -prior.log_density(at, 3).value, rtol=2e-3)


def test_the_asymptotic_form_has_the_exact_slope_where_one_percent_is_above() -> None:
    prior = UnitPrior((20, 20))
    at = prior.quantile(0.01, 3).value.clone().requires_grad_()
    exact, power = (regulariser(prior, 3, form=form) for form in ("exact", "asymptotic"))
    slopes = [torch.autograd.grad(module(at), at)[0].item() for module in (exact, power)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)
    far = at.detach() * torch.tensor([8.0, 1.0], dtype=torch.float64)
    values = power(far) + power.offset
    assert (values[0] / values[1]).item() == pytest.approx(8 ** (2 / 3), rel=1e-9)


def test_after_the_activation_it_is_the_density_off_zero() -> None:
    prior = UnitPrior((20, 20), "leaky_relu(0.2)")
    module = regulariser(prior, 2, post=True)
    at = torch.tensor([-0.3, -0.01, 0.02, 1.0, 4.0], dtype=torch.float64)
    wanted = -prior.log_density(at, 2, post=True).value
    assert torch.allclose(module(at) + module.offset, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"form": "excat"}, "Did you mean 'exact'"),
        ({"layer": 4}, "layer 4"),
        ({"floor": 0.0}, "floor = 0.0"),
        ({"units": 0}, "units = 0"),
        ({"post": True, "units": 2}, "seen before the activation: post=False"),
        ({"post": True, "layer": 3}, "layers 1 to 2, after the activation"),
    ],
)
def test_wrong_settings_are_refused(settings, told: str) -> None:
    with pytest.raises(InputError, match=told):
        regulariser(UnitPrior((5, 5)), **({"layer": 2} | settings))


def test_activations_that_bend_are_penalised_before_them() -> None:
    with pytest.raises(InputError, match="for tanh penalise the units before it"):
        regulariser(UnitPrior((5,), "tanh"), 1, post=True)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))


def square(units: Tensor) -> Tensor:
    return units.square() / 2


def test_penalties_of_layers_are_sums_over_units_and_means_over_inputs() -> None:
    module, x = network(), torch.randn(5, 4, generator=seeded())
    first = module[0](x).detach()
    with unit_penalty(module, {"0": square, "": square}) as found:
        output = module(x)
        total = found()
        parts = found.by_layer()
    assert parts["0"].item() == pytest.approx(float(first.square().sum()) / 10)
    assert parts[""].item() == pytest.approx(float(output.detach().square().sum()) / 10)
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()))
    total.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not module._forward_hooks
    assert not module[0]._forward_hooks
    assert not module._forward_pre_hooks


def test_each_forward_pass_begins_anew_and_calls_in_one_add_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return self.part(self.part(x))

    module, x = Twice(), torch.ones(2, 3)
    with unit_penalty(module, {"part": square}) as found:
        for _ in range(2):
            module(x)
            assert found().item() == pytest.approx(3.0)


def test_a_penalty_without_a_pass_or_a_layer_is_refused() -> None:
    module = network()
    with pytest.raises(InputError, match="no penalties: give one by path"):
        unit_penalty(module, {}).__enter__()
    with pytest.raises(InputError, match="no layer '7'"):
        unit_penalty(module, {"7": square}).__enter__()
    with (
        unit_penalty(module, {"0": square}) as found,
        pytest.raises(InputError, match="run the network, module"),
    ):
        found()


def test_training_with_it_draws_units_in() -> None:
    """MAP of a linear layer's units under a normal prior is ridge regression on outputs."""
    x = torch.eye(6, dtype=torch.float64)
    module = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    y = torch.linspace(-2, 3, 6, dtype=torch.float64)[:, None]
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=50, line_search_fn="strong_wolfe")
    normal: Callable[[Tensor], Tensor] = penalty(Normal(), 2.0)

    def closure() -> Tensor:
        optimiser.zero_grad()
        with unit_penalty(module, {"": normal}) as found:
            loss = (module(x) - y).square().sum() / 2 + len(x) * found()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert torch.allclose(module(x), y / 2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize(("law", "rate"), CASES)
def test_gradients_of_huge_units_are_numbers_that_point_inwards(
    law, rate: float, units: int, dtype: torch.dtype
) -> None:
    module = penalty(law, rate, units)
    most = torch.finfo(dtype).max
    given = torch.tensor([[0.99 * most, 0.0], [-(most**0.6), 1.0]], dtype=dtype, requires_grad=True)
    found = module(given)
    assert not bool(found.isnan().any())
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert bool(gradient.isfinite().all())
    assert float(gradient[0, 0]) > 0 > float(gradient[1, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("sides", [(1.0, 1.0), (0.0, 1.0)])
def test_infinite_penalties_have_no_gradient(dtype: torch.dtype, sides) -> None:
    curve = exact_curve(Linear(5), 1, 1e-3, 400.0, 1.0)  # type: ignore[arg-type]
    given = torch.tensor([torch.inf, -torch.inf, -2.0, 0.0], dtype=dtype, requires_grad=True)
    found = Regulariser(curve, sides)(given)
    assert bool(found[:2].isinf().all())
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert bool((gradient[:2] == 0).all())
    assert bool(gradient.isfinite().all())


def test_units_together_whose_squares_overflow_have_their_length() -> None:
    module = penalty(Linear(7), 1.0, 2)
    found = module(torch.tensor([[3e30, 4e30]]))
    assert found.item() == pytest.approx(module(torch.tensor([[5e30, 0.0]])).item(), rel=1e-4)
    assert math.isfinite(found.item())


@pytest.mark.parametrize(
    ("between", "least"),
    [((1e-9, 1e-8), 1e-3), ((1e-2, 1e-1), 0.1 * math.e), ((1e-2, 0.9), math.inf)],
)
def test_a_floor_is_where_all_that_follows_is_known(between, least: float) -> None:
    found = known_from(Unsure(*between), 2, 1e-3, 1.0)
    assert least <= found <= least * math.exp(STEP)
    curve = exact_curve(Unsure(*between), 2, min(found, 1.0), 10.0, 2.0)
    assert found == math.inf or bool(np.isfinite(curve.pieces).all())


def test_units_together_begin_where_their_density_is_known() -> None:
    """Nearer to 0 than a twentieth of their median it is not, for 12 of 50 units."""
    prior = UnitPrior((50,), "leaky_relu(0.1)")
    module = regulariser(prior, 2, units=12)
    median = float(prior.quantile(0.5, 2)) * math.sqrt(12)
    assert 1e-3 < module.floor / median < 0.2
    length = torch.logspace(-4, 0, 50, dtype=torch.float64)
    found = module(length[:, None] / math.sqrt(12) * torch.ones(12))
    assert float(found.min()) > -0.1
    with pytest.raises(InputError, match=r"give floor = 0\.\d+ or more, or take fewer units"):
        regulariser(prior, 2, units=12, floor=1e-3 * median)


@pytest.mark.parametrize("form", ["exact", "asymptotic"])
@pytest.mark.parametrize("floor", [5e-324, 100.0, 1e300])
def test_a_floor_far_from_where_units_are_is_refused(form: str, floor: float) -> None:
    with pytest.raises(InputError, match="units seldom exceed"):
        regulariser(UnitPrior((10, 10)), 3, form=form, floor=floor)
