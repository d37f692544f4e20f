"""Certified norms of convolutions over the exact ones, case by case; seconds for VGG11's layers.

    python benchmarks/rkhs_norms.py

Convolutions of 3 to 4 channels, 3x3, whose matrices are small enough for their singular values:
the certificate without its dense solve, the norm of the weight reshaped to out x (in k k), which
the paper's code takes for the operator's, and the estimate by power iteration. Then both methods
on the convolutions of VGG11 at width 1 with inputs of 32x32, and on a 512x512x3x3 convolution
at 4x4 to 32x32. Writes benchmarks/results/rkhs_norms.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from merkhet.core.linear.chain import Chain
from merkhet.core.linear.modules import steps_of
from merkhet.core.linear.power import power_norm
from merkhet.models.vgg import CONFIGURATION_A
from merkhet.report import Figure, Goal, Record
from merkhet.rkhs.certified import certified_norm

MODES = ("zeros", "circular", "reflect", "replicate")
GRID = tuple(itertools.product((1, 2, 3), (1, 2), (1, 4)))  # stride, dilation, groups
CHANNELS = 4
TIMED = (4, 8, 16, 32)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=len(TIMED), help="how many large layers")
    parser.add_argument("--folder", default=Path(__file__).parent / "results", type=Path)
    given = parser.parse_args()
    start, seeds = time.perf_counter(), list(range(given.seeds))
    record = Record(
        "rkhs", "norms", "small", seeds=seeds, command="python benchmarks/rkhs_norms.py"
    )
    excesses(record, given.sizes, seeds)
    seconds(record, given.timed)
    record.settings = {"sizes": given.sizes, "channels": CHANNELS, "kernel": 3, "padding": 1}
    record.settings |= {"threads": torch.get_num_threads(), "precision": "float64"}
    record.notes = (
        "Excess: certified without the dense solve over the largest singular value, less 1. A "
        "small operator is solved densely by default and has none. Circular padding is exact "
        "where the stride divides the size. VGG11's seconds are single runs."
    )
    record.seconds = time.perf_counter() - start
    path = record.write(given.folder, "rkhs_norms.json")
    print(path.read_text(encoding="utf-8"))


def excesses(record: Record, sizes: list[int], seeds: list[int]) -> None:
    """Compare with singular values, by case."""
    found: dict[str, list[float]] = defaultdict(list)
    for mode, size in itertools.product(MODES, sizes):
        for (stride, dilation, groups), seed in itertools.product(GRID, seeds):
            layer = convolution(CHANNELS, CHANNELS, seed, stride, dilation, groups, mode)
            measured = compare(layer, size)
            divides = mode == "circular" and size % stride == 0
            kind = "circular, stride divides n" if divides else mode
            for case in (kind, f"{kind}, n = {size}", f"{kind}, stride {stride}"):
                found[f"excess, {case}"].append(measured["certified"])
            found["reshaped weight over the norm, less 1"].append(measured["reshaped"])
            found["estimate by power iteration, less 1"].append(measured["power"])
    for name, values in found.items():
        record.figures[f"{name}: median"] = Figure(statistics.median(values))
        record.figures[f"{name}: largest"] = Figure(max(values))
        record.figures[f"{name}: least"] = Figure(min(values))
    exact = max(found["excess, circular, stride divides n"])
    least = min(min(values) for name, values in found.items() if name.startswith("excess"))
    record.goals += [
        Goal("excess, circular with stride dividing n", "under 1e-3", exact, exact < 1e-3),
        Goal("certified is never under the norm: least excess", "0 or more", least, least >= 0),
    ]


def convolution(
    ins: int,
    outs: int,
    seed: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    mode: str = "zeros",
) -> nn.Conv2d:
    """Return a 3x3 convolution with weights of a seed, padded by its dilation."""
    layer = nn.Conv2d(
        ins, outs, 3, stride, dilation, dilation, groups, bias=False, padding_mode=mode
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(generator=generator).div_(layer.weight[0].numel() ** 0.5)
    return layer


@torch.no_grad()
def compare(layer: nn.Conv2d, size: int) -> dict[str, float]:
    """Return each norm over the largest singular value, less 1."""
    chain = Chain(steps_of(layer), (layer.in_channels, size, size))
    matrices = blocks(layer, size)
    exact = float(torch.linalg.svdvals(matrices).max())
    weight = layer.weight.double().flatten(1)
    return {
        "certified": certified_norm(chain, dense_limit=0).value / exact - 1,
        "power": power_norm(chain) / exact - 1,
        "reshaped": float(torch.linalg.matrix_norm(weight, 2)) / exact - 1,
    }


def blocks(layer: nn.Conv2d, size: int) -> torch.Tensor:
    """Return the matrices (groups, inputs, outputs) of a convolution, from unit vectors."""
    inside = layer.in_channels // layer.groups
    units = torch.eye(inside * size**2, dtype=torch.float64)
    units = units.reshape(-1, inside, size, size).repeat(1, layer.groups, 1, 1)
    found = layer.double()(units)
    return found.reshape(len(units), layer.groups, -1).transpose(0, 1)


def seconds(record: Record, count: int) -> None:
    """Time both methods on VGG11's convolutions and on wide ones, once each."""
    spent: dict[str, float] = defaultdict(float)
    for number, (ins, outs, size) in enumerate(vgg_layers(), 1):
        for method, value in timed(ins, outs, size).items():
            record.figures[f"VGG11, layer {number}, {method}"] = value
            if value.unit == "s":
                spent[f"VGG11, {method}"] += value.value
    for size in TIMED[:count]:
        for method, value in timed(512, 512, size).items():
            record.figures[f"512x512x3x3 at {size}x{size}, {method}"] = value
            if value.unit == "s":
                spent[f"512x512x3x3, {method}"] += value.value
    for name, value in spent.items():
        record.figures[f"{name}, together"] = Figure(round(value, 2), "s")
    total = round(sum(value for name, value in spent.items() if "certified" in name), 2)
    record.goals.append(Goal("all certificates that were timed", "under 60 s", total, total < 60))


def vgg_layers() -> list[tuple[int, int, int]]:
    """Return channels in and out and the size of the input of VGG11's convolutions."""
    found, ins, size = [], 3, 32
    for entry in CONFIGURATION_A:
        if isinstance(entry, str):
            size //= 2
            continue
        found.append((ins, entry, size))
        ins = entry
    return found


def timed(ins: int, outs: int, size: int) -> dict[str, Figure]:
    """Return the seconds of both methods and the ratio of their norms."""
    chain = Chain(steps_of(convolution(ins, outs, 0)), (ins, size, size))
    start = time.perf_counter()
    certified = certified_norm(chain).value
    between = time.perf_counter()
    power = power_norm(chain)
    end = time.perf_counter()
    print(f"{ins} -> {outs} at {size}: {between - start:.2f} s, {end - between:.2f} s", flush=True)
    return {
        "certified": Figure(round(between - start, 3), "s"),
        "power": Figure(round(end - between, 3), "s"),
        "certified over power, less 1": Figure(certified / power - 1),
    }


if __name__ == "__main__":
    main()
