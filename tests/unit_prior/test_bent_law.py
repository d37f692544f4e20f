"""Units after activations that are not linear on each side of 0."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation, activation
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
    with pytest.raises(InputError, match="infinite"):
        checked_log_moment(bent("relu6"), -0.5)
    mine = Activation("mine", lambda u: u.exp() + 1, growth=0.0)
    with pytest.raises(InputError, match="named activations alone"):
        checked_log_moment(BentLaw(HomogeneousLaw(make_spec(()), 1), mine), -0.5)


PHI = {
    "gelu": lambda u: u * mp.ncdf(u),
    "silu": lambda u: u / (1 + mp.exp(-u)),
    "mish": lambda u: u * mp.tanh(mp.log1p(mp.exp(u))),
    "softplus": lambda u: mp.log1p(mp.exp(u)),
    "sigmoid": lambda u: 1 / (1 + mp.exp(-u)),
    "tanh": mp.tanh,
    "elu": lambda u: u if u > 0 else mp.expm1(u),
    "square": lambda u: u * u,
}


def exact_log_moment(name: str, order: float, std: float) -> float:
    """Return log E|phi(std z)|^order by quadrature in log|z|, in 20 digits."""

    def integrand(x: mp.mpf) -> mp.mpf:
        t, s = std * mp.exp(x), mp.mpf(order)
        size = abs(PHI[name](t)) ** s + abs(PHI[name](-t)) ** s
        return size * mp.exp(x - mp.exp(2 * x) / 2) / mp.sqrt(2 * mp.pi)

    falls = name in ("softplus", "sigmoid")
    start = (
        -4 if order > 50 else -45 if falls else -45 / (1 + order * (2 if name == "square" else 1))
    )
    with mp.workdps(20):
        # Where the tail or a fading phi decides, the mass lies about |z| = sqrt(|order|) or std.
        peak = math.log(math.sqrt(max(order, 1.0)) + (std if order < 0 else 0))
        ends = [*np.linspace(start, -2, 8), *(peak + k / 2 for k in range(-2, 3)), peak + 2.5]
        return float(mp.log(mp.quad(integrand, sorted(map(float, ends)))))


@pytest.mark.parametrize(
    ("name", "order", "std"),
    [
        ("gelu", 150.0, 1.0),
        ("silu", 300.0, 1.0),
        ("tanh", 1000.0, 1.0),
        ("gelu", -0.4, 1.5),
        ("gelu", -0.9, 0.5),
        ("silu", -0.9, 1.0),
        ("mish", -0.7, 2.0),
        ("softplus", -3.0, 1.0),
        ("sigmoid", -1.0, 1.0),
        ("tanh", -0.8, 3.0),
        ("elu", -0.5, 1.0),
        ("square", -0.3, 1.0),
    ],
)
def test_moments_of_high_and_of_negative_order(name: str, order: float, std: float) -> None:
    unit = BentLaw(HomogeneousLaw(make_spec((), weight_std=std), 1), activation(name))
    value, error = checked_log_moment(unit, order)
    exact = exact_log_moment(name, order, std)
    assert abs(value - exact) <= error + 4e-16 * abs(exact)
    assert error < 1e-11 * (1 + abs(exact))


def test_moments_of_any_order_are_those_of_g_far_out_or_are_refused() -> None:
    # phi(u) is u there, and half of the units are above 0.
    for widths, order in (((10,), 150.0), ((10, 10), 1e3), ((3,) * 10, 1e5), ((), 1e20)):
        unit = bent("gelu", widths)
        value, error = checked_log_moment(unit, order)
        exact, off = unit.law.log_moment(order)
        assert abs(value - (exact - math.log(2))) <= error + off
        assert error < 1e-13 * abs(exact)
    with pytest.raises(InputError, match="beyond 1e304"):
        checked_log_moment(bent("gelu", (5, 5, 5)), 1e290)


def test_the_kurtosis_of_a_deep_narrow_network_is_that_of_its_far_tail() -> None:
    unit = bent("gelu", (3,) * 20)
    (_, _), (kurtosis, error) = unit.spread()
    second, fourth = (math.exp(unit.law.log_moment(k)[0]) / 2 for k in (2.0, 4.0))
    assert 0.5 < kurtosis / (fourth / second**2) < 2
    assert error < 1e-9 * kurtosis


def test_which_negative_moments_are_infinite() -> None:
    # gelu: |phi(-t)| is exp(-t^2/2), against exp(-t^2 / (2 std^2)); softplus: exp(-t).
    for name, std, least in (("gelu", 2.0, 0.25), ("gelu", 0.5, 1.0), ("silu", 5.0, 1.0)):
        unit = BentLaw(HomogeneousLaw(make_spec((), weight_std=std), 1), activation(name))
        assert unit.least_order() == pytest.approx(-least)
        with pytest.raises(InputError, match="infinite"):
            checked_log_moment(unit, -least)
        assert math.isfinite(checked_log_moment(unit, 0.02 - least)[0])
    deep = BentLaw(HomogeneousLaw(make_spec((5,), "linear"), 2), activation("softplus"))
    rate = 1 / math.sqrt(2 / 5)  # P(|g_2| > t) falls as exp(-rate t)
    assert deep.least_order() == pytest.approx(-rate)
    assert math.isfinite(checked_log_moment(deep, -1.4)[0])
    with pytest.raises(InputError, match="infinite"):
        checked_log_moment(deep, -1.6)
    for name in ("gelu", "mish"):
        deeper = BentLaw(HomogeneousLaw(make_spec((5, 5), "linear"), 3), activation(name))
        with pytest.raises(InputError, match="slower than any power"):
            checked_log_moment(deeper, -0.01)
    with pytest.raises(InputError, match="infinitely many zeros"):
        checked_log_moment(bent("sin"), -0.1)


def test_what_fades_is_not_zero() -> None:
    for name in ("gelu", "silu", "mish", "softplus", "sigmoid", "elu"):
        unit = BentLaw(HomogeneousLaw(make_spec((), weight_std=1e4), 1), activation(name))
        assert unit.zero_mass == 0
    # Phi(-10) = 7.62e-24: phi(-10) is -7.62e-23, and 0 by torch's own.
    below = BentLaw(HomogeneousLaw(make_spec((), weight_std=10.0), 1), activation("gelu"))
    t = 10 * float(mp.ncdf(-10))
    exact = float(mp.ncdf(1) - mp.ncdf(-1)) / 2 + 0.5
    assert math.exp(float(below.log_survival(np.array([t]))[0][0])) == pytest.approx(exact, 1e-9)


def exact_slope(log_p: float) -> float:
    """Return theta of tanh(z) at P(|tanh z| > t) = e^log_p, z standard normal."""
    with mp.workdps(30):
        p = mp.exp(log_p)
        z = mp.findroot(lambda x: mp.log(mp.erfc(x / mp.sqrt(2)) / p), mp.sqrt(2 * abs(log_p)))
        fall = 2 * mp.npdf(z) * mp.tanh(z) / (1 - mp.tanh(z) ** 2)
        return float(p * -log_p / fall)


def test_local_tails_near_a_bound_and_beyond_it() -> None:
    unit = bent("tanh")
    log_p = np.array([-0.5, -2.0, -30.0])
    found, error = effective_tail(unit, log_p)
    exact = np.array([exact_slope(one) for one in log_p.tolist()])
    assert (np.abs(found - exact) <= error).all()
    assert (error < 0.01 * exact).all()
    for name, p in (("relu6", -25.0), ("hardtanh", -2.0), ("tanh", -300.0), ("erf", -1e5)):
        with pytest.raises(InputError, match=r"no t has .* it jumps from exp\("):
            effective_tail(bent(name), np.array([p]))
    with pytest.raises(InputError, match="lost to rounding"):
        effective_tail(unit, np.array([-1e-20]))
