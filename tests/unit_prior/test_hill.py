"""Estimators over log-spacings: plain formulas, error and coverage, dependence, refusals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.tails.bias_reduced import bias_reduced
from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.hill import hill_weibull, weibull_qq
from merkhet.unit_prior.tails.stretched import stretched_fit

Estimator = Callable[..., TailEstimate]
LINEAR = (hill_weibull, weibull_qq, bias_reduced)
ALL = (*LINEAR, stretched_fit)


def _draws(*shape: int, theta: float = 1.0, seed: int = 0) -> Tensor:
    """Return draws of a Weibull law, -log P = x^(1 / theta)."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (-uniform.clamp(min=1e-300).log()) ** theta


def _plain(estimator: Estimator, x: list[float], k: int) -> float:
    """Return an estimate by the formula as it is written, in loops."""
    n, top = len(x), [0.0, *sorted(map(abs, x), reverse=True)]  # top[1] is the largest
    js = range(1, k + 1)
    if estimator is hill_weibull:
        excess = sum(math.log(top[i]) - math.log(top[k + 1]) for i in js)
        low = math.log(math.log(n / (k + 1)))
        return excess / sum(math.log(math.log(n / i)) - low for i in js)
    if estimator is weibull_qq:
        heights = [math.log(math.log(n / i)) for i in js]
        return stats.linregress(heights, [math.log(top[i]) for i in js]).slope
    z = [j * math.log(n / j) * (math.log(top[j]) - math.log(top[j + 1])) for j in js]
    return stats.linregress([math.log(n / k) / math.log(n / j) for j in js], z).intercept


@pytest.mark.parametrize("estimator", LINEAR)
@pytest.mark.parametrize(("n", "k"), [(100, 20), (100, 25), (1003, 137)])
def test_estimates_are_those_of_the_plain_formula(estimator: Estimator, n: int, k: int) -> None:
    x = _draws(n, theta=1.3)
    x[: n // 3] = 0
    x[n // 3 : n // 2] *= -1
    found = estimator(x, k)
    assert found.theta == pytest.approx(_plain(estimator, x.tolist(), k), rel=1e-10)
    assert (found.k, found.sample_size, found.effective_size) == (k, n, n)
    assert found.threshold == pytest.approx(float(x.abs().sort().values[-k - 1]), rel=1e-14)


@pytest.mark.parametrize("estimator", ALL)
def test_scale_sign_order_and_kind_of_numbers_have_no_part_in_it(estimator: Estimator) -> None:
    x = _draws(2000, theta=0.7)
    theta = estimator(x).theta
    signs = torch.where(torch.arange(2000) % 2 == 0, -1, 1)
    assert estimator(x * signs * 1e200).theta == pytest.approx(theta, rel=1e-9)
    assert estimator(x * 1e-290).theta == pytest.approx(theta, rel=1e-9)
    assert estimator(x.flip(0)).theta == pytest.approx(theta, rel=1e-12)
    assert estimator(x.tolist()).theta == theta
    assert estimator(x.numpy()).theta == theta
    assert estimator(torch.stack([x, x], 1)[:, 0].requires_grad_()).theta == theta
    assert estimator(x.float()).theta == pytest.approx(theta, rel=1e-4)
    assert estimator(x[:, None]).effective_size == 2000


@pytest.mark.parametrize("estimator", ALL)
def test_the_sample_is_left_as_it_was(estimator: Estimator) -> None:
    x = -_draws(200)
    before = x.clone()
    estimator(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("estimator", ALL)
def test_powers_of_a_variable_have_as_many_times_theta(estimator: Estimator) -> None:
    x = _draws(3000)
    one, cubed = estimator(x), estimator(x**3)
    assert cubed.theta == pytest.approx(3 * one.theta, rel=1e-8)
    assert cubed.standard_error == pytest.approx(3 * one.standard_error, rel=1e-6)


@pytest.mark.parametrize("estimator", ALL)
def test_errors_fall_with_the_root_of_k(estimator: Estimator) -> None:
    # Of 60 estimates a root mean square is known to 1 / sqrt(120), 9 %; of two, the ratio to 13 %.
    small, large = (
        math.sqrt(
            np.mean([(estimator(_draws(n, seed=seed), k).theta - 1) ** 2 for seed in range(60)])
        )
        for n, k in ((3200, 400), (51200, 6400))
    )
    assert 4 * (1 - 3 * 0.13) < small / large < 4 * (1 + 3 * 0.13)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("theta", [0.3, 1.0, 3.0])
def test_intervals_hold_theta_of_an_exact_law_in_95_of_100_samples(
    estimator: Estimator, theta: float
) -> None:
    found = [estimator(_draws(4000, theta=theta, seed=seed)) for seed in range(200)]
    hits = sum(one.interval[0] <= theta <= one.interval[1] for one in found if one.interval)
    # Three standard deviations of 200 trials; a skewed estimator's interval misses one more.
    assert 0.95 * 200 - 3 * math.sqrt(200 * 0.95 * 0.05) - 1 <= hits <= 199
    spread = float(np.std([one.theta for one in found]))
    stated = float(np.mean([one.standard_error for one in found]))
    assert stated == pytest.approx(spread, rel=0.15 + 0.05)  # 3 / sqrt(400), and the statement's


def test_hills_standard_error_nears_theta_over_root_k() -> None:
    x = _draws(200_000, theta=2.0)
    for k in (200, 1000):
        found = hill_weibull(x, k)
        # log(1 + E / tau) spreads less than E: 1 - 1 / tau of its mean at log(n / k) = tau.
        assert 0.75 < found.standard_error / (found.theta / math.sqrt(k)) < 1.1
        low, high = found.interval or (0, 0)
        assert (low + high) / 2 == pytest.approx(found.theta)
        assert high - low == pytest.approx(2 * 1.959964 * found.standard_error, rel=1e-6)


def test_hills_mean_is_that_of_the_effective_parameter_below_k_over_n() -> None:
    n, k = 4000, 160
    weight = functools.partial(_excess_weight, math.log(n / k))
    norm = integrate.quad(weight, math.log(n / k), 60)[0]
    wanted = integrate.quad(lambda h: weight(h) * _effective(h), math.log(n / k), 60)[0] / norm
    found = [
        hill_weibull(torch.randn(n, generator=torch.Generator().manual_seed(seed)), k).theta
        for seed in range(200)
    ]
    error = float(np.std(found)) / math.sqrt(200)
    # Heights log(n / i) in place of their means: log(2 pi k) / (2 k) of theta.
    assert abs(np.mean(found) - wanted) < 3 * error + wanted * math.log(2 * math.pi * k) / (2 * k)


def _excess_weight(tau: float, height: float) -> float:
    """Return the weight of the effective parameter at -log P = height in Hill's mean."""
    return math.exp(tau - height) / height


def _effective(height: float) -> float:
    """Return d log x / d log(-log P) of |N(0, 1)| at -log P = height."""
    x = float(stats.norm.isf(math.exp(-height) / 2))
    hazard = 2 * math.exp(stats.norm.logpdf(x) + height)
    return height / (x * hazard)


def test_of_a_gaussian_units_tail_the_estimates_are_where_they_are_known_to_be() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    found = {estimator: estimator(x) for estimator in ALL}
    for one in found.values():
        assert 0.54 - 2 * one.standard_error < one.theta < 0.61 + 2 * one.standard_error
    assert found[bias_reduced].theta < found[hill_weibull].theta


@pytest.mark.parametrize("layer", [2, 3])
def test_of_units_of_networks_they_see_the_effective_parameter(layer: int) -> None:
    prior = UnitPrior((10, 10))
    drawn = prior.sample(100_000, layer, torch.Generator().manual_seed(0))
    for estimator in (hill_weibull, weibull_qq):
        found = estimator(drawn)
        # It grows as p falls: the mean lies between that at k / n and that far below.
        low, high = (
            float(prior.effective_tail(found.probability / part, layer)) for part in (1, 30)
        )
        assert low - 3 * found.standard_error < found.theta < high + 3 * found.standard_error
        assert found.theta + 3 * found.standard_error < prior.tail_parameter(layer)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("units", [1, 5])
def test_standard_errors_are_those_of_a_bootstrap_by_rows(estimator: Estimator, units: int) -> None:
    rows, k = 1500, 300 * units
    x, generator = _copula(rows, units, 0.8, seed=3), torch.Generator().manual_seed(0)
    again = (x[torch.randint(rows, (rows,), generator=generator)].squeeze(1) for _ in range(200))
    spread = float(np.std([estimator(sample, k).theta for sample in again]))
    # Of 200 resamples the spread is known to 5 %; the influence values drop terms of 1 / root k.
    assert estimator(x, k).standard_error == pytest.approx(spread, rel=3 * 0.05 + 0.06)


@pytest.mark.parametrize("estimator", ALL)
def test_units_that_share_their_layers_below_widen_the_interval(estimator: Estimator) -> None:
    hits, trials, wider = 0, 120, []
    for seed in range(trials):
        x = _copula(2000, 10, share=0.5, seed=seed)
        found, alone = estimator(x), estimator(x.reshape(-1))
        assert found.interval is not None
        assert found.theta == alone.theta
        hits += found.interval[0] <= 1 <= found.interval[1]
        wider.append(found.standard_error / alone.standard_error)
    assert float(np.mean(wider)) > 1.03
    # Three standard deviations of the trials; their skewness takes one more in a hundred.
    assert hits >= trials * (0.94 - 3 * math.sqrt(0.95 * 0.05 / trials))


def _copula(rows: int, units: int, share: float, seed: int) -> Tensor:
    """Return units with exponential laws whose Gaussian scores have a correlation in a row."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    own = torch.randn(rows, units, generator=generator, dtype=torch.float64)
    return -torch.special.log_ndtr(-(share**0.5 * common + (1 - share) ** 0.5 * own))


@pytest.mark.parametrize("estimator", ALL)
def test_repeated_units_say_as_much_as_one(estimator: Estimator) -> None:
    x = _draws(5000)
    one, eight = estimator(x, 500), estimator(x[:, None].expand(-1, 8), 4000)
    assert eight.effective_size == pytest.approx(5000, rel=1e-6)
    assert eight.standard_error == pytest.approx(one.standard_error, rel=0.03)


@pytest.mark.parametrize("estimator", ALL)
def test_dead_units_are_mass_below_the_threshold(estimator: Estimator) -> None:
    x = _draws(1000)
    dead = torch.cat([x, torch.zeros(4000, dtype=torch.float64)])
    found = estimator(dead, 100)
    assert found.sample_size == 5000
    assert math.isfinite(found.theta)
    assert found.probability == 100 / 5000
    with pytest.raises(InputError, match="only 1000 of 5000 values are not 0; give k below 1000"):
        estimator(dead, 1000)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.ones(99), "99 rows: a tail needs 100 draws"),
        (torch.ones(1, 5000), "1 rows.*units of one network are no independent draws"),
        (torch.ones(200, 2, 2), r"\(200, 2, 2\): give \(n,\) or \(n, units\)"),
        (torch.ones(0), r"\(0,\): give"),
        (torch.ones(200, 0), r"\(200, 0\): give"),
        (torch.tensor(1.0), "1 rows"),
        (torch.tensor([1.0, math.nan, math.inf]).repeat(100), "200 of 300 are NaN or infinite"),
        (torch.zeros(200), "only 0 of 200 values are not 0"),
        (torch.ones(200), "1 different ones"),
        (torch.ones(200, dtype=torch.complex64), "complex128"),
        (np.array(["a"] * 200), "real numbers"),
        ([[1.0], [2.0, 3.0]], "real numbers"),
        ([True] * 200, "type bool"),
    ],
)
def test_samples_without_a_tail_are_refused(
    estimator: Estimator, samples: object, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        estimator(samples)


@pytest.mark.parametrize("k", [19, 26, 0, -3, 20.0, True, "20"])
def test_k_out_of_its_range_is_refused(k: object) -> None:
    with pytest.raises(InputError, match="whole number from 20 to 25, a quarter of the 100"):
        hill_weibull(_draws(100), k)  # type: ignore[arg-type]


def test_ties_are_told() -> None:
    x = (_draws(2000, theta=1.0) * 30).round()
    assert hill_weibull(_draws(2000)).notes == ()
    assert "ties" in hill_weibull(x).notes[0]
    assert "ties" in str(hill_weibull(x))
    with pytest.raises(InputError, match="different ones: a tail needs 10"):
        hill_weibull((x / 60).round())


def test_there_is_no_interval_from_few_rows() -> None:
    x = _draws(200, 100)
    x[:10] *= 1e6  # all large values come from ten networks
    found = hill_weibull(x, 500)
    assert found.interval is None
    assert math.isnan(found.effective_size)
    assert "10 rows, 20 are needed" in str(found)


def test_an_estimate_is_told_in_a_line() -> None:
    told = str(hill_weibull(_draws(1000), 100))
    assert "Hill type, 100 of 1000 values above" in told
