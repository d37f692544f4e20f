"""A memory's forward pass against that of the feed-forward layer it replaces.

    python benchmarks/memory_forward.py

2,048 tokens, float32, 4 heads, k = 32, key width 256, 262,144 slots, evaluation mode; the
feed-forward layer is Linear(d, 4d), GELU, Linear(4d, d). Queries of random tokens read slots
almost uniformly, the worst case for a cache. Writes benchmarks/results/memory_forward.json.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from merkhet.core.timing import interleaved
from merkhet.memory import ProductKeyMemory
from merkhet.report import Figure, Goal, Record

TOKENS = 2048
GOALS = {512: 1.25, 1024: 0.55}
REPEATS = 41


def main() -> None:
    """Measure and write the record."""
    start = time.perf_counter()
    record = Record(
        "memory", "forward", "small", seeds=[0], command="python benchmarks/memory_forward.py"
    )
    for width, goal in GOALS.items():
        compare(record, width, goal)
    record.settings = {"tokens": TOKENS, "repeats": REPEATS, "threads": torch.get_num_threads()}
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "memory_forward.json")
    print(path.read_text(encoding="utf-8"))


@torch.no_grad()
def compare(record: Record, width: int, goal: float) -> None:
    """Time both layers at one width."""
    torch.manual_seed(0)
    x = torch.randn(TOKENS, width)
    dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    memory = ProductKeyMemory(width).eval()
    times = interleaved(
        {
            "memory": lambda: memory(x),
            "feed-forward": lambda: dense(x),
            "queries": lambda: memory.query(x),
            "queries and retrieval": lambda: memory.retrieve(x),
        },
        REPEATS,
    )
    for name, (median, (low, high)) in times.items():
        record.figures[f"{name}, width {width}"] = Figure(
            round(1000 * median, 2), "ms", (round(1000 * low, 2), round(1000 * high, 2))
        )
    ratio = times["memory"][0] / times["feed-forward"][0]
    record.goals.append(
        Goal(
            f"forward / the 4d feed-forward layer, width {width}",
            f"at most {goal}",
            round(ratio, 3),
            ratio <= goal,
        )
    )
    record.notes = "Intervals are quartiles of the runs."


if __name__ == "__main__":
    main()
