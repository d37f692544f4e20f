"""Student's interval against its closed form and by coverage."""

from __future__ import annotations

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.core.intervals import student


def test_the_interval_of_three_values() -> None:
    low, high = student([1.0, 2.0, 3.0])
    half = 0.95 / (2 * 0.975 * 0.025) ** 0.5 / 3**0.5  # t of two degrees of freedom, closed form
    assert (low, high) == pytest.approx((2 - half, 2 + half), rel=1e-12)


def test_it_covers_the_mean_of_normal_values_as_often_as_it_says() -> None:
    drawn = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = [low <= 0 <= high for low, high in (student(row) for row in drawn.tolist())]
    assert 0.93 < sum(held) / len(held) < 0.97  # four standard errors around 0.95


def test_one_value_has_no_interval() -> None:
    with pytest.raises(InputError, match="two or more"):
        student([1.0])
