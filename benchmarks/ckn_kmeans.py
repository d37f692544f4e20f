"""Spherical k-means against scikit-learn's MiniBatchKMeans, in turns, on patches of pictures.

    MERKHET_DATA=... python benchmarks/ckn_kmeans.py

500,000 patches of 5x5x3 from CIFAR-10, centred by channel and not, 512 centres, float32. The peer
gets the patches' directions; ours gets the patches, and its time includes making directions. The
cosine is that with the nearest centre of unit norm; the squared distance is that of directions to
the mean of their cluster, clusters being by each one's own rule. All is measured on all patches.
Writes benchmarks/results/ckn_kmeans.json.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from merkhet import data
from merkhet.ckn.kmeans import assign, plain_step, spherical_kmeans
from merkhet.core.intervals import student
from merkhet.core.timing import interleaved
from merkhet.report import Figure, Goal, Record

PICTURES, PATCHES, SIDE, CENTRES = 20_000, 500_000, 5, 512
SEEDS = range(5)
PEER = "MiniBatchKMeans"
OURS = "spherical_kmeans"


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args()
    start = time.perf_counter()
    record = Record(
        "ckn", "kmeans", "small", seeds=list(SEEDS), command="python benchmarks/ckn_kmeans.py"
    )
    for kind in ("centred", "not centred"):
        compare(record, patches(kind == "centred"), kind)
    record.settings = {"data": f"cifar10, train, {PICTURES} pictures", "patches": PATCHES}
    record.settings |= {"side": SIDE, "centres": CENTRES, "threads": torch.get_num_threads()}
    record.notes = "Intervals are Student's over seeds; of single steps, quartiles of the runs."
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "ckn_kmeans.json")
    print(path.read_text(encoding="utf-8"))


def patches(centred: bool) -> Tensor:
    """Return patches (n, 75), at places drawn uniformly; those of norm 0 are left out."""
    pictures = data.load("cifar10", "train", limit=PICTURES).images.float() / 255
    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = pictures.shape
    which = torch.randint(count, (PATCHES,), generator=generator)[:, None, None]
    window = torch.arange(SIDE)
    top = torch.randint(height - SIDE + 1, (PATCHES, 1), generator=generator) + window
    left = torch.randint(width - SIDE + 1, (PATCHES, 1), generator=generator) + window
    found = pictures.permute(0, 2, 3, 1)[which, top[:, :, None], left[:, None, :]]
    found = found.reshape(PATCHES, SIDE**2, channels)
    if centred:
        found = found - found.mean(1, keepdim=True)
    found = found.reshape(PATCHES, -1)
    return found[found.norm(dim=1) > 1e-5]


def compare(record: Record, points: Tensor, kind: str) -> None:
    """Run each with each seed, in turns."""
    unit = points / points.norm(dim=1, keepdim=True)
    runs: dict[str, Callable[[int], Tensor]] = {
        OURS: lambda seed: spherical_kmeans(points, CENTRES, seed=seed).centres,
        PEER: functools.partial(peer, unit),
        f"{PEER}, n_init=1": functools.partial(peer, unit, n_init=1),
    }
    spherical_kmeans(points[:5000], 8)  # compiles
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in SEEDS:
        for name, run in runs.items():
            start = time.perf_counter()
            centres = run(seed)
            found[name]["seconds"].append(time.perf_counter() - start)
            for what, value in quality(unit, centres, by_angle=name == OURS).items():
                found[name][what].append(value)
            print(kind, seed, name, {what: row[-1] for what, row in found[name].items()})
    units = {"seconds": "s"}
    for name, rows in found.items():
        for what, row in rows.items():
            mean = statistics.fmean(row)
            record.figures[f"{name}, {kind}: {what}"] = Figure(
                mean, units.get(what, ""), student(row)
            )
        if name != OURS:
            judge(record, found[OURS], rows, f"{name}, {kind}")
    steps(record, unit, kind)


def peer(unit: Tensor, seed: int, **settings: int) -> Tensor:
    """Return the centres (k, d) of scikit-learn."""
    fitted = MiniBatchKMeans(CENTRES, random_state=seed, **settings).fit(unit.numpy())
    return torch.from_numpy(fitted.cluster_centers_).to(unit)


def quality(unit: Tensor, centres: Tensor, by_angle: bool) -> dict[str, float]:
    """Return the mean cosine and squared distances of unit rows to centres and clusters' means.

    Args:
        unit: (n, d).
        centres: (k, d).
        by_angle: Whether clusters are by the largest cosine, or by the least distance.
    """
    offset = torch.zeros(len(centres)) if by_angle else centres.square().sum(1) / 2
    directions = centres / centres.norm(dim=1, keepdim=True)
    cosine = distance = 0.0
    sums, counts = torch.zeros(centres.shape, dtype=torch.float64), torch.zeros(len(centres))
    for block in unit.split(4096):
        cosine += float((block @ directions.T).max(1).values.double().sum())
        labels = (block @ centres.T - offset).argmax(1)
        own = centres[labels].double()
        distance += float((block.double() - own).square().sum())
        sums.index_add_(0, labels, block.double())
        counts += labels.bincount(minlength=len(centres))
    between = float((sums.square().sum(1) / counts.clamp(min=1)).sum())
    return {
        "mean cosine": cosine / len(unit),
        "mean squared distance to its cluster's mean": 1 - between / len(unit),
        "mean squared distance to its own centre": distance / len(unit),
    }


def judge(
    record: Record, ours: dict[str, list[float]], theirs: dict[str, list[float]], name: str
) -> None:
    """Add the ratio of times and the differences of objectives, seed by seed, with their goals."""
    ratios = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
    record.figures[f"{name}: times ours"] = Figure(statistics.fmean(ratios), "", student(ratios))
    record.goals.append(
        Goal(f"{name}: its time over ours", "above 1 in each run", min(ratios), min(ratios) > 1)
    )
    goals = (
        ("mean cosine", "gain", 1),
        ("mean squared distance to its cluster's mean", "saving", -1),
    )
    for what, word, sign in goals:
        gains = [sign * (a - b) for a, b in zip(ours[what], theirs[what], strict=True)]
        mean = statistics.fmean(gains)
        record.figures[f"{name}: {word} in {what}"] = Figure(mean, "", student(gains))
        record.goals.append(
            Goal(f"{name}: {word} in {what}", "0 or more in each run", min(gains), min(gains) >= 0)
        )


def steps(record: Record, unit: Tensor, kind: str) -> None:
    """Time one step of Lloyd's over all patches, plain and fast."""
    centres = unit[:CENTRES].clone()
    times = interleaved(
        {"plain": lambda: plain_step(unit, centres), "fast": lambda: assign(unit, centres)}, 7
    )
    for name, (median, quartiles) in times.items():
        record.figures[f"one step, {name}, {kind}"] = Figure(median, "s", quartiles)
    rate = 2 * unit.numel() * CENTRES / times["fast"][0] / 1e9
    record.figures[f"products in a fast step, {kind}"] = Figure(rate, "GFLOP/s")


if __name__ == "__main__":
    main()
