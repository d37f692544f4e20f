"""Mellin transforms of norms after an activation, against sums in many digits."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

from merkhet.unit_prior.mellin import directions
from merkhet.unit_prior.mellin.gamma import log_gamma_ratio, log_gamma_turn, trigamma
from merkhet.unit_prior.mellin.radii import EPS, ChiRadii, ReluRadii
from merkhet.unit_prior.mellin.sphere import SlopedRadii
from merkhet.unit_prior.mellin.transform import Transform

sys.path.insert(0, str(Path(__file__).parent))
import exact_reference

KINDS = {"linear": (1.0, 1.0), "relu": (0.0, 1.0), "leaky": (0.25, 1.0), "steep": (0.01, 1.0)}
PLACES = (-0.99, 0.7, 12.0, 300.0)


def _radii(kind: str, widths: list[int]) -> ChiRadii | ReluRadii | SlopedRadii:
    array, ratio = np.array(widths), KINDS[kind][0]
    if kind in ("linear", "relu"):
        return ChiRadii(array) if kind == "linear" else ReluRadii(array)
    return SlopedRadii(array, ratio)


@pytest.mark.parametrize("a", [0.005, 0.5, 31.9, 32.0, 500.0, 1e7])
def test_ratios_of_gamma_functions_keep_their_digits(a: float) -> None:
    for d in (1e-9, 0.25, 40.0, 1e5):
        with mp.workdps(40):
            exact = mp.loggamma(mp.mpf(a) + mp.mpf(d)) - mp.loggamma(a)
        # Under a = 32 the difference of two numbers of size 80 is taken as it is.
        slack = 8 * EPS * (abs(float(exact)) + (80.0 if a < 32 else 1 / a))
        assert abs(float(log_gamma_ratio(np.array([a]), d)[0] - exact)) <= slack
    for y in (0.0, 1e-3, 7.0, 900.0):
        with mp.workdps(40):
            exact = mp.loggamma(mp.mpc(a, y)) - mp.loggamma(a)
        found = mp.mpc(complex(log_gamma_turn(np.array([a]), np.array([y]))[0, 0]))
        assert abs(found - exact) <= 8 * EPS * (80 + abs(exact) + y * (1 + abs(math.log(a))))
    assert float(trigamma(np.array([a]))[0]) == pytest.approx(float(mp.psi(1, a)), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_and_their_bounds_of_rounding(kind: str) -> None:
    widths = [1, 2, 7, 25]
    radii = _radii(kind, widths)
    for c in PLACES:
        found, tau = radii.tilted(c), np.array([0.0, 0.4, 9.0])
        turned = found.turn(tau)
        for row, width in enumerate(widths):
            with mp.workdps(40):
                exact = exact_reference.radius(width, mp.mpf(c), KINDS[kind])
                ahead = exact_reference.radius(width, mp.mpc(c, 9), KINDS[kind]) / exact
                log = mp.log(exact)
            assert abs(float(found.log[row] - log)) <= found.slack[row]
            assert found.slack[row] <= 1e-13 * (1 + abs(c)) * 20
            assert abs(complex(ahead) - turned[row, 2]) <= 1e-13
            assert abs(turned[row, 0] - 1) <= 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_the_log(kind: str) -> None:
    radii, step = _radii(kind, [1, 5, 1000]), 1e-4
    for c in (-0.5, 1.0, 40.0):
        low, here, high = (radii.tilted(c + side * step) for side in (-1, 0, 1))
        assert here.first == pytest.approx((high.log - low.log) / (2 * step), rel=1e-5, abs=1e-7)
        slope = (high.first - low.first) / (2 * step)
        assert here.second == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_wide_layers_agree_with_closed_moments() -> None:
    for width in (1000, 20_000):
        relu, leaky = ReluRadii(np.array([width])), SlopedRadii(np.array([width]), 0.3)
        assert float(relu.tilted(2.0).log[0]) == pytest.approx(math.log(width / 2), abs=1e-12)
        second = width * (1 + 0.3**2) / 2
        fourth = second**2 + width * (3 * (1 + 0.3**4) / 2 - ((1 + 0.3**2) / 2) ** 2)
        assert float(leaky.tilted(2.0).log[0]) == pytest.approx(math.log(second), abs=1e-12)
        assert float(leaky.tilted(4.0).log[0]) == pytest.approx(math.log(fourth), abs=1e-12)


def test_slopes_near_zero_and_near_one_meet_relu_and_linear() -> None:
    widths = np.array([1, 4, 30])
    for c in (0.5, 6.0, 70.0):
        almost = SlopedRadii(widths, 1e-160).tilted(c).log
        assert almost == pytest.approx(ReluRadii(widths).tilted(c).log, abs=1e-12 * (1 + c))
        near = SlopedRadii(widths, 1 - 1e-13).tilted(c).log
        assert near == pytest.approx(ChiRadii(widths).tilted(c).log, abs=1e-11 * (1 + c))


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_moduli_on_the_line_stay_under_their_bound(ratio: float) -> None:
    transform = Transform((3, 3, 40, 200), ratio)
    tau = np.linspace(0, 60, 400)
    for c in (-0.95, 0.5, 30.0, 2000.0):
        ratios, wobble = transform.at(c).turn(tau)
        log, rate = transform.log_bound(c, tau)
        assert (np.abs(ratios) <= np.exp(log) * (1 + 1e-12) + wobble).all()
        assert (np.diff(rate) >= 0).all()
        fall = -np.diff(log) / np.diff(tau)
        assert (fall <= rate[1:] * (1 + 1e-9)).all()
        assert (fall >= rate[:-1] * (1 - 1e-9)).all()


@pytest.mark.parametrize("ratio", [0.01, 0.5])
def test_every_mth_number_of_active_units_serves_a_wide_layer(
    ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The terms' sizes are those of numbers up to 2000 log 2, rounded: 1e3 eps.
    widths, places = np.array([3, 40, 400, 2000]), (-0.9, 0.5, 30.0, 300.0)
    few = [SlopedRadii(widths, ratio).tilted(c) for c in places]
    y = np.linspace(-0.2, 0.2, 40)
    assert len(directions._numbers(2000, y)) < 100
    monkeypatch.setattr(directions, "ALIASED", math.inf)
    assert len(directions._numbers(2000, y)) > 400
    every = [SlopedRadii(widths, ratio).tilted(c) for c in places]
    tau = np.array([0.0, 1.0, 20.0])
    for one, other in zip(few, every, strict=True):
        assert np.abs(one.log - other.log).max() <= 1e3 * EPS
        assert np.abs(one.turn(tau) - other.turn(tau)).max() <= 1e3 * EPS


def test_a_wide_leaky_layer_in_many_digits() -> None:
    width, c = 300, 40.0
    found = SlopedRadii(np.array([width]), 0.25).tilted(c)
    with mp.workdps(30):
        exact = mp.log(exact_reference.radius(width, mp.mpf(c), (0.25, 1.0)))
    assert abs(float(found.log[0] - exact)) <= found.slack[0] < 1e-12 * float(exact)


def test_very_wide_leaky_layers_take_little_memory_below_their_poles() -> None:
    # Half the units on each side, all but surely: E V^(c/2) is E chi^c's share of (1 + a^2)/2.
    width, ratio = 100_000, 1e-100
    found = SlopedRadii(np.array([width]), ratio).tilted(-2.5)
    linear = ChiRadii(np.array([width])).tilted(-2.5)
    assert float(found.log[0] - linear.log[0]) == pytest.approx(-1.25 * math.log(0.5), abs=1e-4)
