"""Draws of units without their weights: against the plain recursion and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation, two_sided
from merkhet.unit_prior.sampling import loops
from merkhet.unit_prior.sampling.draws import draw_layers, draw_units
from merkhet.unit_prior.sampling.streams import normals, streams
from merkhet.unit_prior.spec import make_spec

N = 50_000
LEVEL = (
    1e-4  # of a test: seeds are fixed, so that it fails by chance once in 10,000 choices of them
)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def within(values: torch.Tensor, expected: float, errors: float = 4.5) -> None:
    """Check a mean against what it should be, by its standard error."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) <= errors * error


def same_law(one: torch.Tensor, other: torch.Tensor) -> None:
    assert stats.ks_2samp(one.numpy(), other.numpy(), method="asymp").pvalue > LEVEL


def test_normals_are_normal_into_the_tails() -> None:
    z = normals((1_000_000,), seed(0))
    assert stats.kstest(z.numpy(), "norm").pvalue > LEVEL
    # 3.654 is where the ziggurat's own tail begins; inner strips touch it at the edges.
    for low, high in ((0, 0.05), (3.6, 3.66), (3.66, 4.0), (4.0, math.inf), (-math.inf, -3.7)):
        share = stats.norm.cdf(high) - stats.norm.cdf(low)
        count = int(((z > low) & (z <= high)).sum())
        assert stats.binomtest(count, len(z), share).pvalue > LEVEL


def test_the_strips_of_the_ziggurat_have_one_area() -> None:
    edges, heights = loops.EDGES, loops.HEIGHTS
    rises = np.diff(heights[1:])  # of the strips above the lowest
    np.testing.assert_allclose(edges[1:-1] * rises, loops.AREA, rtol=1e-9)
    tail = math.sqrt(2 * math.pi) * stats.norm.sf(loops.EDGE)
    assert loops.EDGE * heights[1] + tail == pytest.approx(loops.AREA, rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 101, 5000])
def test_sums_of_squares_are_chi_squared(degrees: int) -> None:
    state = streams(1, seed(degrees))[0]
    drawn = [loops._chi_squared(state, degrees) for _ in range(20_000)]
    assert stats.kstest(drawn, stats.chi2(degrees).cdf).pvalue > LEVEL


@pytest.mark.parametrize("count", [1, 5, 63, 64, 65, 200])
def test_active_units_are_binomial(count: int) -> None:
    state = streams(1, seed(count))[0]
    drawn = torch.tensor([loops._half(state, count) for _ in range(20_000)]).double()
    assert drawn.min() >= 0
    assert drawn.max() <= count
    within(drawn, count / 2)
    within((drawn - count / 2) ** 2, count / 4)


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.3)", "linear", "abs"])
@pytest.mark.parametrize("widths", [(1,), (2, 3), (7, 5, 70)])
def test_products_have_the_law_of_the_recursion(name: str, widths: tuple[int, ...]) -> None:
    spec = make_spec(widths, name, weight_std=0.7, input_norm=3.0)
    last = len(widths) + 1
    quick = draw_units(spec, last, N, 1, seed(1))[:, 0]
    plain = draw_layers(spec, {last: 1}, N, seed(2))[last][:, 0]
    same_law(quick, plain)
    # Logs of sizes look into both tails, zeros aside.
    same_law(quick[quick != 0].abs().log(), plain[plain != 0].abs().log())


def test_two_slopes_above_and_below() -> None:
    spec = make_spec((4, 4), two_sided("bent", 0.5, -2.0), weight_std=1.0)
    same_law(
        draw_units(spec, 3, N, 1, seed(1))[:, 0].abs().log(),
        draw_layers(spec, {3: 1}, N, seed(2))[3][:, 0].abs().log(),
    )


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu(0.5)", 0.5)])
def test_second_and_fourth_moments(name: str, slope: float) -> None:
    widths = (50, 30, 20)
    g = draw_units(make_spec(widths, name), 4, N, 1, seed(0))[:, 0]
    gain = 1 + slope**2  # of "he", which is made for ReLU
    within(g**2, gain**3)
    ratio = 6 * (1 + slope**4) / (1 + slope**2) ** 2 - 1
    kurtosis = 3 * math.prod(1 + ratio / width for width in widths)
    within(g**4, kurtosis * gain**6)


def test_units_of_a_layer_share_their_scale() -> None:
    g = draw_units(make_spec((10, 10)), 3, N, 2, seed(0))
    r = (1 + 5 / 10) ** 2
    within(g[:, 0] * g[:, 1], 0.0)
    within(g[:, 0] ** 2 * g[:, 1] ** 2, r)
    assert (r - 1) / (3 * r - 1) == pytest.approx(float(np.corrcoef((g**2).T)[0, 1]), abs=0.03)


def test_dead_layers_give_exact_zeros() -> None:
    g = draw_units(make_spec((2, 3)), 3, N, 1, seed(0))[:, 0]
    expected = 1 - (1 - 2**-2) * (1 - 2**-3)
    assert stats.binomtest(int((g == 0).sum()), N, expected).pvalue > LEVEL


def test_after_the_activation() -> None:
    spec = make_spec((5, 5))
    before, after = (draw_units(spec, 2, 100, 3, seed(0), post=post) for post in (False, True))
    assert torch.equal(after, before.relu())


def test_no_hidden_layers() -> None:
    g = draw_units(make_spec((), weight_std=2.0, input_norm=3.0), 1, N, 1, seed(0))[:, 0]
    assert stats.kstest(g.numpy() / 6, "norm").pvalue > LEVEL


@pytest.mark.parametrize("scale", [1e-90, 1e90])
def test_scales_that_would_overflow_on_the_way(scale: float) -> None:
    stds = [scale, 1 / scale] * 50 + [1.0]
    g = draw_units(make_spec((3,) * 100, "linear", stds), 101, 500, 1, seed(0))
    like = draw_units(make_spec((3,) * 100, "linear", 1.0), 101, 500, 1, seed(0))
    torch.testing.assert_close(g, like, rtol=1e-12, atol=0.0)


def test_products_that_underflow_on_the_way() -> None:
    """Depth 800 at width 1 takes |g|^2 far below 1e-308 before the last scale lifts it."""
    spec = make_spec((1,) * 800, "linear", [1.0] * 800 + [1e220])
    logs = draw_units(spec, 801, 5000, 1, seed(0))[:, 0].abs().log()
    mean = -(np.euler_gamma + math.log(2)) / 2  # of log |z|
    within(logs, 801 * mean + 220 * math.log(10))


def test_bias_and_other_activations() -> None:
    """E g_2^2 = s_w^2 H E tanh(g_1)^2 + s_b^2, for units and their products between layers."""
    spec = make_spec((20,), "tanh", [1.5, 0.3], bias_std=0.4, input_norm=2.0)
    g = draw_units(spec, 2, N, 2, seed(0))
    std = math.hypot(3.0, 0.4)
    inside = stats.norm.expect(lambda u: math.tanh(u) ** 2, scale=std)
    within(g[:, 0] ** 2, 0.3**2 * 20 * inside + 0.4**2)
    both = draw_layers(spec, {1: 1, 2: 1}, N, seed(1))
    within(both[1][:, 0] ** 2, std**2)
    layers = make_spec((2,), "relu", 1.0)
    both = draw_layers(layers, {1: 2, 2: 1}, N, seed(1))
    within(both[2][:, 0] ** 2 / both[1].relu().square().sum(1).clamp(min=1e-300), 0.75)


def test_an_activation_of_ones_own() -> None:
    spec = make_spec((30, 30), Activation("cube", lambda u: u**3, growth=3.0), 0.2)
    assert draw_units(spec, 3, 10, 2, 0).shape == (10, 2)


def test_a_seed_gives_the_same_on_any_threads() -> None:
    spec, biased = make_spec((10, 10)), make_spec((10, 10), "tanh", bias_std=0.1)
    drawn = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        parts = [draw_units(one, 3, 20_001, 1, seed(5)) for one in (spec, biased)]
        drawn.append(torch.cat([*parts, normals((20_001, 1), seed(5))]))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_generators() -> None:
    spec, state = make_spec((10,), "linear"), torch.get_rng_state()
    source = seed(0)
    first, second = (draw_units(spec, 2, 5000, 1, source) for _ in range(2))
    assert torch.equal(first, draw_units(spec, 2, 5000, 1, 0))
    assert torch.equal(first, draw_units(spec, 2, 5000))
    assert not torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert len(torch.unique(first)) == 5000  # blocks do not repeat each other
    within(first[:, 0] * second[:, 0], 0.0)


def test_float32_normals_and_shapes() -> None:
    z = normals((3, 0, 2), seed(0))
    assert z.shape == (3, 0, 2)
    assert normals((), seed(0)).shape == ()
    z = normals((7, 1000), seed(0), torch.float32)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.double(), normals((7, 1000), seed(0)), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 4}, "layers 1 to 3"),
        ({"layer": 3, "post": True}, "layers 1 to 2, after the activation"),
        ({"layer": 1, "units": 11}, "which has 10"),
        ({"units": 0}, "at least 1"),
        ({"n": 0}, "at least 1"),
        ({"generator": "0"}, "torch.Generator"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    given = {"layer": 2, "n": 10, **change}
    with pytest.raises(InputError, match=message):
        draw_units(make_spec((10, 10)), **given)


def test_the_output_layer_has_as_many_units_as_asked_for() -> None:
    assert draw_units(make_spec((3, 3)), 3, 4, 1000, 0).shape == (4, 1000)
