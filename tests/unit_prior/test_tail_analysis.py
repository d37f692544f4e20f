"""Stability curves, kurtosis, quantiles and the table of them all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.tails.bias_reduced import bias_reduced
from merkhet.unit_prior.tails.hill import hill_weibull, weibull_qq
from merkhet.unit_prior.tails.sample import absolute, read_largest
from merkhet.unit_prior.tails.spread import kurtosis, quantiles
from merkhet.unit_prior.tails.stretched import stretched_fit
from merkhet.unit_prior.tails.tail_analysis import tail_analysis
from merkhet.unit_prior.tails.tail_stability import METHODS, tail_stability

ESTIMATORS = {
    "hill": hill_weibull,
    "qq": weibull_qq,
    "bias_reduced": bias_reduced,
    "stretched": stretched_fit,
}


def _draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def test_the_estimators_are_one_list() -> None:
    assert METHODS.keys() == ESTIMATORS.keys()


@pytest.mark.parametrize("method", ESTIMATORS)
def test_the_curve_holds_the_estimates_of_each_k(method: str) -> None:
    x, ks = _draws(500, 3), (300, 40, 150)
    curve = tail_stability(x, method, ks)
    assert curve.ks.tolist() == sorted(ks)
    for place, k in enumerate(sorted(ks)):
        one = ESTIMATORS[method](x, k)
        assert one.interval is not None
        assert float(curve.theta[place]) == one.theta
        assert (float(curve.low[place]), float(curve.high[place])) == one.interval
        assert float(curve.threshold[place]) == one.threshold
    assert str(curve).count("\n") == 3
    assert method in str(curve)


def test_by_default_the_curve_goes_from_20_to_a_quarter_or_to_the_last_above_0() -> None:
    ks = tail_stability(_draws(1000)).ks
    assert (int(ks[0]), int(ks[-1])) == (20, 250)
    assert bool((ks.diff() > 0).all())
    dead = torch.cat([_draws(100), torch.zeros(900)])
    assert int(tail_stability(dead).ks[-1]) == 99


def test_a_curve_of_no_such_method_or_k_is_refused() -> None:
    with pytest.raises(InputError, match=r"no method 'hil'.*Did you mean 'hill'"):
        tail_stability(_draws(200), "hil")
    with pytest.raises(InputError, match="k = 51: give a whole number from 20 to 50"):
        tail_stability(_draws(200), ks=[30, 51])


def test_a_flat_curve_is_of_an_exact_law_a_falling_one_of_a_gaussian() -> None:
    exact = tail_stability(_draws(100_000).square() + _draws(100_000, seed=1).square())
    errors = (exact.high - exact.low) / (2 * 1.96)
    assert bool(((exact.theta - 1).abs() < 3.5 * errors)[8:].all())
    gaussian = tail_stability(_draws(100_000))
    assert float(gaussian.theta[-1]) > float(gaussian.theta[-10]) + 0.03


def test_kurtosis_is_the_ratio_of_moments_and_its_interval_covers() -> None:
    x = absolute(_draws(300, 2))
    assert kurtosis(x)[0] == pytest.approx(float((x**4).mean() / (x**2).mean() ** 2), rel=1e-12)
    assert kurtosis(x * 1e150)[0] == pytest.approx(kurtosis(x)[0], rel=1e-12)
    assert math.isnan(kurtosis(x * 0)[0])
    found = [kurtosis(absolute(_draws(2000, seed=seed)))[1] for seed in range(200)]
    hits = sum(low <= 3 <= high for low, high in found)
    assert hits >= 200 * 0.95 - 3 * math.sqrt(200 * 0.95 * 0.05)


def test_kurtosis_of_rows_that_repeat_is_as_uncertain_as_that_of_one() -> None:
    x = absolute(_draws(500))
    one, seven = kurtosis(x), kurtosis(np.repeat(x, 7, 1))
    assert seven[0] == pytest.approx(one[0], rel=1e-12)
    assert seven[1] == pytest.approx(one[1], rel=1e-12)


def test_quantiles_are_order_statistics_and_their_intervals_cover() -> None:
    x = _draws(1000)
    found = quantiles(read_largest(x))
    assert list(found) == [0.1, 0.01]
    values = x.abs().sort(descending=True).values
    assert found[0.1][0] == pytest.approx(float(values[99]), rel=1e-14)
    assert found[0.01][0] == pytest.approx(float(values[9]), rel=1e-14)
    for units, repeats in ((1, 1), (10, 1), (1, 10)):
        hits = 0
        for seed in range(200):
            sample = _draws(1000, units, seed=seed).repeat(1, repeats)
            low, high = quantiles(read_largest(sample))[0.1][1]
            hits += low <= 1.6448536 <= high
        assert 190 - 3 * math.sqrt(9.5) <= hits


def test_quantiles_of_dead_units_are_0_and_open_above_where_none_may_be() -> None:
    dead = torch.cat([_draws(50), torch.zeros(950)])
    found = quantiles(read_largest(dead))
    assert found[0.1] == (0.0, (0.0, pytest.approx(0.0)))
    few = _draws(100, 1).expand(-1, 100)
    assert quantiles(read_largest(few))[0.001][1][1] == math.inf


def test_an_analysis_holds_each_estimate_with_its_own_k() -> None:
    x = _draws(2000, 2)
    found = tail_analysis(x)
    for name, estimator in ESTIMATORS.items():
        assert found.estimates[name] == estimator(x)
    assert found.estimates["hill"].k == round(4000**0.6)
    assert found.bias == found.estimates["hill"].theta - found.estimates["bias_reduced"].theta
    assert (found.rows, found.units, found.zeros) == (2000, 2, 0)
    assert tail_analysis(x, k=100).estimates["stretched"].k == 100
    told = str(found)
    for word in ("Hill type", "Weibull QQ", "kurtosis 3", "a sign of bias", "P(|x| > t) = 0.01"):
        assert word in told


def test_an_analysis_tells_which_estimator_refused() -> None:
    two = torch.cat([torch.linspace(0.5, 1, 300), torch.linspace(2, 2 + 1e-5, 60)]).double()
    found = tail_analysis(two, 60)
    assert found.refused.keys() == {"stretched"}
    assert "stretched: the 60 largest values end" in str(found)


def test_an_analysis_refuses_what_has_no_tail() -> None:
    with pytest.raises(InputError, match="99 rows"):
        tail_analysis(_draws(99))
    with pytest.raises(InputError, match="all 200 values are 0"):
        tail_analysis(torch.zeros(200))


def test_an_analysis_of_few_different_values_tells_what_is_refused() -> None:
    x = torch.randint(0, 50, (5000,), generator=torch.Generator().manual_seed(0)).double()
    found = tail_analysis(x)
    assert found.curve is None
    assert "different ones" in found.refused["curve"]
    assert "hill: " in str(found)
    with pytest.raises(InputError, match="k = 3: give a whole number"):
        tail_analysis(x, 3)


@pytest.mark.parametrize("ks", [30, ["a", 20], [], "20", torch.tensor([20.0])])
def test_ks_that_are_none_are_refused(ks: object) -> None:
    with pytest.raises(InputError, match="ks = "):
        tail_stability(_draws(400), ks=ks)  # type: ignore[arg-type]


def test_ks_may_be_a_tensor() -> None:
    assert tail_stability(_draws(400), ks=torch.tensor([50, 20])).ks.tolist() == [20, 50]
