from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from merkhet.core.errors import InputError
from merkhet.core.intervals import bootstrap, wilson


@pytest.mark.parametrize(("successes", "count"), [(0, 5), (5, 5), (7, 10), (831, 1000)])
def test_wilson_is_scipy_s(successes: int, count: int) -> None:
    expected = binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_touches_the_ends_exactly_and_is_symmetric() -> None:
    assert wilson(0, 8)[0] == 0.0
    assert wilson(8, 8)[1] == 1.0
    low, high = wilson(3, 8)
    assert wilson(5, 8) == pytest.approx((1 - high, 1 - low))


def test_wilson_covers_about_as_often_as_it_says() -> None:
    count, share = 50, 0.3
    draws = torch.distributions.Binomial(count, torch.tensor(share, dtype=torch.float64))
    chances = draws.log_prob(torch.arange(count + 1.0)).exp()
    intervals = [wilson(successes, count) for successes in range(count + 1)]
    covered = sum(
        float(chance)
        for chance, (low, high) in zip(chances, intervals, strict=True)
        if low <= share <= high
    )
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes: int, count: int) -> None:
    with pytest.raises(InputError, match=f"{successes} of {count}"):
        wilson(successes, count)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(200, 60, generator=generator, dtype=torch.float64)
    intervals = [bootstrap(values, generator, resamples=400) for values in draws]
    share = sum(low <= 0.5 <= high for low, high in intervals) / len(intervals)
    assert 0.89 <= share <= 0.98


def test_bootstrap_is_the_same_under_a_seed() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(0))
    assert bootstrap(values) == bootstrap(values)
