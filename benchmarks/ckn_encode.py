"""Encoding pictures with an unsupervised convolutional kernel network, against plain torch.

    python benchmarks/ckn_encode.py

Fashion-MNIST, 60,000 pictures of 28x28, 64 and 256 filters, patches 3x3 (the first layer's
centred), pooling by 2 and 6, float32. The dominant step is the second layer's product of patches
with filters; its rate is compared with torch's own product of square matrices in the same run.
Writes benchmarks/results/ckn_encode.json.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from merkhet import data
from merkhet.ckn import CKN, Form, engines, plain
from merkhet.core.timing import interleaved
from merkhet.report import Figure, Goal, Record

PICTURES, PART, REPEATS, WHOLE = 60000, 2048, 11, 3
SIDE = 2048  # of the square matrices


def main() -> None:
    """Measure and write the record."""
    start = time.perf_counter()
    command = "python benchmarks/ckn_encode.py"
    record = Record("ckn", "encode", "small", seeds=[0], command=command)
    images = data.load("fashion-mnist", "train").images[:PICTURES]
    network = CKN(1, (64, 256), 3, (2, 6), form=(Form(patches="centred"), Form()))
    network.fit_unsupervised(images[:5000], patches=50000, progress=False)
    whole = min(_seconds(network, images) for _ in range(WHOLE))
    record.figures[f"encoding {PICTURES:,} pictures"] = Figure(round(whole, 1), "s", None)
    target = f"40 s or less for {PICTURES:,}"
    record.goals.append(Goal("encoding, 64/256 filters", target, round(whole, 1), whole <= 40))
    ratios(record, network, images[:PART])
    rate(record, network, images[:PART])
    record.settings = {"part": PART, "repeats": REPEATS, "threads": torch.get_num_threads()}
    record.notes = (
        f"All {PICTURES:,} pictures: the best of {WHOLE} runs. Ratios: medians over {REPEATS} "
        f"interleaved runs of {PART:,} pictures; intervals are quartiles."
    )
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "ckn_encode.json")
    print(path.read_text(encoding="utf-8"))


def _seconds(network: CKN, images: Tensor) -> float:
    """Return the seconds that encoding takes."""
    start = time.perf_counter()
    network.encode(images)
    return time.perf_counter() - start


def ratios(record: Record, network: CKN, images: Tensor) -> None:
    """Compare with the plain form."""

    def plainly() -> None:
        with _plain():
            network.encode(images)

    runs = {"compiled loops": lambda: network.encode(images), "plain torch": plainly}
    times = interleaved(runs, REPEATS)
    for name, (median, (low, high)) in times.items():
        scale = PICTURES / PART
        record.figures[f"{name}, for {PICTURES:,}"] = Figure(
            round(scale * median, 1), "s", (round(scale * low, 1), round(scale * high, 1))
        )
    ratio = times["plain torch"][0] / times["compiled loops"][0]
    record.figures["plain torch / compiled loops"] = Figure(round(ratio, 2), "", None)


@contextmanager
def _plain() -> Iterator[None]:
    """Compute in plain torch, a batch at once, for a while."""
    picked, cut = engines._pooling, engines._whole
    engines._pooling, engines._whole = (
        lambda _layer, _maps: plain.pooled,
        lambda _layer, _maps: True,
    )
    try:
        yield
    finally:
        engines._pooling, engines._whole = picked, cut


@torch.no_grad()
def rate(record: Record, network: CKN, images: Tensor) -> None:
    """Compare the dominant step's rate with that of a product of matrices."""
    first, second = network.layer(0), network.layer(1)
    maps = first(images[:256].float() / 255)
    count = engines.CACHE // (256 * 14 * 14)
    part = maps[:count].contiguous(memory_format=torch.channels_last)
    weights = second.patches.weights(second.raw_filters(), 0)
    weights = weights.contiguous(memory_format=torch.channels_last)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    times = interleaved(
        {"dominant": lambda: second.patches.convolve(part, weights), "square": lambda: a @ b}, 41
    )
    work = {"dominant": 2 * count * 14 * 14 * 576 * 256, "square": 2 * SIDE**3}
    rates = {name: work[name] / times[name][0] / 1e9 for name in work}
    record.figures["dominant step"] = Figure(round(rates["dominant"]), "GFLOP/s", None)
    record.figures[f"product of {SIDE}x{SIDE} matrices"] = Figure(
        round(rates["square"]), "GFLOP/s", None
    )
    share = rates["dominant"] / rates["square"]
    goal = "rate of the dominant step / of a matrix product"
    record.goals.append(Goal(goal, "0.5 or more", round(share, 2), share >= 0.5))


if __name__ == "__main__":
    main()
