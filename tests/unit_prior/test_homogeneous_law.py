"""Exact laws of units: against many digits, closed forms, simulation; errors are bounds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import two_sided
from merkhet.unit_prior.laws.homogeneous_law import HomogeneousLaw
from merkhet.unit_prior.laws.moments import checked_log_moment
from merkhet.unit_prior.laws.unit_laws import ActivatedLaw, PlainLaw
from merkhet.unit_prior.mellin.radii import LOG_2
from merkhet.unit_prior.mellin.transform import Transform
from merkhet.unit_prior.spec import make_spec

sys.path.insert(0, str(Path(__file__).parent))
import exact_reference

GOAL = 1e-6  # relative error of log S


def law(widths: tuple[int, ...], activation: str = "relu", weight_std: str | float = 1.0):
    return HomogeneousLaw(make_spec(widths, activation, weight_std), len(widths) + 1)


def check(found: tuple[np.ndarray, np.ndarray], exact: list[mp.mpf]) -> None:
    """Check values against exact ones: within the stated error, which is small."""
    for value, error, truth in zip(*found, exact, strict=True):
        assert abs(float(mp.mpf(float(value)) - truth)) <= error
        assert error <= 1e-3 * GOAL * abs(float(truth))


@pytest.mark.parametrize("width", [1, 3])
def test_two_layers_against_the_mixture_in_many_digits(width: int) -> None:
    points = [0.05, 2.0, 900.0]  # P down to 1e-390
    exact = [exact_reference.mixed_log_survival(t, width) for t in points]
    check(law((width,)).log_survival(np.array(points)), exact)


DEEP = [
    ((4, 2), "relu", (0.0, 1.0), (3.0, 400.0)),
    ((2, 1), "leaky_relu(0.25)", (0.25, 1.0), (3.0,)),
    ((3, 1, 2), "relu", (0.0, 1.0), (5e3,)),
    ((6, 2), "linear", (1.0, 1.0), (2e4,)),
]


@pytest.mark.parametrize(("widths", "name", "slopes", "points"), DEEP)
def test_deeper_units_against_sums_in_many_digits(
    widths: tuple[int, ...], name: str, slopes: tuple[float, float], points: tuple[float, ...]
) -> None:
    found = law(widths, name)
    exact = [exact_reference.log_survival(t, widths, slopes, _tilt(found, t)) for t in points]
    check(found.log_survival(np.array(points)), exact)
    below = mp.exp(exact_reference.log_survival(1e-3, widths, slopes, -0.6))
    dead = 1 - mp.fprod(1 - mp.mpf(2) ** -width for width in widths) if not slopes[0] else 0
    check(found.log_survival(np.array([1e-3])), [mp.log1p(-dead - below)])


def _tilt(found: HomogeneousLaw, t: float) -> float:
    """Return a c near the saddlepoint at t: any near it does, for the sums are long."""
    transform, c = Transform(found.widths, found.ratio), 1.0
    while transform.at(c).first - 1 / c < math.log(t):
        c *= 1.05
    return c


def test_a_product_of_two_gaussians_has_a_bessel_function_for_its_density() -> None:
    with mp.workdps(30):
        points = np.geomspace(1e-250, 600, 12)
        exact = [mp.log(mp.besselk(0, mp.mpf(float(t))) / mp.pi) for t in points]
        value, error = law((1,), "linear").log_density(points)
        for one, off, truth in zip(value, error, exact, strict=True):
            assert abs(float(mp.mpf(float(one)) - truth)) <= off <= 1e-10


def test_tails_far_below_the_least_number() -> None:
    # -log S of a product of two Gaussians is t + log(pi t / 2)/2 to leading order.
    found, error = law((1,), "linear").log_survival(np.array([1e5, 1e9, 1e20, 1e200]))
    assert (error <= 1e-9 * np.abs(found)).all()
    points = np.array([1e5, 1e9, 1e20, 1e200])
    assert found == pytest.approx(-points - 0.5 * np.log(np.pi * points / 2), rel=1e-9)


def test_extreme_points_are_answered() -> None:
    points = np.array([1e-300, 1e-30, 1e-10, 1e30, 1e300])
    for name in ("relu", "linear", "leaky_relu"):
        for widths in ((), (1,), (3,)):
            value, error = law(widths, name, 0.5).log_survival(points)
            assert np.isfinite(value[:4]).all()
            assert (error[:4] <= GOAL * np.abs(value[:4]) + 1e-300).all()
            assert (np.diff(value) <= 0).all()
            density, _ = law(widths, name, 0.5).log_density(points)
            assert not np.isnan(density).any()


def test_the_stated_error_covers_the_distance_of_two_contours() -> None:
    # One contour serves many points: at each its answer must agree with a contour of its own.
    points = np.geomspace(1e-3, 1e4, 16)
    for widths, name in (((10, 20, 5), "relu"), ((50, 7), "leaky_relu(0.1)"), ((3, 3), "linear")):
        shared, wide = law(widths, name).log_survival(points)
        for t, value, error in zip(points, shared, wide, strict=True):
            own, off = law(widths, name).log_survival(np.array([t]))
            assert abs(float(own[0]) - value) <= float(off[0]) + error


def test_a_contour_serves_no_point_where_its_sum_is_lost() -> None:
    # The first line's window is wide, and its upper end far beyond where the density is told.
    points = np.linspace(-80.0, 9.4, 5789)
    for widths, name in (((3,), "relu"), ((3, 3), "linear")):
        found = law(widths, name, "he")
        value, error = found.log_density(np.exp(points))
        assert np.isfinite(value).all()
        assert (error <= 1e-9 * (1 + np.abs(value))).all()
        again, _ = found.log_density(np.exp(np.array([3.5, 4.5])))
        alone, _ = law(widths, name, "he").log_density(np.exp(np.array([3.5, 4.5])))
        assert again == pytest.approx(alone, rel=1e-9)


def test_negative_moments_where_a_unit_is_dead_too_rarely_for_float64() -> None:
    with pytest.raises(InputError, match="infinite"):
        checked_log_moment(PlainLaw(law((2000,))), -0.5)
    assert math.isfinite(checked_log_moment(PlainLaw(law((2000,), "leaky_relu")), -0.5)[0])
    after = ActivatedLaw(law((3,), "leaky_relu"), (0.0, 1.0))
    with pytest.raises(InputError, match="infinite"):
        checked_log_moment(after, -0.5)


def test_widths_to_a_thousand_and_depth_to_a_hundred() -> None:
    widths = tuple(range(1000, 9, -10))
    found = law(widths, "relu", "he")
    value, error = found.log_survival(np.geomspace(1e-3, 1e6, 40))
    assert (error <= 1e-9 * np.abs(value)).all()
    assert (np.diff(value) < 0).all()
    assert found.zero_mass == pytest.approx(1 - math.prod(1 - 0.5**width for width in widths))
    (second, _), (fourth, _) = found.log_moment(2), found.log_moment(4)
    kurtosis = 3 * math.prod(1 + 5 / width for width in widths)
    assert math.exp(fourth - 2 * second) == pytest.approx(kurtosis, rel=1e-10)


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.3)", "abs"])
def test_simulation_agrees(name: str) -> None:
    widths, draws = (5, 3, 4), 40_000
    generator = torch.Generator().manual_seed(0)
    spec = make_spec(widths, name)
    variance = torch.ones(draws, dtype=torch.float64)
    for width, std in zip(widths, spec.weight_std[1:], strict=True):
        z = torch.randn(draws, width, generator=generator, dtype=torch.float64)
        variance = variance * std**2 * spec.activation(z).square().sum(1)
    found = HomogeneousLaw(spec, 4)
    assert abs(float((variance == 0).double().mean()) - found.zero_mass) < 4 * 0.5 / draws**0.5
    for t in (0.05, 0.5, 2.0, 10.0):
        each = torch.erfc(t / (2 * variance).sqrt())  # P(|g| > t) given the layers before
        exact = math.exp(float(found.log_survival(np.array([t]))[0][0]))
        assert abs(float(each.mean()) - exact) < 4 * float(each.std()) / draws**0.5


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.3)", "linear"])
def test_density_is_the_fall_of_the_survival_and_integrates_to_one(name: str) -> None:
    found = law((4, 6), name)
    t, step = np.geomspace(1e-2, 300, 25), 1e-5
    ahead, behind = (np.exp(found.log_survival(t * math.exp(s * step))[0]) for s in (1, -1))
    value, _ = found.log_density(t)
    assert 2 * t * np.exp(value) == pytest.approx((behind - ahead) / (2 * step), rel=1e-5)
    x = np.linspace(-45, 12, 2000)
    mass = 2 * np.exp(found.log_density(np.exp(x))[0] + x).sum() * (x[1] - x[0])
    assert mass == pytest.approx(1 - found.zero_mass, rel=1e-12)


def test_the_joint_density_of_two_units_has_the_density_of_one_for_its_marginal() -> None:
    found, u = law((5, 3)), 0.7
    x = np.linspace(-30, 8, 3000)
    other = np.exp(x)
    joint, error = found.log_joint_density(np.hypot(u, other), 2)
    marginal = 2 * np.exp(joint + x).sum() * (x[1] - x[0])
    assert marginal == pytest.approx(
        float(np.exp(found.log_density(np.array([u]))[0][0])), rel=1e-9
    )
    assert error.max() < 1e-9


def _one_layer(r: float, width: int, units: int) -> mp.mpf:
    """Return log p of units in layer 2, s = 1: given k active units, a Bessel function."""
    total, a = mp.mpf(0), mp.mpf(r)
    for k in range(1, width + 1):
        share = mp.binomial(width, k) / mp.mpf(2) ** width * 2 / mp.gamma(mp.mpf(k) / 2)
        half = mp.mpf(k - units) / 2
        total += share / mp.mpf(2) ** (mp.mpf(k) / 2) * a**half * mp.besselk(half, a)
    return mp.log(total / (2 * mp.pi) ** (mp.mpf(units) / 2))


@pytest.mark.parametrize(("width", "units"), [(3, 2), (20, 3), (50, 3), (100, 2), (100, 5)])
def test_joint_densities_of_wide_layers_come_from_bessel_functions(width: int, units: int) -> None:
    # Under 1e-28 the layer with one active unit decides at width 100, above it those with many.
    r = [1e-250, 1e-60, 1e-27, 1e-6, 1e-3, 0.1, 2.0, 60.0]
    found, error = law((width,)).log_joint_density(np.array(r), units)
    exact = np.array([float(_one_layer(x, width, units)) for x in r])
    assert (np.abs(found - exact) <= error).all()
    assert (error <= GOAL * np.abs(exact)).all()


def test_joint_densities_of_two_wide_layers_are_integrals_over_their_norms() -> None:
    width, units = 100, 2
    x = np.linspace(math.log(1.5), math.log(25), 400)
    k = np.arange(1, width + 1)[:, None]
    logs = [math.log(math.comb(width, j)) - math.lgamma(j / 2) - j / 2 * LOG_2 for j in k[:, 0]]
    norm = np.exp(np.array(logs)[:, None] - (width - 1) * LOG_2 + k * x - np.exp(2 * x) / 2)
    both = np.outer(norm.sum(0), norm.sum(0)) * (x[1] - x[0]) ** 2
    scale = x[:, None] + x
    r = np.array([1e-6, 1e-3, 0.1, 10.0])
    value, error = law((width, width)).log_joint_density(r, units)
    for one, found in zip(r.tolist(), value.tolist(), strict=True):
        gauss = np.exp(-units * scale - one * one / 2 * np.exp(-2 * scale)) / (2 * math.pi)
        assert found == pytest.approx(math.log((both * gauss).sum()), abs=1e-10)
    assert (error < 1e-9).all()


def test_densities_at_zero() -> None:
    assert law((5,)).log_density_at_zero()[0] == math.inf  # one active unit may be left
    assert law((1,), "linear").log_density_at_zero()[0] == math.inf
    for widths, name, units in (((3, 4), "linear", 2), ((4,), "leaky_relu", 3), ((), "relu", 2)):
        found = law(widths, name)
        value, error = found.log_density_at_zero(units)
        near, _ = found.log_joint_density(np.array([1e-9]), units)
        assert value == pytest.approx(float(near[0]), abs=1e-6)
        assert error < 1e-12
    assert law((3, 4), "linear").log_density_at_zero(3)[0] == math.inf


def _log_erfc(x: mp.mpf) -> mp.mpf:
    return mp.log(mp.erfc(x)) if x > 1 else mp.log1p(-mp.erf(x))


def test_layer_one_is_gaussian() -> None:
    found = law((3, 3), "relu", 2.0)
    first = HomogeneousLaw(make_spec((3, 3), "relu", 2.0, 0.0, 1.5), 1)
    assert first.method == "closed form"
    assert found.method == "Mellin inversion"
    points = np.array([1e-300, 1e-5, 0.3, 1.4, 1.6, 40.0, 1e6])
    with mp.workdps(40):
        exact = [_log_erfc(mp.mpf(float(t)) / 3 / mp.sqrt(2)) for t in points]
    value, error = first.log_survival(points)
    for one, off, truth in zip(value, error, exact, strict=True):
        assert abs(float(mp.mpf(float(one)) - truth)) <= off
    assert math.exp(first.log_moment(2.0)[0]) == pytest.approx(9)


def test_an_activation_that_is_zero_everywhere_is_refused() -> None:
    with pytest.raises(InputError, match="0 everywhere"):
        HomogeneousLaw(make_spec((3,), two_sided("nothing", 0.0, 0.0)), 2)
