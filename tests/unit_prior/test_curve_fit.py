"""The fit to exact curves: exact on stretched exponentials, near l / 2 on units of networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.law import law_of
from merkhet.unit_prior.spec import make_spec
from merkhet.unit_prior.tails.curve_fit import fit_curve, fit_levels

HEIGHTS = -fit_levels().log()


@pytest.mark.parametrize("theta", [0.1, 0.5, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("power", [-1.0, 0.0, 2.0])
def test_of_the_family_it_fits_it_finds_the_member(theta: float, power: float) -> None:
    first = math.log10(3 + 2 * max(power, 0) * theta)  # from where it falls
    t = torch.logspace(first, 2.7, 80, dtype=torch.float64) ** theta * 7
    logs = -(0.4 + (t / 7) ** (1 / theta) - power * (t / 7).log())
    found = fit_curve(t, logs)
    assert found.theta == pytest.approx(theta, rel=1e-5)
    assert found.scale == pytest.approx(7, rel=1e-3)
    assert found.offset == pytest.approx(0.4, abs=1e-3)
    assert found.power == pytest.approx(power, abs=1e-3)
    assert found.residual < 1e-5
    assert torch.allclose(found.log_survival(t), logs, atol=1e-4, rtol=1e-6)


def test_units_and_spacing_of_t_have_no_part_in_it() -> None:
    t = torch.linspace(2, 37, 4000).double()
    logs = torch.from_numpy(math.log(2) + stats.norm.logsf(t.numpy()))
    found = fit_curve(t, logs)
    assert fit_curve(t * 1e200, logs).theta == pytest.approx(found.theta, rel=1e-6)
    assert fit_curve(t * 1e200, logs).offset == pytest.approx(found.offset, rel=1e-4)
    even = torch.from_numpy(stats.norm.isf(fit_levels(float(logs[-1].exp())).numpy() / 2))
    spaced = fit_curve(even, math.log(2) + torch.from_numpy(stats.norm.logsf(even.numpy())))
    assert spaced.theta == pytest.approx(found.theta, rel=1e-3)
    assert fit_curve(t.tolist(), logs.numpy()).theta == found.theta


def test_points_above_the_highest_level_are_left_out() -> None:
    t = torch.linspace(0.01, 300, 3000).double()
    found = fit_curve(t, -t, highest=0.01)
    assert found.points == int((t >= -math.log(0.01)).sum())
    assert found.levels[0] == pytest.approx(math.log(0.01), abs=0.1)
    assert "from 1e-2 to 1e-130" in str(found)


def test_levels_are_even_in_log_of_minus_log() -> None:
    levels = fit_levels(1e-30, 0.5, 9)
    assert levels.dtype == torch.float64
    assert torch.allclose(levels[[0, -1]].log10(), torch.tensor([math.log10(0.5), -30]).double())
    gaps = (-levels.log()).log().diff()
    assert torch.allclose(gaps, gaps[0].expand(8))


def _second_layer(t: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return log P(|g_2| > t) of a ReLU network by sums over binomial and radius, in log scale.

    |g_2| = sqrt(2 / H) R |z| with R^2 chi-squared of K ~ Bin(H, 1/2) degrees of freedom.
    """
    radius = np.exp(np.linspace(-9, 4.5, 4001))  # R, log-spaced
    count = np.arange(1, width + 1)[:, None]
    density = stats.chi2.logpdf(radius**2, count) + np.log(2 * radius**2)
    mixed = special.logsumexp(density + stats.binom.logpmf(count, width, 0.5), 0)
    above = math.log(2) + special.log_ndtr(-t[:, None] / (radius * math.sqrt(2 / width)))
    step = math.log(radius[1] / radius[0])
    return np.asarray(special.logsumexp(above + mixed + math.log(step), 1))


@pytest.mark.parametrize(("width", "goal"), [(10, 0.05), (100, 0.15)])
def test_theta_of_a_second_layer_is_near_1(width: int, goal: float) -> None:
    t = np.geomspace(2, 800 if width == 10 else 300, 150)
    found = fit_curve(t, _second_layer(t, width))
    assert found.levels[1] < math.log(1e-290)
    assert abs(found.theta - 1) < goal


@pytest.mark.parametrize(
    ("width", "lowest", "known"),
    [
        # The figures that a fit from the median down gives, as they are known.
        (10, 1e-30, (0.95, 1.39, 1.81)),
        (10, 1e-300, (0.99, 1.47, 1.95)),
        (100, 1e-30, (0.76, 1.01, 1.25)),
        (100, 1e-300, (0.92, 1.33, 1.74)),
    ],
)
def test_theta_of_deeper_layers(width: int, lowest: float, known: tuple[float, ...]) -> None:
    spec = make_spec((width,) * 3)
    for layer, wanted in zip((2, 3, 4), known, strict=True):
        law, coarse = law_of(spec, layer), np.linspace(-4, 12, 80)
        heights = np.log(-law.log_survival(np.exp(coarse))[0])
        ends = np.interp(np.log([math.log(2), -math.log(lowest)]), heights, coarse)
        t = np.exp(np.linspace(*ends, 60))
        logs = law.log_survival(t)[0]
        assert logs[-1] == pytest.approx(math.log(lowest), rel=0.01)
        assert fit_curve(t, logs, highest=0.5).theta == pytest.approx(wanted, abs=0.012)
        if lowest < 1e-200:
            found = fit_curve(t, logs).theta / (layer / 2)
            assert abs(found - 1) < (0.05 if width == 10 else 0.15)


def _student(t: Tensor) -> Tensor:
    return torch.from_numpy(math.log(2) + stats.t.logsf(t.numpy(), 3))


def test_laws_without_a_theta_are_refused() -> None:
    t = torch.logspace(0.5, 30, 200).double()
    for logs in (_student(t), -3 * t.log(), torch.from_numpy(stats.lognorm.logsf(t.numpy(), 9))):
        with pytest.raises(InputError, match="like a power law"):
            fit_curve(t, logs)
    t = torch.linspace(0.91, 1 - 1e-9, 200, dtype=torch.float64)
    with pytest.raises(InputError, match="bounded variable"):
        fit_curve(t, torch.log1p(-t))


@pytest.mark.parametrize(
    ("t", "logs", "words"),
    [
        (HEIGHTS[:7], -HEIGHTS[:7], "7 points.*give 8 or more"),
        (HEIGHTS[:12], -HEIGHTS[:12] / 50, "0 points"),
        (torch.linspace(5, 6, 50), -torch.linspace(5, 6, 50), "longer range"),
        (HEIGHTS.flip(0), -HEIGHTS, "out of order"),
        (HEIGHTS, HEIGHTS - 1000, "out of order"),
        (HEIGHTS - 10, -HEIGHTS, "out of order"),
        (HEIGHTS, -HEIGHTS[:, None], "give .m,. both"),
        (HEIGHTS, -HEIGHTS * math.inf, "log S: 100 of 100 are NaN or infinite"),
        (HEIGHTS * math.nan, -HEIGHTS, "t: 100 of 100 are NaN"),
    ],
)
def test_what_is_no_curve_is_refused(t: Tensor, logs: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_curve(t, logs)


@pytest.mark.parametrize("given", [(0.0, 0.1, 20), (0.2, 0.1, 20), (1e-9, 1.0, 20), (1e-9, 0.1, 7)])
def test_levels_out_of_order_are_refused(given: tuple[float, float, int]) -> None:
    with pytest.raises(InputError, match="levels from"):
        fit_levels(*given)
    with pytest.raises(InputError, match=r"highest 1\.5: give a probability"):
        fit_curve(HEIGHTS, -HEIGHTS, highest=1.5)


@pytest.mark.parametrize(
    "given", [{"count": 8.5}, {"count": None}, {"lowest": "a"}, {"highest": 1j}, {"lowest": None}]
)
def test_levels_that_are_no_numbers_are_refused(given) -> None:
    with pytest.raises(InputError, match="levels from"):
        fit_levels(**given)


def test_a_highest_level_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="highest 'a': give a probability"):
        fit_curve(HEIGHTS, -HEIGHTS, highest="a")  # type: ignore[arg-type]
