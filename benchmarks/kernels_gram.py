"""Pairs of pictures a second: tangent kernels of convolutional networks, and how right they are.

    MERKHET_DATA=... python benchmarks/kernels_gram.py

Symmetric Gram matrices in float32 of Fashion-MNIST and CIFAR-10 pictures, all work included (the
images' own variances, too); the plain form is float64 torch. Errors are against the plain form, on
pairs of different pictures, of a picture and the same with noise, and of a picture with itself.
The 2019 paper's C++ code measured 65, 183 and 17 pairs a second on such a machine; its windows of
pooling lie a little differently. Writes benchmarks/results/kernels_gram.json.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from merkhet import data
from merkhet.core.timing import interleaved
from merkhet.kernels import (
    Conv2d,
    Exponential,
    Flatten,
    GaussianPool2d,
    Layer,
    Linear,
    ReLU,
    Sequential,
    gram,
)
from merkhet.kernels.engines import Plain
from merkhet.report import Figure, Goal, Record

REPEATS = 3
COUNTS = {"fashion-mnist": 128, "cifar10": 64}
GOALS = {"relu": 650, "exponential": 1200, "three layers": 170}
TIMES_PLAIN, ERROR = 10, 2e-6
NOISE = (1e-2, 1e-3, 1e-4)


def layers(act: Layer, pools: tuple[int, ...]) -> Layer:
    """Return a network with a 3x3 convolution, an activation and a Gaussian pooling in turn."""
    steps: list[Layer] = []
    for place, factor in enumerate(pools):
        convolution = Conv2d(3, weight_std=2**0.5 if place else 1.0)
        steps += [convolution, act, GaussianPool2d(factor)]
    return Sequential(*steps, Flatten(), Linear())


NETWORKS = {
    "relu": (layers(ReLU(), (2, 5)), "fashion-mnist", "ntk"),
    "exponential": (layers(Exponential(1.0), (2, 5)), "fashion-mnist", "nngp"),
    "exponential, tangent": (layers(Exponential(1.0), (2, 5)), "fashion-mnist", "ntk"),
    "three layers": (layers(ReLU(), (2, 2, 2)), "cifar10", "ntk"),
}


def main() -> None:
    """Measure and write the record."""
    start = time.perf_counter()
    command = "python benchmarks/kernels_gram.py"
    record = Record("kernels", "gram", "small", seeds=[0], command=command)
    given = {name: data.load(name, limit=count).floats() for name, count in COUNTS.items()}
    speeds(record, given)
    for name in ("relu", "exponential", "three layers"):
        errors(record, name, given[NETWORKS[name][1]][:3])
    record.settings = {
        "images": COUNTS,
        "repeats": REPEATS,
        "threads": torch.get_num_threads(),
        "pooling": {"relu": [2, 5], "exponential": [2, 5], "three layers": [2, 2, 2]},
        "kind": {name: kind for name, (_, _, kind) in NETWORKS.items()},
    }
    record.notes = "Intervals are quartiles of the runs."
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "kernels_gram.json")
    print(path.read_text(encoding="utf-8"))


def speeds(record: Record, given: dict[str, Tensor]) -> None:
    """Time all networks, and the plain form of the first."""
    runs = {
        name: lambda network=network, x=given[of], kind=kind: gram(network, x, kind=kind)
        for name, (network, of, kind) in NETWORKS.items()
    }
    network, of, kind = NETWORKS["relu"]
    two = given[of][:2].double()
    plain = Plain(network, two, two, kind)
    runs["relu, plain form"] = lambda: plain.block(slice(0, 1), slice(0, 2))
    rates = {}
    for name, (median, (low, high)) in interleaved(runs, REPEATS).items():
        count = COUNTS[NETWORKS[name][1]] if name in NETWORKS else 0
        pairs = count * (count + 1) / 2 if count else 2
        rates[name] = pairs / median
        record.figures[name] = Figure(
            round(pairs / median, 1), "pairs/s", (round(pairs / high, 1), round(pairs / low, 1))
        )
    for name, goal in GOALS.items():
        record.goals.append(
            Goal(f"{name}: pairs a second", f"{goal} or more", rates[name], rates[name] >= goal)
        )
    ratio = rates["relu"] / rates["relu, plain form"]
    record.figures["relu / its plain form"] = Figure(round(ratio, 1), "times")
    record.goals.append(
        Goal("relu / its plain form", f"{TIMES_PLAIN} or more", ratio, ratio >= TIMES_PLAIN)
    )


def errors(record: Record, name: str, x: Tensor) -> None:
    """Compare float32 with the plain form in float64, off the diagonal and on it."""
    network, _, kind = NETWORKS[name]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    near = [x[:1] + size * noise[:1] for size in NOISE]
    images = torch.cat([x, *near])
    plain = Plain(network, images, images, kind)
    slices = [slice(place, place + 1) for place in range(len(images))]
    exact = torch.cat([plain.block(row, slice(0, len(images)))[0] for row in slices])
    off = (gram(network, images, kind=kind, progress=False).double() - exact).abs() / exact
    own = float(off.diagonal().max())
    far = float(off.fill_diagonal_(0).max())
    for place, value in (("off the diagonal", far), ("on the diagonal", own)):
        record.figures[f"{name}: relative error {place}"] = Figure(value)
        record.goals.append(
            Goal(f"{name}: relative error {place}", f"{ERROR:g} or less", value, value <= ERROR)
        )


if __name__ == "__main__":
    main()
