from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from merkhet.core.intervals import bootstrap, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (512, 1000)])
def test_wilson_is_scipys(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(200, 60, generator=generator, dtype=torch.float64)
    intervals = [bootstrap(values, generator, resamples=400) for values in draws]
    share = sum(low <= 0.5 <= high for low, high in intervals) / len(intervals)
    assert 0.89 <= share <= 0.98


def test_bootstrap_is_the_same_under_a_seed() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(0))
    assert bootstrap(values) == bootstrap(values)
