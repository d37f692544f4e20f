"""Activations by quadrature: closed forms, SciPy's integrals, and what the estimates say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import dblquad
from torch import nn

from merkhet.core.errors import InputError
from merkhet.kernels import GELU, Erf, Linear, ReLU, Sequential, Sine, gram
from merkhet.kernels.hermite import coefficients
from merkhet.kernels.numeric import Numeric

DOUBLE = {"dtype": torch.float64}
COSINES = torch.tensor([-1, -0.999, -0.9, -0.3, 0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.999, 1], **DOUBLE)


def pairs(*variances: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return covariances (n, n, cosines) and variances that broadcast to them."""
    a = torch.tensor(variances, **DOUBLE)[:, None, None]
    b = a.movedim(0, 1)
    return COSINES * (a * b).sqrt(), a, b


@pytest.mark.parametrize(
    ("function", "closed", "to"),
    [(torch.erf, Erf(), 1e-13), (nn.functional.gelu, GELU(), 1e-13), (torch.sin, Sine(), 1e-13)],
)
def test_smooth_functions_are_exact_to_rounding_at_variances_up_to_one(function, closed, to):
    found = Numeric(function)
    for one in ("dual", "slope"):
        off = getattr(found, one)(*pairs(0.0, 0.01, 0.4, 1.0)) - getattr(closed, one)(
            *pairs(0.0, 0.01, 0.4, 1.0)
        )
        assert off.abs().max() < to


@pytest.mark.parametrize(
    ("function", "closed"),
    [(torch.erf, Erf()), (nn.functional.gelu, GELU()), (torch.relu, ReLU())],
)
@pytest.mark.parametrize("terms", [32, 64, 96])
def test_the_estimated_error_covers_the_true_one(function, closed, terms):
    given = pairs(0.1, 1.0, 4.0)
    found = Numeric(function, terms=terms)
    for one, estimate in zip(("dual", "slope"), found.error(*given), strict=True):
        off = (getattr(found, one)(*given) - getattr(closed, one)(*given)).abs()
        assert (off <= estimate + 1e-13).all()


def test_a_kink_converges_as_said_and_matters_only_near_equal_units() -> None:
    """ReLU: terms^(-3/2) for the dual, terms^(-1/2) for the slope."""
    given = pairs(1.0)
    near = COSINES.abs() > 0.9
    worst = {}
    for terms in (32, 128, 512):
        found = Numeric(torch.relu, terms=terms)
        dual = (found.dual(*given) - ReLU().dual(*given)).abs()[0, 0]
        slope = (found.slope(*given) - ReLU().slope(*given)).abs()[0, 0]
        worst[terms] = found.error(*given)
        assert dual[COSINES.abs() == 1].max() < 1e-14
        if terms > 32:
            assert slope[~near].max() < 1e-3 * slope[near].max()
    for one, power in (("dual", 1.5), ("slope", 0.5)):
        first, last = (getattr(worst[terms], one).max() for terms in (128, 512))
        assert float(first / last) == pytest.approx(4**power, rel=0.1)


@pytest.mark.parametrize(("a", "b", "u"), [(1.0, 1.0, 0.5), (0.5, 2.0, -0.8), (2.0, 2.0, 0.95)])
def test_tanh_against_scipy(a: float, b: float, u: float) -> None:
    def density(z: float, w: float) -> float:
        return math.exp(-(z * z + w * w) / 2) / (2 * math.pi)

    def one(z: float, w: float) -> float:
        return math.sqrt(a) * z, math.sqrt(b) * (u * z + math.sqrt(1 - u * u) * w)

    def dual(w: float, z: float) -> float:
        s, t = one(z, w)
        return math.tanh(s) * math.tanh(t) * density(z, w)

    def slope(w: float, z: float) -> float:
        s, t = one(z, w)
        return density(z, w) / (math.cosh(s) * math.cosh(t)) ** 2

    given = [torch.tensor(x, **DOUBLE) for x in (u * math.sqrt(a * b), a, b)]
    tanh = Numeric(torch.tanh)
    for wanted, found in ((dual, tanh.dual), (slope, tanh.slope)):
        value = dblquad(wanted, -9, 9, -9, 9, epsabs=1e-10, epsrel=1e-10)[0]
        assert float(found(*given)) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("kinks", [(), (-0.55, 0.55)])
def test_a_kink_that_is_not_told_costs_digits_and_the_estimate_sees_it(kinks) -> None:
    """E[s(z)^2] of a function that is cut has a closed form; 10 and 16 nodes a panel differ."""
    cut, one = 0.55, torch.ones((), **DOUBLE)
    found = Numeric(lambda z: z.clamp(-cut, cut), name="cut", kinks=kinks)
    tail = math.erfc(cut / math.sqrt(2))
    inside = 1 - tail - 2 * cut * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    off = abs(float(found.dual(one, one, one)) - inside - cut**2 * tail)
    coarse, fine = (coefficients(found.function, one, kinks, 4, order) for order in (10, 16))
    if kinks:
        assert off < 1e-14
        torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-13)
    else:
        assert off > 1e-6
        assert found.error(one, one, one).dual > off / 2


def test_gradients_agree_with_differences_and_none_is_nan() -> None:
    network = Sequential(Linear(bias_std=0.1), Numeric(torch.tanh), Linear())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, generator=generator, **DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gram(network, x, x * 1.3, **DOUBLE), x)
    for given in (torch.zeros(2, 4, **DOUBLE), torch.ones(2, 4, **DOUBLE)):
        given[1] *= -1
        given.requires_grad_()
        bare = Sequential(Linear(), Numeric(torch.nn.functional.softplus), Linear())
        (slope,) = torch.autograd.grad(gram(bare, given, **DOUBLE).sum(), given)
        assert slope.isfinite().all()


def test_the_gradient_at_a_zero_input_is_the_closed_forms() -> None:
    x = torch.zeros(1, 3, **DOUBLE, requires_grad=True)
    y = torch.tensor([[0.3, -0.7, 1.0]], **DOUBLE)
    found = [
        torch.autograd.grad(
            gram(Sequential(Linear(), one, Linear()), x, y, "nngp", **DOUBLE).sum(), x
        )[0]
        for one in (Numeric(torch.sin), Sine())
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


def test_gradients_reach_tensors_in_the_function() -> None:
    steep = torch.tensor(1.3, **DOUBLE, requires_grad=True)

    def value(steep: torch.Tensor) -> torch.Tensor:
        found = Numeric(lambda z: torch.tanh(steep * z), name="steep")
        return found.slope(*(torch.tensor(one, **DOUBLE) for one in (0.3, 0.7, 0.9)))

    assert torch.autograd.gradcheck(value, steep)


def test_the_kernel_is_positive_semi_definite_at_few_terms() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), **DOUBLE)
    for function, kinks in ((torch.tanh, ()), (nn.functional.hardtanh, (-1, 1))):
        network = Sequential(Linear(), Numeric(function, kinks=kinks, terms=8), Linear())
        found = gram(network, x, kind="both", **DOUBLE)
        for one in found:
            assert torch.linalg.eigvalsh(one).min() > -1e-13 * one.max()


def test_a_derivative_that_is_given_is_used() -> None:
    given = pairs(1.0, 2.0)
    own = Numeric(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2)
    torch.testing.assert_close(
        own.slope(*given), Numeric(torch.tanh).slope(*given), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Numeric(lambda z: z), "no name"),
        (lambda: Numeric(torch.sign), "jumps"),
        (lambda: Numeric(torch.tanh, torch.exp), "derivative"),
        (lambda: Numeric(lambda z: z.softmax(-1), name="softmax"), "each entry alone"),
        (lambda: Numeric(torch.sum), "each entry alone"),
        (lambda: Numeric(torch.log), "not finite"),
        (lambda: Numeric(torch.tanh, terms=7), "even number"),
        (lambda: Numeric(torch.tanh, kinks=(math.nan,)), "finite"),
    ],
)
def test_what_is_no_activation_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message) as info:
        make()
    assert "\n" not in str(info.value)
