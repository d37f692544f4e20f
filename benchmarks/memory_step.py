"""A training step of a memory against the PyPI package's, and against the layer it replaces.

    python benchmarks/memory_step.py

Forward, backward and update of 262,144 slots of width 512 on 2,048 tokens, float32, 4 heads,
k = 32, halves of keys of width 128. The package (product-key-memory) is trained with
torch.optim.Adam, which is how it is used; here the values have RowwiseAdam and the rest Adam.
Writes benchmarks/results/memory_step.json. Needs the extra `bench`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from product_key_memory import PKM
from torch import Tensor, nn

from merkhet.core.timing import interleaved
from merkhet.memory import ProductKeyMemory, RowwiseAdam, parameter_groups
from merkhet.report import Figure, Goal, Record

TOKENS, WIDTH = 2048, 512
GOAL = 0.2
REPEATS = 11
PEER = "product-key-memory"


def main() -> None:
    """Measure and write the record."""
    start = time.perf_counter()
    torch.manual_seed(0)
    x = torch.randn(1, TOKENS, WIDTH)
    package = PKM(dim=WIDTH, heads=4, num_keys=512, topk=32, dim_head=128)
    dense = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
    runs = {
        "lazy": step(*ours("lazy"), x),
        "caught up": step(*ours("caught_up"), x),
        "package": step(package, [torch.optim.Adam(package.parameters(), 1e-3)], x),
        "feed-forward": step(dense, [torch.optim.Adam(dense.parameters(), 1e-3)], x),
    }
    times = interleaved(runs, REPEATS)
    command = "python benchmarks/memory_step.py"
    record = Record("memory", "step", "small", seeds=[0], command=command)
    for name, (median, (low, high)) in times.items():
        record.figures[name] = Figure(
            round(1000 * median, 1), "ms", (round(1000 * low, 1), round(1000 * high, 1))
        )
    for name in ("lazy", "caught up"):
        ratio = times[name][0] / times["package"][0]
        record.goals.append(
            Goal(
                f"forward, backward and update ({name}) / the PyPI package with Adam",
                f"at most {GOAL}",
                round(ratio, 3),
                ratio <= GOAL,
            )
        )
    record.settings = {
        "tokens": TOKENS,
        "width": WIDTH,
        "slots": 512**2,
        "repeats": REPEATS,
        "threads": torch.get_num_threads(),
        PEER: metadata.version(PEER),
    }
    record.notes = "Intervals are quartiles of the runs."
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "memory_step.json")
    print(path.read_text(encoding="utf-8"))


def ours(mode: str) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """Return a memory with its two optimisers."""
    memory = ProductKeyMemory(WIDTH)
    groups = parameter_groups(memory)
    values = RowwiseAdam(groups["values"], 1e-3, mode=mode)
    return memory, [values, torch.optim.Adam(groups["others"], 2.5e-4)]


def step(
    module: nn.Module, optimisers: list[torch.optim.Optimizer], x: Tensor
) -> Callable[[], object]:
    """Return a training step."""

    def run() -> None:
        module(x).square().mean().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()

    return run


if __name__ == "__main__":
    main()
