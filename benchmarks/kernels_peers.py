"""Tangent kernels against neural-tangents on jax 0.4.30, taken in turns in one run.

    MERKHET_DATA=... python benchmarks/kernels_peers.py [--python PATH]

Four hidden dense layers on 2,000 pictures of 784 pixels, and five 3x3 convolutions with a dense
layer on 64 pictures of 28x28, float32, symmetric; the peer is compiled by jax.jit before it is
timed. neural-tangents does not import on current JAX: without --python, an environment of its own
is made for the run. Writes benchmarks/results/kernels_peers.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from merkhet import data
from merkhet.kernels import Conv2d, Flatten, Layer, Linear, ReLU, Sequential, gram
from merkhet.report import Figure, Goal, Record

HERE = Path(__file__).parent
OLD = ("jax==0.4.30", "jaxlib==0.4.30", "numpy<2", "scipy<1.14", "absl-py", "frozendict")
PEER = "neural-tangents==0.6.5"
REPEATS, WARM_UP = 15, 3
GOAL = 2.0


def networks() -> dict[str, Layer]:
    """Return the networks that are compared."""
    convolutions: list[Layer] = []
    for place in range(5):
        convolutions += [Conv2d(3, weight_std=2**0.5 if place else 1.0), ReLU()]
    hidden = [layer for _ in range(4) for layer in (ReLU(), Linear())]
    return {
        "dense": Sequential(Linear(weight_std=1.0), *hidden),
        "convolutions": Sequential(*convolutions, Flatten(), Linear()),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="of an environment with the peer")
    given = parser.parse_args().python
    start = time.perf_counter()
    record = Record(
        "kernels", "peers", "small", seeds=[], command="python benchmarks/kernels_peers.py"
    )
    with tempfile.TemporaryDirectory() as folder:
        compare(record, given or environment(Path(folder)), Path(folder))
    record.settings = {"peer": PEER, "with": OLD[0], "repeats": REPEATS}
    record.settings["threads"] = torch.get_num_threads()
    record.notes = "Intervals are quartiles of the runs."
    record.seconds = time.perf_counter() - start
    path = record.write(HERE / "results", "kernels_peers.json")
    print(path.read_text(encoding="utf-8"))


def environment(folder: Path) -> str:
    """Return the Python of a new environment that has the peer."""
    subprocess.run([sys.executable, "-m", "venv", folder / "peer"], check=True)
    python = str(folder / "peer" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *OLD], check=True)
    subprocess.run([*install, "--no-deps", PEER], check=True)
    return python


def compare(record: Record, python: str, folder: Path) -> None:
    """Time both on the same pictures, and compare what they say."""
    pictures = data.load("fashion-mnist", limit=2000).floats()
    inputs = {"dense": pictures.flatten(1), "convolutions": pictures[:64]}
    last = {"dense": (0, 1), "convolutions": (0, 2, 3, 1)}  # channels last
    arrays = {name: x.numpy().transpose(last[name]) for name, x in inputs.items()}
    np.savez(folder / "inputs.npz", **arrays)
    server = [python, str(HERE / "peers" / "neural_tangents_server.py"), folder / "inputs.npz"]
    with subprocess.Popen(
        server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for name, network in networks().items():
            peer = _peer(process, name, str(folder / f"{name}.npy"))
            peer()
            theirs = torch.from_numpy(np.load(folder / f"{name}.npy"))
            ours = gram(network, inputs[name], progress=False)
            difference = float(((ours - theirs).abs() / theirs.abs().max()).max())
            record.figures[f"{name}: largest difference, relative"] = Figure(difference)
            peer = _peer(process, name, "-")
            _time(record, name, lambda n=network, x=inputs[name]: _seconds(n, x), peer)
        process.stdin.close()  # type: ignore[union-attr]


def _peer(process: Any, name: str, path: str) -> Callable[[], float]:
    """Return a function that asks the peer for a kernel and returns its seconds."""

    def ask() -> float:
        process.stdin.write(f"{name} {path}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return ask


def _seconds(network: Layer, x: torch.Tensor) -> float:
    """Return how long our kernel takes."""
    start = time.perf_counter()
    gram(network, x, progress=False)
    return time.perf_counter() - start


def _time(record: Record, name: str, ours: Callable[[], float], peer: Callable[[], float]) -> None:
    """Time both in turns."""
    times: dict[str, list[float]] = {"ours": [], "neural-tangents": []}
    for turn in range(-WARM_UP, REPEATS):
        for who, run in (("ours", ours), ("neural-tangents", peer)):
            seconds = run()
            if turn >= 0:
                times[who].append(1000 * seconds)
    for who, spent in times.items():
        low, median, high = (round(one, 2) for one in statistics.quantiles(spent, n=4))
        record.figures[f"{name}: {who}"] = Figure(median, "ms", (low, high))
    ratio = statistics.median(times["neural-tangents"]) / statistics.median(times["ours"])
    record.figures[f"{name}: neural-tangents / ours"] = Figure(round(ratio, 2), "times")
    record.goals.append(
        Goal(f"{name}: neural-tangents / ours", f"{GOAL:g} or more", round(ratio, 2), ratio >= GOAL)
    )


if __name__ == "__main__":
    main()
