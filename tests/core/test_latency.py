from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet.core import latency as timing
from merkhet.core.latency import latency


class Clock:
    """A clock that only the modules of the test move."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Taking(nn.Module):
    """A module that takes a given time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.now += self.seconds
        return x


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_times_are_those_of_the_modules(clock) -> None:
    quick = Taking(clock, 1.0)
    measured = latency(nn.Sequential(Taking(clock, 4.0), quick, quick), torch.ones(1), repeats=5)
    assert measured.repeats == 5
    assert measured.modules == {"0": 4.0, "1": 2.0}
    assert (measured.low, measured.total, measured.high) == (6.0, 6.0, 6.0)


def test_a_budget_stops_it_after_three(clock) -> None:
    module = nn.Sequential(Taking(clock, 1.0))
    assert latency(module, torch.ones(1), repeats=100, seconds=0.5).repeats == 3
    assert latency(module, torch.ones(1), repeats=100, seconds=22.5).repeats == 11


def test_the_module_is_left_as_found() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    latency(module, torch.ones(1, 2), repeats=3)
    assert module.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
