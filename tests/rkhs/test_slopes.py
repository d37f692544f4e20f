"""The slopes of activations: suprema of derivatives to the last digit, and what is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
import torch
from mpmath import mp
from torch import nn

from merkhet.rkhs import slopes
from merkhet.rkhs.bracket import lipschitz

Real = Callable[[mpmath.mpf], mpmath.mpf]


def _normal(x: mpmath.mpf) -> mpmath.mpf:
    return (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2


def _tanh_form(x: mpmath.mpf) -> mpmath.mpf:
    inner = mpmath.sqrt(2 / mp.pi) * (x + mpmath.mpf("0.044715") * x**3)
    return x / 2 * (1 + mpmath.tanh(inner))


@pytest.mark.parametrize(
    ("function", "near", "shipped"),
    [
        (lambda x: x * _normal(x), 1.4, slopes.GELU),
        (_tanh_form, 1.4, slopes.GELU_TANH),
        (lambda x: x / (1 + mpmath.exp(-x)), 2.4, slopes.SILU),
        (lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x))), 1.5, slopes.MISH),
        (lambda x: mpmath.erf(x), 0.1, slopes.ERF),
    ],
)
def test_constants_are_the_suprema_rounded_up(function: Real, near: float, shipped: float) -> None:
    with mpmath.workdps(30):
        top = mpmath.findroot(lambda x: mpmath.diff(function, x, 2), near)
        exact = mpmath.diff(function, top)
        assert exact <= shipped <= exact + mpmath.mpf(10) ** -9
        grid = [abs(mpmath.diff(function, mpmath.mpf(k) / 10)) for k in range(-80, 81)]
        assert max(grid) <= shipped


def test_selu_is_its_scale_times_alpha() -> None:
    scale = mpmath.mpf("1.0507009873554804934193349852946")
    alpha = mpmath.mpf("1.6732632423543772848170429916717")
    assert scale * alpha <= slopes.SELU <= scale * alpha + mpmath.mpf(10) ** -9


ACTIVATIONS: list[tuple[nn.Module, float]] = [
    (nn.ReLU(), 1),
    (nn.LeakyReLU(0.2), 1),
    (nn.LeakyReLU(-1.5), 1.5),
    (nn.PReLU(init=2.5), 2.5),
    (nn.RReLU(2, 3), 2.5),
    (nn.ELU(), 1),
    (nn.ELU(3.0), 3),
    (nn.CELU(0.5), 1),
    (nn.SELU(), slopes.SELU),
    (nn.GELU(), slopes.GELU),
    (nn.GELU(approximate="tanh"), slopes.GELU_TANH),
    (nn.SiLU(), slopes.SILU),
    (nn.Mish(), slopes.MISH),
    (nn.Hardswish(), 1.5),
    (nn.Hardsigmoid(), 1 / 6),
    (nn.Sigmoid(), 0.25),
    (nn.Tanh(), 1),
    (nn.Softplus(2.0), 1),
    (nn.LogSigmoid(), 1),
    (nn.ReLU6(), 1),
    (nn.Hardtanh(-2, 3), 1),
    (nn.Threshold(0.5, 0.5), 1),
]


@pytest.mark.parametrize(("activation", "slope"), ACTIVATIONS, ids=lambda one: str(one))
def test_the_graph_reads_each_activation_and_no_difference_is_steeper(
    activation: nn.Module, slope: float
) -> None:
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        y = activation.double().eval()(x)
    steepest = float(((y[1:] - y[:-1]) / (x[1:] - x[:-1])).abs().max())
    found = lipschitz(activation, x[::20_000], ascents=0).upper
    assert found == pytest.approx(slope, rel=1e-8)
    assert 0.999 * found <= steepest <= found * (1 + 1e-9)


@pytest.mark.parametrize(
    "activation", [nn.Hardshrink(), nn.Threshold(0.5, 1.0), nn.Softplus(1.0, 1.0)], ids=str
)
def test_jumps_have_no_finite_slope(activation: nn.Module) -> None:
    found = lipschitz(activation, torch.rand(2, 3), ascents=0)
    assert found.upper == math.inf
    assert "jump" in found.reasons[0]


def test_softmax_reaches_one_half_and_log_softmax_the_root_of_the_classes() -> None:
    half = torch.zeros(1, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: x.softmax(1), half)[0, :, 0]
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(0.5)
    for classes in (2, 5, 9):
        sure = torch.zeros(1, classes, dtype=torch.float64)
        sure[0, 0] = 40.0
        jacobian = torch.autograd.functional.jacobian(lambda x: x.log_softmax(1), sure)[0, :, 0]
        reached = float(torch.linalg.matrix_norm(jacobian, 2))
        found = lipschitz(nn.LogSoftmax(1), torch.zeros(2, classes), ascents=0).upper
        assert reached == pytest.approx(math.sqrt(classes), rel=1e-9)
        assert reached <= found == pytest.approx(reached, rel=1e-9)
        assert lipschitz(nn.Softmax(1), torch.zeros(2, classes), ascents=0).upper < 0.5 + 1e-9


def test_root_is_never_below() -> None:
    for count in range(1, 2000):
        found = slopes.root(count)
        assert Fraction(found) ** 2 >= count
        assert found == pytest.approx(math.sqrt(count), rel=1e-15)
