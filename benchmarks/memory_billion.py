"""A billion values: does it train in 24 GB, and what does it cost a transformer?

    python benchmarks/memory_billion.py

Each part runs in a process of its own, so that its peak of memory is its own: a memory of
1,048,576 slots of width 1024 alone, in float32 and in bfloat16, and the step of a 12-layer,
width-1024 transformer with that memory in the place of one feed-forward layer against the same
transformer without, in turns. 512 tokens a step. Writes benchmarks/results/memory_billion.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from merkhet.core.timing import interleaved
from merkhet.memory import ProductKeyMemory, RowwiseAdam, parameter_groups
from merkhet.models import Transformer
from merkhet.report import Figure, Goal, Record

KEYS, WIDTH, TOKENS = 1024, 1024, 512
STEPS = 8
LAYER = 7  # of 12: past the middle
TARGETS = {"float32": 11.0, "bfloat16": 7.0}
RATIO = 1.05


def main() -> None:
    """Run a part, or all of them and write the record."""
    if len(sys.argv) > 1:
        print(json.dumps(transformer() if sys.argv[1] == "transformer" else alone(sys.argv[1])))
        return
    start = time.perf_counter()
    command = "python benchmarks/memory_billion.py"
    record = Record("memory", "billion", "small", seeds=[0], command=command)
    for dtype, target in TARGETS.items():
        found = part(dtype)
        record.figures[f"peak memory, {dtype}"] = Figure(round(found["gigabytes"], 2), "GB")
        record.figures[f"step, {dtype}"] = Figure(round(found["seconds"], 3), "s")
        record.figures[f"parameters, {dtype}"] = Figure(found["parameters"])
        record.goals.append(
            Goal(
                f"trains {KEYS**2:,} slots x {WIDTH} in {dtype}, {TOKENS} tokens a step",
                f"runs; under {target:g} GB",
                f"{found['gigabytes']:.2f} GB",
                found["gigabytes"] < target,
            )
        )
    found = part("transformer")
    for name in ("with", "without"):
        low, high = found[name][1]
        record.figures[f"step of the transformer {name} memory"] = Figure(
            round(found[name][0], 3), "s", (round(low, 3), round(high, 3))
        )
    ratio = found["with"][0] / found["without"][0]
    record.figures["parameters of the transformer with memory"] = Figure(found["parameters"])
    record.figures["peak memory, both transformers"] = Figure(round(found["gigabytes"], 2), "GB")
    record.goals.append(
        Goal(
            "step of a 12-layer transformer with that memory in place of one feed-forward layer "
            "/ without",
            f"at most {RATIO}",
            round(ratio, 3),
            ratio <= RATIO,
        )
    )
    record.settings = {"tokens": TOKENS, "steps": STEPS, "threads": torch.get_num_threads()}
    record.notes = "Intervals are quartiles. RowwiseAdam (lazy) for the values, AdamW for the rest."
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "memory_billion.json")
    print(path.read_text(encoding="utf-8"))


def part(name: str) -> dict[str, Any]:
    """Run a part in a process of its own and return what it printed."""
    call = [sys.executable, __file__, name]
    printed = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def alone(dtype: str) -> dict[str, Any]:
    """Train the memory alone."""
    memory = ProductKeyMemory(WIDTH, num_subkeys=KEYS)
    if dtype == "bfloat16":  # made in float32, which its peak shows, would be twice the table
        with torch.device("meta"):
            memory = ProductKeyMemory(WIDTH, num_subkeys=KEYS)
        memory.values.bfloat16()
        memory.to_empty(device="cpu")
        memory.reset_parameters(torch.Generator().manual_seed(0))
        memory.values.reset_parameters()
    run = step(memory, lambda: memory(torch.randn(1, TOKENS, WIDTH)).square().mean())
    seconds = interleaved({"step": run}, STEPS)["step"][0]
    return {"seconds": seconds, **size(memory)}


def transformer() -> dict[str, Any]:
    """Time the step of a transformer with and without the memory."""
    plain, changed = (Transformer(512, dim=WIDTH, layers=12, heads=16) for _ in range(2))
    changed.layers[LAYER].feed_forward = ProductKeyMemory(WIDTH, num_subkeys=KEYS)

    def loss(network: nn.Module) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            tokens = torch.randint(512, (4, TOKENS // 4))
            return nn.functional.cross_entropy(network(tokens).flatten(0, 1), tokens.flatten())

        return run

    runs = {"without": step(plain, loss(plain)), "with": step(changed, loss(changed))}
    return {**interleaved(runs, STEPS), **size(changed)}


def step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a training step."""
    groups = parameter_groups(network)
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups["others"], 2.5e-4)]
    if groups["values"]:
        optimisers.append(RowwiseAdam(groups["values"], 1e-3))

    def run() -> None:
        loss().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()

    return run


def size(network: nn.Module) -> dict[str, float]:
    """Return parameters and the process's peak of memory so far."""
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"parameters": sum(p.numel() for p in network.parameters()), "gigabytes": gigabytes}


if __name__ == "__main__":
    main()
