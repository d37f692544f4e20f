"""Draws of units of a network over its prior, against a loop over modules.

    python benchmarks/unit_prior_draws.py

Four hidden layers of 100 ReLUs, Gaussian weights at "he", the output unit; one input, five inputs.
The loop draws the weights of a torch module anew in place (torch.nn.init.normal_) and runs it. All
in turns, per draw. Writes benchmarks/results/unit_prior_draws.json.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from merkhet.core.timing import interleaved
from merkhet.report import Figure, Goal, Record
from merkhet.unit_prior.sampling.draws import draw_layers, draw_units
from merkhet.unit_prior.sampling.sample_units import sample_units
from merkhet.unit_prior.spec import make_spec

WIDTHS, FEATURES, INPUTS = (100,) * 4, 20, 5
REPEATS = 11
ONE, FIVE, LOOP = "one input", "five inputs", "a loop over modules, one input"
RECURSION, MANY = "one input, the plain recursion", "five inputs, weights drawn"
DRAWS = {ONE: 500_000, RECURSION: 10_000, FIVE: 10_000, MANY: 500, LOOP: 200}
GOALS = {ONE: 0.2, FIVE: 40.0}  # us a draw
TIMES_LOOP = 300


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns")
    repeats = parser.parse_args().repeats
    start = time.perf_counter()
    command = "python benchmarks/unit_prior_draws.py"
    record = Record("unit_prior", "draws", "small", seeds=[0], command=command)
    seconds = {}
    for name, (median, (low, high)) in interleaved(runs(), repeats).items():
        each = [1e6 * value / DRAWS[name] for value in (median, low, high)]
        seconds[name] = each[0]
        value, *ends = (float(f"{one:.3g}") for one in each)
        record.figures[name] = Figure(value, "us/draw", (ends[0], ends[1]))
    for name, goal in GOALS.items():
        met = seconds[name] <= goal
        record.goals.append(Goal(f"{name}: a draw", f"{goal} us or less", seconds[name], met))
    ratio = seconds[LOOP] / seconds[ONE]
    record.figures["loop over modules / ours"] = Figure(round(ratio), "times")
    record.goals.append(
        Goal(
            "one input: times as fast as the loop",
            f"{TIMES_LOOP} or more",
            ratio,
            ratio >= TIMES_LOOP,
        )
    )
    record.settings = {"widths": list(WIDTHS), "features": FEATURES, "draws": DRAWS}
    record.settings |= {"repeats": repeats, "threads": torch.get_num_threads()}
    record.notes = "Medians of the runs, all taken in turns; intervals are quartiles."
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "unit_prior_draws.json")
    print(path.read_text(encoding="utf-8"))


def runs() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    spec, module, x = make_spec(WIDTHS), network(), inputs()
    last = spec.layers
    generator = torch.Generator().manual_seed(0)

    def sampled(prior: str, n: int) -> Callable[[], object]:
        return lambda: sample_units(module, x, prior, n, generator=generator)

    return {
        ONE: lambda: draw_units(spec, last, DRAWS[ONE], 1, generator),
        RECURSION: lambda: draw_layers(spec, {last: 1}, DRAWS[RECURSION], generator),
        FIVE: sampled("gaussian", DRAWS[FIVE]),
        MANY: sampled("uniform", DRAWS[MANY]),
        LOOP: lambda: looped(module, x[:1], DRAWS[LOOP]),
    }


def network() -> nn.Sequential:
    """Return the network as torch's modules, without biases."""
    sizes = (FEATURES, *WIDTHS)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1, bias=False))


def inputs() -> Tensor:
    """Return the inputs (inputs, features)."""
    return torch.randn(INPUTS, FEATURES, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def looped(module: nn.Sequential, x: Tensor, n: int) -> Tensor:
    """Return n draws of the output by drawing all weights anew."""
    found = torch.empty(n)
    for place in range(n):
        for layer in module[::2]:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
        found[place] = module(x)[0, 0]
    return found


if __name__ == "__main__":
    main()
