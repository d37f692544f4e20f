from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from merkhet.training.config import Optimisation
from merkhet.training.schedule import highest_rate, rate_factor, set_rates

STEPS = 100
COSINE = Optimisation(warmup_steps=10, final_fraction=0.1)


def test_the_warm_up_is_linear_and_never_zero() -> None:
    factors = [rate_factor(step, STEPS, COSINE) for step in range(10)]
    assert factors == [(step + 1) / 10 for step in range(10)]


def test_the_cosine_has_the_stated_ends_and_middle() -> None:
    assert rate_factor(10, STEPS, COSINE) == 1.0
    assert rate_factor(55, STEPS, COSINE) == pytest.approx(0.55)
    assert rate_factor(STEPS, STEPS, COSINE) == pytest.approx(0.1)


def test_the_cosine_only_falls() -> None:
    factors = [rate_factor(step, STEPS, COSINE) for step in range(10, STEPS + 1)]
    assert all(before > after for before, after in pairwise(factors))


def test_without_warm_up_the_run_starts_at_the_full_rate() -> None:
    assert rate_factor(0, STEPS, Optimisation()) == 1.0


def test_constant_stays() -> None:
    constant = Optimisation(schedule="constant", warmup_steps=2, final_fraction=0.1)
    assert [rate_factor(step, 4, constant) for step in range(5)] == [0.5, 1, 1, 1, 1]


def test_a_run_that_is_all_warm_up_is_defined_to_its_end() -> None:
    assert rate_factor(4, 4, Optimisation(warmup_steps=4)) == 1.0


def test_rates_are_factors_of_each_group_s_own_highest() -> None:
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    groups = [{"params": [first]}, {"params": [second], "lr": 0.2, "rate": 10.0}]
    optimiser = torch.optim.SGD(groups, lr=0.5)
    for factor in (0.5, 0.25):  # the second call must not build on the first
        set_rates(optimiser, factor)
        assert [group["lr"] for group in optimiser.param_groups] == [0.5 * factor, 2.0 * factor]
    assert [highest_rate(group) for group in optimiser.param_groups] == [0.5, 2.0]


def test_a_rate_held_in_a_tensor_is_changed_in_place() -> None:
    parameter, rate = torch.zeros(1, requires_grad=True), torch.tensor(0.5)
    set_rates(torch.optim.AdamW([parameter], lr=rate, capturable=True, foreach=False), 0.5)
    assert rate == 0.25
