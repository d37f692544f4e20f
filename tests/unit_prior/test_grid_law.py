"""The recursion on a grid: its pieces, and laws against independent integrals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation, activation
from merkhet.unit_prior.grid.lattice import split, thinned
from merkhet.unit_prior.grid.nodes import evaluate, flat_parts, kinks, squares
from merkhet.unit_prior.grid.step import Resolution, StepLaw
from merkhet.unit_prior.grid.table import from_few
from merkhet.unit_prior.grid.tilts import Ladder
from merkhet.unit_prior.laws.bent_law import BentLaw
from merkhet.unit_prior.laws.grid_law import GridLaw
from merkhet.unit_prior.laws.homogeneous_law import HomogeneousLaw
from merkhet.unit_prior.laws.law import law_of
from merkhet.unit_prior.laws.moments import checked_log_moment
from merkhet.unit_prior.laws.unit_laws import PlainLaw
from merkhet.unit_prior.spec import Spec, make_spec

RESOLUTION = Resolution(0.1, 0.35, 14, 750.0)


def dense(
    reach: float = 14.0, panels: int = 1120, bends: tuple[float, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and masses of a standard normal, by many panels that end at 0 and at bends."""
    node, weight = np.polynomial.legendre.leggauss(12)
    edges = np.union1d(np.linspace(-reach, reach, panels + 1), bends)
    middle, radius = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    z = (middle[:, None] + radius[:, None] * node).ravel()
    mass = (radius[:, None] * weight).ravel() * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return z, mass


def geometric(least: float, panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and masses of a standard normal, as near 0 as negative moments ask for."""
    node, weight = np.polynomial.legendre.leggauss(8)
    half = np.geomspace(least, 30, panels + 1)
    middle, radius = (half[1:] + half[:-1]) / 2, np.diff(half) / 2
    z = (middle[:, None] + radius[:, None] * node).ravel()
    mass = (radius[:, None] * weight).ravel() * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.concatenate([-z, z]), np.concatenate([mass, mass])


def by_transform(spec: Spec, t: float) -> float:
    """Return log P(|g_2| > t) by the Laplace transform of A, on a line through its saddlepoint.

    erfc(b / sqrt(q)) = 1 / (2 pi i) int e^(theta q - 2 b sqrt(theta)) / theta d theta: no lattice,
    no grid, one complex integral.
    """
    z, mass = dense()
    first = math.hypot(spec.weight_std[0] * spec.input_norm, spec.bias_std)
    x = spec.weight_std[1] ** 2 * evaluate(spec.activation, first * z) ** 2
    log_mass = np.log(mass)
    b = t / math.sqrt(2)

    def log_term(theta: complex) -> complex:
        exponent = log_mass + theta * x
        top = exponent.real.max()
        transform = np.log(np.exp(exponent - top).sum()) + top
        root = np.sqrt(theta)
        return spec.widths[0] * transform + theta * spec.bias_std**2 - 2 * b * root - np.log(theta)

    most = 0.45 / x.max() * z.max() ** 2 if spec.activation.growth else 1e4
    at = optimize.minimize_scalar(
        lambda y: log_term(complex(math.exp(y))).real,
        bounds=(-12, math.log(most)),
        method="bounded",
    )
    centre = math.exp(at.x)
    level = log_term(complex(centre)).real
    # theta = centre (1 + sinh w)^... : tau = centre sinh(w) reaches far in few steps.
    w = np.linspace(0, 11, 1101)
    tau = centre * np.sinh(w)
    terms = np.array([np.exp(log_term(complex(centre, y)) - level).real for y in tau])
    terms *= centre * np.cosh(w)
    total = float((terms.sum() - terms[0] / 2) * (w[1] - w[0]))
    return level + math.log(total / math.pi)


@pytest.mark.parametrize(
    ("name", "width", "bias"),
    [
        ("tanh", 5, 0.0),
        ("gelu", 10, 0.3),
        ("relu", 4, 0.5),
        ("softplus", 20, 0.1),
        ("silu", 3, 0.2),
    ],
)
def test_layer_two_is_one_complex_integral(name: str, width: int, bias: float) -> None:
    spec = make_spec((width,), name, bias_std=bias)
    law = GridLaw(spec, 2)
    for t in (0.5, 3.0, 8.0):
        value, error = law.log_survival(np.array(t))
        off = abs(float(value) - by_transform(spec, t))
        assert off <= min(3 * float(error), 2e-6 * max(1.0, abs(float(value))))


BENDS = {"hardswish": (-3.0, 3.0), "relu6": (6.0,)}


@pytest.mark.parametrize("name", ["gelu", "hardswish", "relu6", "elu", "sin"])
@pytest.mark.parametrize("width", [1, 2])
def test_few_units_are_integrals_over_them(name: str, width: int) -> None:
    spec = make_spec((width,), name, weight_std=(1.5, 0.9), bias_std=0.2)
    first = math.hypot(1.5, 0.2)
    z, mass = dense(9.0, 90, tuple(bend / first for bend in BENDS.get(name, ())))
    x = evaluate(spec.activation, first * z) ** 2
    a, weight = x, mass
    if width == 2:
        a, weight = (x[:, None] + x).ravel(), (mass[:, None] * mass).ravel()
    q = 0.04 + 0.81 * a
    t = np.array([0.05, 0.5, 2.0, 6.0])
    law = GridLaw(spec, 2)
    exact = np.array([math.log(weight @ special.erfc(one / np.sqrt(2 * q))) for one in t])
    found, error = law.log_survival(t)
    assert (np.abs(found - exact) <= np.minimum(3 * error, 2e-5)).all()
    exact = np.array([math.log(weight @ (np.exp(-(r**2) / (2 * q)) / (2 * np.pi * q))) for r in t])
    assert law.log_joint_density(t, 2)[0] == pytest.approx(exact, abs=1e-4)


def test_the_far_tail_is_the_exact_one_down_to_1e_minus_300() -> None:
    for width, layer, most in ((10, 3, 2500.0), (100, 2, 150.0), (100, 3, 500.0)):
        spec = make_spec((width,) * (layer - 1), "relu")
        exact = HomogeneousLaw(spec, layer)
        t = np.geomspace(3.0, most, 12)
        values, _ = exact.log_survival(t)
        assert values[-1] < math.log(1e-300)
        found, error = GridLaw(spec, layer).log_survival(t)
        assert found == pytest.approx(values, rel=1e-6)
        assert (np.abs(found - values) < 2 * error).all(), "the estimate covers what is off"


def test_densities_and_moments_are_the_exact_ones() -> None:
    spec = make_spec((20, 20), "leaky_relu(0.3)")
    exact, law = HomogeneousLaw(spec, 3), GridLaw(spec, 3)
    t = np.array([1e-3, 0.1, 1.0, 10.0, 100.0])
    assert law.log_density(t)[0] == pytest.approx(exact.log_density(t)[0], rel=1e-5, abs=1e-5)
    found, _ = law.log_joint_density(t, 3)
    assert found == pytest.approx(exact.log_joint_density(t, 3)[0], rel=1e-5, abs=1e-5)
    for order in (-0.5, 0.5, 2.0, 4.0, 40.0):
        value, error = law.log_moment(order)
        assert value == pytest.approx(exact.log_moment(order)[0], abs=max(3 * error, 1e-6))


def test_negative_moments_of_few_units_are_integrals_over_them() -> None:
    for name, width, std, order in (
        ("gelu", 1, 1.2, -0.6),
        ("gelu", 2, 1.2, -0.85),
        ("silu", 2, 2.0, -0.9),
        ("tanh", 1, 2.0, -0.9),
    ):
        spec = make_spec((width,), name, weight_std=std)
        z, mass = geometric(1e-150, 400) if width == 1 else geometric(1e-9, 110)
        x = np.maximum(evaluate(spec.activation, std * z) ** 2, 1e-300)
        sums = x if width == 1 else (x[:, None] + x).ravel()
        each = mass if width == 1 else (mass[:, None] * mass).ravel()
        log_z = special.gammaln((1 + order) / 2) - 0.5 * math.log(math.pi) + order / 2 * math.log(2)
        exact = math.log(each @ sums ** (order / 2)) + order * math.log(std) + log_z
        value, error = GridLaw(spec, 2).log_moment(order)
        assert abs(value - exact) <= 2 * error < 1e-4


def test_which_negative_moments_are_infinite() -> None:
    # gelu: phi(g_2) fades faster than P(g_2 < -t) falls; silu: as e^-t, against e^(-rate t).
    def index(name: str, widths: tuple[int, ...], layer: int, std: float, bias: float = 0) -> float:
        return GridLaw(make_spec(widths, name, std, bias), layer).index()

    assert index("gelu", (2, 3), 3, 1.0) == 0
    assert index("gelu", (2, 3), 3, 1.0, 0.1) == 1
    assert index("gelu", (2,), 2, 2.0) == pytest.approx(2 / 4)
    assert index("silu", (2, 3), 3, 3.0) == pytest.approx(math.sqrt(3) / 9)
    assert index("silu", (2, 3, 3), 4, 0.1) == 0
    assert index("softplus", (2, 3), 2, 9.0) == 1
    assert index("tanh", (1, 1), 3, 9.0) == 1
    assert index("hardswish", (2000,), 2, 1e-3) == 0
    for law in (
        PlainLaw(GridLaw(make_spec((2, 3), "gelu"), 3)),
        BentLaw(GridLaw(make_spec((2, 3), "gelu", bias_std=0.1), 2), activation("gelu")),
    ):
        with pytest.raises(InputError, match="infinite"):
            checked_log_moment(law, -0.4)
    with pytest.raises(InputError, match="does not tell the small variances"):
        GridLaw(make_spec((2,), "gelu", 1.6), 2).log_moment(-0.6)
    mine = Activation("mine", lambda u: u.sinh().asinh() + u, growth=1.0)
    with pytest.raises(InputError, match="named activations alone"):
        GridLaw(make_spec((2,), mine), 2).log_moment(-0.6)


def test_the_estimate_does_not_vanish_where_resolutions_cross() -> None:
    # At 0.3 standard deviations they agree by chance, to a twentieth of what both are off.
    spec = make_spec((2, 2), "linear", 1.0)
    t = np.array([0.03, 0.3, 1.0]) * 2.0
    exact, _ = HomogeneousLaw(spec, 3).log_survival(t)
    value, error = GridLaw(spec, 3).log_survival(t)
    assert (np.abs(value - exact) <= 3 * error).all()
    assert error.max() < 1e-5


def test_few_active_units_are_told_near_0() -> None:
    # One active unit of 4 has a density of its square that is infinite at 0.
    spec = make_spec((4, 4), "relu")
    exact, law = HomogeneousLaw(spec, 3), GridLaw(spec, 3)
    value, error = law.log_survival(np.array([1e-9]))
    assert abs(float(value[0]) - exact.log_alive) <= min(3 * float(error[0]), 1e-5)
    t = np.array([1e-6])
    found, off = law.log_density(t)
    assert np.abs(found - exact.log_density(t)[0]) <= np.minimum(3 * off, 1e-3)


def test_what_is_likely_is_asked_of_a_shallow_recursion() -> None:
    law = GridLaw(make_spec((2, 3), "gelu", bias_std=0.1), 3)
    _, error = law.log_survival(np.array([0.3, 3.0]))
    assert (error < 2e-5).all()
    depths = {recursion.resolution.cost for recursion in law._recursions.values()}
    assert max(depths) < 100


def test_the_density_at_0() -> None:
    for widths, name, bias in (
        ((6,), "gelu", 0.3),
        ((5,), "leaky_relu", 0.2),
        ((4, 5), "tanh", 0.0),
    ):
        law = GridLaw(make_spec(widths, name, bias_std=bias), len(widths) + 1)
        for units in (1, 2):
            value, error = law.log_density_at_zero(units)
            near, off = law.log_joint_density(np.array([1e-5]), units)
            assert abs(value - float(near[0])) <= error + float(off[0]) < 1e-4
    assert GridLaw(make_spec((1, 2), "tanh"), 3).log_density_at_zero() == (math.inf, 0.0)
    assert GridLaw(make_spec((5,), "relu6"), 2).log_density_at_zero() == (math.inf, 0.0)


def test_layer_one_is_exact_for_every_activation() -> None:
    for spec in (make_spec((3,), "gelu", 2.0, 1.5, 1.0), make_spec((3,), "relu", 2.0, 1.5)):
        law = law_of(spec, 1)
        assert law.method == "closed form"
        value, error = law.log_survival(np.array([1e-12, 2.5, 1e5]))
        exact = np.array([-math.sqrt(2 / math.pi) * 1e-12 / 2.5, math.log(special.erfc(0.5**0.5))])
        assert value[:2] == pytest.approx(exact, rel=1e-12)
        assert (error <= 1e-13 * np.abs(value)).all()
        at_zero, _ = law.log_density_at_zero()
        assert at_zero == pytest.approx(-math.log(2.5 * math.sqrt(2 * math.pi)))


def test_parts_are_forgotten_before_measures() -> None:
    law = StepLaw(activation("tanh"), 3, 1.0, RESOLUTION, keep_zero=False)
    kept = law.measure(law.windows.upper()[2])
    whole = law.size
    law.forget(parts=True)
    assert 0 < law.size < whole
    assert law.measure(law.windows.upper()[2]) is kept
    law.forget(parts=False)
    assert law.size == 0


def test_survival_falls_and_the_density_is_its_slope() -> None:
    law = GridLaw(make_spec((30, 30), "mish", bias_std=0.1), 3)
    t = np.geomspace(0.01, 50.0, 60)
    value, _ = law.log_survival(t)
    assert (np.diff(value) < 0).all()
    for one in (0.3, 2.0, 9.0):
        step = 1e-2 * one
        ends, _ = law.log_survival(np.array([one - step, one + step]))
        slope = -(ends[1] - ends[0]) / (2 * step)  # of -log S
        density = float(law.log_density(np.array(one))[0])
        survival = float(law.log_survival(np.array(one))[0])
        # The difference quotient is off by step^2 / 6 of the third derivative.
        assert 2 * math.exp(density - survival) == pytest.approx(slope, rel=2e-3)


def test_many_points_are_those_of_few() -> None:
    law = GridLaw(make_spec((10,), "gelu", bias_std=0.2), 2)
    t = np.geomspace(0.05, 30.0, 500)
    many, error = law.log_survival(t.reshape(20, 25))
    few, _ = law.log_survival(t[::41])
    assert many.shape == error.shape == (20, 25)
    assert np.abs(many.ravel()[::41] - few) == pytest.approx(0, abs=1e-7)
    assert law.log_survival(np.zeros(0))[0].shape == (0,)


def test_a_smooth_function_is_asked_at_knots_alone() -> None:
    asked = []

    def function(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(t))
        return -(t**1.3), np.full(t.shape, 1e-12)

    t = np.geomspace(0.1, 10.0, 400)
    value, error = from_few(function, t)
    assert sum(asked) < 80
    assert value == pytest.approx(-(t**1.3), rel=1e-9)
    assert (np.abs(value + t**1.3) <= error + 1e-14).all()


def test_the_mass_at_zero() -> None:
    assert GridLaw(make_spec((2, 3), "relu6"), 3).zero_mass == pytest.approx(1 - 3 / 4 * 7 / 8)
    assert GridLaw(make_spec((2, 3), "relu6", bias_std=0.1), 3).zero_mass == 0
    assert GridLaw(make_spec((2, 3), "gelu"), 3).zero_mass == 0, "0 in floating point only"
    spec = make_spec((2,), "hardswish", weight_std=4.0)
    exact = special.ndtr(-3 / 4) ** 2
    law = GridLaw(spec, 2)
    assert law.zero_mass == pytest.approx(exact, rel=1e-12)
    value, _ = law.log_survival(np.array(1e-4))
    assert math.exp(value) == pytest.approx(1 - exact, abs=1e-2)


def test_the_first_layer_is_gaussian() -> None:
    law = GridLaw(make_spec((3,), "tanh", bias_std=0.5), 1)
    value, _ = law.log_survival(np.array([1e-8, 1.0, 1e3]))
    exact = math.log(2) + special.log_ndtr(-np.array([1e-8, 1.0, 1e3]) / math.sqrt(1.25))
    assert value == pytest.approx(exact)
    assert law.method == "closed form"


def test_scales_that_float64_does_not_hold() -> None:
    with pytest.raises(InputError, match="standard deviation may come to 1e-200"):
        GridLaw(make_spec((3,), "tanh", weight_std=1e-200), 2).log_survival(np.ones(1))
    with pytest.raises(InputError, match="does not reach"):
        GridLaw(make_spec((3,), "tanh"), 2).log_survival(np.array([1e9]))
    spec = make_spec((3,), "relu", weight_std=1e-100, bias_std=1.0)
    value, _ = GridLaw(spec, 2).log_survival(np.array([1.0]))
    assert value[0] == pytest.approx(math.log(special.erfc(1 / math.sqrt(2))), rel=1e-5)


def test_memory_is_given_back_without_changing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, t = make_spec((40, 40), "relu", bias_std=0.1), np.array([0.5, 5.0])
    before, _ = GridLaw(spec, 3).log_survival(t)
    monkeypatch.setattr("merkhet.unit_prior.grid.step.MOST", 1000)
    after, _ = GridLaw(spec, 3).log_survival(t)
    assert (before == after).all()


def test_where_functions_bend() -> None:
    assert kinks(activation("relu6")) == (0.0, 6.0)
    assert kinks(activation("hardswish")) == (-3.0, 3.0)
    assert kinks(activation("hardtanh")) == (-1.0, 1.0)
    assert kinks(activation("tanh")) == kinks(activation("gelu")) == ()
    mine = Activation("mine", lambda u: (u - 0.7).clamp(min=0) - (u + 2.3).clamp(max=0), 1.0)
    assert kinks(mine) == pytest.approx((-2.3, 0.7))
    assert flat_parts(mine) == (pytest.approx((-2.3, 0.7)),)
    assert flat_parts(activation("hardswish")) == ((-math.inf, -3.0),)
    assert flat_parts(activation("gelu")) == ()


def test_a_square_has_the_moments_of_the_gaussian_integral() -> None:
    z, mass = dense()
    for name, variance in (("gelu", 1.0), ("tanh", 100.0), ("relu6", 9.0), ("sigmoid", 1e-6)):
        found = squares(activation(name), variance, 15.0, 14)
        x = evaluate(activation(name), math.sqrt(variance) * z) ** 2
        weight = np.exp(found.log_weight)
        assert weight.sum() + found.zero == pytest.approx(1, rel=1e-12)
        for power in (1, 2, 3):
            assert weight @ found.value**power == pytest.approx(mass @ x**power, rel=1e-6)


def test_splitting_keeps_four_moments() -> None:
    rng = np.random.default_rng(0)
    place, mass = rng.uniform(0, 90, 50), rng.uniform(size=50)
    at = np.arange(100)
    found = split(place, mass, 100)
    # Sums of cubes up to 90^3 of 50 terms: rounding to 1e-16 of their size.
    for power in range(4):
        assert found @ at.astype(float) ** power == pytest.approx(mass @ place**power, rel=1e-13)
    thin = thinned(found, 0, 10.0)
    assert (thin != 0).sum() < (found != 0).sum()
    for power in range(4):
        assert thin @ at.astype(float) ** power == pytest.approx(mass @ place**power, rel=1e-13)


def test_a_ladder_is_of_neighbours_and_costs_bound_the_tail() -> None:
    ladder = Ladder(squares(activation("gelu"), 0.02, 40.0, 14), 100)
    last = ladder.top(300.0)
    tilts = [ladder[rung] for rung in range(last + 1)]
    for low, high in itertools.pairwise(tilts):
        assert 0 < (high.theta - low.theta) * (high.mean - low.mean) <= 16
    assert tilts[-1].cost >= 300
    chi = Ladder(squares(activation("linear"), 1.0, 40.0, 14), 8)
    for rung in (1, 2, -1, -3):
        tilt = chi[rung]
        tail = special.chdtrc(8, tilt.mean) if rung > 0 else special.chdtr(8, tilt.mean)
        assert tail <= math.exp(-tilt.cost)
        ratio = tilt.mean / 8
        assert tilt.cost == pytest.approx(4 * (ratio - 1 - math.log(ratio)), rel=1e-9)


@pytest.mark.parametrize(("name", "variance"), [("gelu", 0.02), ("relu", 1.0), ("hardtanh", 4.0)])
def test_all_tilts_give_one_law(name: str, variance: float) -> None:
    law = StepLaw(activation(name), 3, variance, RESOLUTION, keep_zero=False)
    windows = law.windows.down_to(25.0)

    def mean(centre: float) -> float:
        """Return E f(A) of the window nearest, f a bump of log A that is 0.4 wide."""
        place = int(np.argmin([abs(math.log(w.tilt.mean / centre)) for w in windows]))
        found = []
        for window in windows[max(place - 1, 0) : place + 2]:
            measure = law.measure(window)
            bump = -0.5 * ((measure.log_a - math.log(centre)) / 0.2) ** 2
            found.append(measure.mass @ np.exp(bump - measure.exponent))
        return float(np.ptp(np.log(found)))

    middle = windows[len(windows) // 2].tilt.mean
    for factor in (0.3, 1.0, 1.6):
        assert mean(middle * factor) < 1e-3
