"""Measured latency: of a network's forward pass, and of each innermost module in it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from merkhet.core.calls import as_call, copied
from merkhet.core.modes import evaluating
from merkhet.core.timing import wait


@dataclass(frozen=True)
class Latency:
    """Measured times of a forward pass in evaluation mode without gradients.

    Attributes:
        total: Median seconds of a pass, measured without hooks.
        low: Lower quartile of the same passes.
        high: Upper quartile.
        modules: Median seconds spent in each innermost module by path, all its calls of one
            pass together, measured in passes of their own; the hooks add some microseconds a
            call.
        repeats: Passes measured of each kind.
    """

    total: float
    low: float
    high: float
    modules: dict[str, float]
    repeats: int


def latency(
    module: nn.Module, inputs: Any, *, repeats: int = 15, seconds: float = float("inf")
) -> Latency:
    """Measure how long a network and its innermost modules take.

    Passes with and without hooks take turns, so that a machine that slows down slows both.

    Args:
        module: The network; mode and hooks are left as found.
        inputs: A tensor, a tuple of arguments or a mapping of keyword arguments.
        repeats: Passes of each kind, after two that warm up.
        seconds: Stop early, after at least three of each kind, when this time is over.
    """
    args, kwargs = as_call(inputs)
    deadline = time.perf_counter() + seconds

    def run() -> float:
        own_args, own_kwargs = copied(args), copied(kwargs)  # the network may write into them
        wait()
        start = time.perf_counter()
        module(*own_args, **own_kwargs)
        wait()
        return time.perf_counter() - start

    with evaluating(module):
        run(), run()
        plain: list[float] = []
        inside: dict[str, list[float]] = defaultdict(list)
        while len(plain) < repeats and (len(plain) < 3 or time.perf_counter() < deadline):
            plain.append(run())
            for path, spent in _inside(module, run).items():
                inside[path].append(spent)
    low, middle, high = statistics.quantiles(plain, n=4)
    medians = {path: statistics.median(times) for path, times in inside.items()}
    return Latency(middle, low, high, medians, len(plain))


def _inside(module: nn.Module, run: Callable[[], float]) -> dict[str, float]:
    """Return the seconds that each innermost module takes in one run."""
    spent: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}

    def enter(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            wait()
            started[path] = time.perf_counter()

        return hook

    def leave(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            wait()
            spent[path] += time.perf_counter() - started[path]

        return hook

    handles = []
    for path, part in module.named_modules():
        if not any(part.children()) and not isinstance(part, torch.jit.ScriptModule):
            handles.append(part.register_forward_pre_hook(enter(path)))
            handles.append(part.register_forward_hook(leave(path)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return dict(spent)
