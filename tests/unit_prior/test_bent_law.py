"""Units after activations that are not linear on each side of 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import activation
from merkhet.unit_prior.laws.bent_law import BentLaw
from merkhet.unit_prior.laws.effective import effective_tail
from merkhet.unit_prior.laws.homogeneous_law import HomogeneousLaw
from merkhet.unit_prior.laws.moments import checked_log_moment
from merkhet.unit_prior.laws.quantiles import quantile
from merkhet.unit_prior.spec import make_spec


def bent(name: str, widths: tuple[int, ...] = ()) -> BentLaw:
    return BentLaw(HomogeneousLaw(make_spec(widths), len(widths) + 1), activation(name))


def test_a_function_that_rises_on_both_sides_moves_the_level() -> None:
    unit = bent("tanh", (3,))
    t = np.array([1e-8, 0.1, 0.5, 0.99])
    value, error = unit.log_survival(t)
    exact, _ = unit.law.log_survival(np.arctanh(t))
    assert value == pytest.approx(exact, rel=1e-12)
    assert (error < 1e-10).all()
    assert unit.log_survival(np.array([1.0]))[0] == -math.inf
    assert unit.zero_mass == pytest.approx(unit.law.zero_mass)


@pytest.mark.parametrize("name", ["gelu", "relu6", "softplus", "square", "hardtanh", "silu"])
def test_simulation_agrees(name: str) -> None:
    unit, draws = bent(name), 200_000
    z = torch.randn(draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = activation(name)(z)
    for t in (0.05, 0.4, 0.9, 2.0):
        exact = math.exp(float(unit.log_survival(np.array([t]))[0][0]))
        spread = math.sqrt(exact * (1 - exact) / draws)
        assert abs(float((u.abs() > t).double().mean()) - exact) <= 4 * spread + 1e-12
    (std, off), (kurtosis, away) = unit.spread()
    assert float(u.std()) == pytest.approx(std, rel=0.02)
    central = u - u.mean()
    assert float(central.pow(4).mean() / u.var() ** 2) == pytest.approx(kurtosis, rel=0.1)
    assert off < 1e-3 * std
    assert away < 1e-2 * kurtosis


def test_moments_in_closed_form() -> None:
    # The square of a standard Gaussian: E u^3 = 15, variance 2, kurtosis 15.
    unit = bent("square")
    assert checked_log_moment(unit, 3.0)[0] == pytest.approx(math.log(15), abs=1e-9)
    assert unit.spread()[0][0] == pytest.approx(math.sqrt(2), rel=1e-9)
    assert unit.spread()[1][0] == pytest.approx(15, rel=1e-9)


def test_a_periodic_function_has_moments_but_no_survival() -> None:
    unit = bent("cos")  # E cos z = exp(-1/2), E cos^2 z = (1 + exp(-2))/2
    variance = (1 + math.exp(-2)) / 2 - math.exp(-1)
    assert unit.spread()[0][0] == pytest.approx(math.sqrt(variance), rel=1e-9)
    with pytest.raises(InputError, match="infinitely many"):
        unit.log_survival(np.array([0.5]))


def test_softplus_of_a_dead_unit_is_log_two() -> None:
    unit = bent("softplus", (2,))  # a quarter of the units are 0
    before, after = (
        math.exp(float(unit.log_survival(np.array([t]))[0][0]))
        for t in (math.log(2) * (1 - 1e-9), math.log(2) * (1 + 1e-9))
    )
    assert before - after == pytest.approx(0.25, abs=1e-6)


def test_local_tails_are_those_of_the_unit_before_where_phi_grows_like_u() -> None:
    unit = bent("gelu", (10,))
    log_p = np.array([-30.0, -300.0])
    before, _ = unit.law.log_survival(quantile(unit, log_p)[0])
    found, error = effective_tail(unit, log_p)
    t = quantile(unit, log_p)[0]
    slope = np.exp(unit.law.log_density(t)[0] + np.log(2 * t) - before)
    # P(|phi(g)| > t) = P(|g| > t)/2 up to a rest that is nothing here.
    assert found == pytest.approx(-(before - math.log(2)) / slope, rel=1e-6)
    assert (error < 1e-4).all()


def test_refusals() -> None:
    with pytest.raises(InputError, match="density after tanh"):
        bent("tanh").log_density(np.ones(1))
    with pytest.raises(InputError, match="jumps"):
        effective_tail(bent("relu6"), np.array([-25.0]))
    with pytest.raises(InputError, match="infinite"):
        checked_log_moment(bent("relu6"), -0.5)
