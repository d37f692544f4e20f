"""Where an activation exceeds a level."""

from __future__ import annotations

import math

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation, activation
from merkhet.unit_prior.laws.exceedance import exceedances

NAMES = (
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "hardswish",
    "tanh",
    "sigmoid",
    "erf",
    "softsign",
    "relu6",
    "hardtanh",
    "hardsigmoid",
    "square",
    "relu",
    "leaky_relu(0.2)",
    "abs",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.1, 0.16, 0.5, 1.0, 3.0, 40.0])
def test_the_intervals_are_where_it_exceeds_the_level(name: str, t: float) -> None:
    phi = activation(name)
    u = torch.linspace(0, 80, 40_001, dtype=torch.float64)[1:]
    for sign, intervals in zip((1.0, -1.0), exceedances(phi, t), strict=True):
        inside = torch.zeros_like(u, dtype=torch.bool)
        for low, high in intervals:
            assert low < high
            inside |= (u > low) & (u < high)
        near = torch.zeros_like(inside)
        for end in (end for pair in intervals for end in pair if math.isfinite(end)):
            near |= (u - end).abs() < 1e-9 * max(end, 1e-9)
        assert torch.equal(inside[~near], (phi(sign * u).abs() > t)[~near])


def test_ends_are_where_the_level_is_met() -> None:
    (right,), left = exceedances(activation("gelu"), 0.1)
    assert float(activation("gelu")(torch.tensor(right[0], dtype=torch.float64))) == pytest.approx(
        0.1, 1e-14
    )
    assert right[1] == math.inf
    ((low, high),) = left
    for end in (low, high):
        value = float(activation("gelu")(torch.tensor(-end, dtype=torch.float64)))
        assert value == pytest.approx(-0.1, rel=1e-13)


@pytest.mark.parametrize("t", [1e-300, 1e-30, 1e30, 1e300])
def test_levels_far_out(t: float) -> None:
    ((low, high),), left = exceedances(activation("leaky_relu(0.5)"), t)
    assert (low, high) == (pytest.approx(t, rel=1e-14), math.inf)
    assert left[0][0] == pytest.approx(2 * t, rel=1e-14)


def test_bounded_functions_end() -> None:
    assert exceedances(activation("tanh"), 1.0) == ((), ())
    assert exceedances(activation("relu6"), 6.0) == ((), ())
    assert exceedances(activation("relu6"), 5.0)[1] == ()
    assert exceedances(activation("softplus"), 0.5)[1][0][0] == 0.0


def test_periodic_functions_are_refused() -> None:
    with pytest.raises(InputError, match="infinitely many"):
        exceedances(activation("sin"), 0.5)


def test_a_function_of_ones_own() -> None:
    phi = Activation("bump", lambda u: torch.exp(-((u - 2) ** 2)), growth=0.0)
    (((low, high),), left) = exceedances(phi, 0.5)
    assert (low, high) == (
        pytest.approx(2 - math.sqrt(math.log(2))),
        pytest.approx(2 + math.sqrt(math.log(2))),
    )
    assert left == ()
