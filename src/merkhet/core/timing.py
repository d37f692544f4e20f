"""Medians of interleaved runs: a machine that slows down slows all that are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARM_UP = 3


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return median seconds and quartiles of each run, all taken in turns.

    Args:
        runs: What to time, by name.
        repeats: Times each, after some that warm up; two or more.
    """
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-WARM_UP, repeats):
        for name, run in runs.items():
            seconds = _seconds(run)
            if turn >= 0:
                spent[name].append(seconds)
    return {name: (statistics.median(times), _quartiles(times)) for name, times in spent.items()}


def wait() -> None:
    """Wait for the accelerator, which runs behind the program."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _seconds(run: Callable[[], object]) -> float:
    """Return how long a run takes."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def _quartiles(times: list[float]) -> tuple[float, float]:
    """Return the lower and upper quartile."""
    low, _, high = statistics.quantiles(times, n=4)
    return low, high
