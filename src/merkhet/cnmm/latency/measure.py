"""Latency of every edge of a mixture, measured inside the networks that run it."""

from __future__ import annotations

import datetime
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.extraction.extract import assemble
from merkhet.cnmm.latency.device import batch_of, check_repeats, using_threads
from merkhet.cnmm.latency.parts import Parts, covering, find_parts
from merkhet.cnmm.latency.table import LatencyTable, Provenance, situation
from merkhet.cnmm.network import mixture_of
from merkhet.core.building import check_positive
from merkhet.core.timing import WARM_UP, wait


def measure_latency(
    model: nn.Module,
    example: Tensor,
    *,
    batch: int = 1,
    threads: int | None = None,
    dtype: torch.dtype = torch.float32,
    repeats: int = 30,
    seconds: float = 30.0,
) -> LatencyTable:
    """Measure how long each edge of a mixture takes, on the device that the mixture is on.

    A block by itself, run again and again, finds weights and states in the cache: networks made
    of it are slower than the sum says. So a few extracted networks, which together have every
    kind of block, run in turns, with the time taken after each of their parts: each part meets
    states as they come, and its own call is in its time. Parts of the same structure whose states
    have the same shape share one number, the median of all. On an accelerator each part is waited
    for, which counts too: there, sums lie above the time of a whole network.

    The sum over a path's edges predicts its network (`validate_latency` says how well); for a
    node set the additions of states come on top.

    Args:
        model: The mixture; left as it is.
        example: Pictures, (n, channels, height, width), of the size that matters.
        batch: Pictures at a time; the example's are repeated as needed.
        threads: That torch uses meanwhile; by default as many as now.
        dtype: In which networks run.
        repeats: Passes through every network, after some that warm up; two or more.
        seconds: Stop early, after at least two passes, when this time is over.

    Raises:
        InputError: No mixture, pictures that do not fit it, or numbers that are not these.
    """
    check_repeats(repeats)
    check_positive(seconds=seconds)
    mixture = mixture_of(model)
    here = situation(mixture, example, batch=batch, threads=threads, dtype=dtype)
    parts = find_parts(mixture, example)
    x = batch_of(example, batch).to(next(mixture.parameters()).device, dtype)
    networks = [assemble(mixture, path).to(dtype) for path in covering(parts)]
    with using_threads(threads), torch.no_grad():
        spent, done = _measured(networks, parts, x, repeats, seconds)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    provenance = Provenance(here, now, done, len(parts.kinds), len(spent), _spread(spent))
    return LatencyTable(_table(parts, spent), provenance)


def _measured(
    networks: Sequence[nn.Sequential], parts: Parts, x: Tensor, repeats: int, seconds: float
) -> tuple[dict[str, list[float]], int]:
    """Return the seconds of every pass through each kind of part, and how many turns were made."""
    spent: dict[str, list[float]] = defaultdict(list)
    deadline = time.perf_counter() + seconds
    done = 0
    for turn in range(-WARM_UP, repeats):
        for network in networks:
            names = [name for name, _ in network.named_children()]
            for name, elapsed in zip(names, _timed(network, x), strict=True):
                if turn >= 0:
                    spent[parts.kinds[name]].append(elapsed)
        done = turn + 1
        if done >= 2 and time.perf_counter() > deadline:
            break
    return dict(spent), done


def _timed(network: nn.Sequential, x: Tensor) -> list[float]:
    """Return the seconds that each part of a network takes in one pass."""
    wait()
    marks = [time.perf_counter()]
    for part in network:
        x = part(x)
        wait()
        marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)]


def _table(parts: Parts, spent: dict[str, list[float]]) -> CostTable:
    """Return the median of each part's kind as a table; what does nothing takes no time."""
    taken = {kind: statistics.median(times) for kind, times in spent.items()} | {"": 0.0}
    fixed = sum(taken[parts.kinds[name]] for name in parts.fixed)
    edges = [
        {edge: taken[parts.kinds[name]] for edge, name in stage.items()} for stage in parts.edges
    ]
    return CostTable("latency", fixed, tuple(edges))


def _spread(spent: dict[str, list[float]]) -> float:
    """Return the median over the kinds of the quartiles' distance over the median."""
    cuts = [statistics.quantiles(times, n=4) for times in spent.values()]
    return statistics.median((high - low) / middle for low, middle, high in cuts)
