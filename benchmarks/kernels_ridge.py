"""The leave-one-out path of kernel ridge regression by one eigendecomposition.

    python benchmarks/kernels_ridge.py

5,000 inputs, 20 ridges, 10 outputs, float64; the tangent kernel of two hidden ReLU layers on random
inputs of 64 features. The direct form solves by Cholesky's factors for each ridge and reads
leave-one-out errors off the inverse's diagonal. Writes benchmarks/results/kernels_ridge.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from merkhet.kernels import Linear, ReLU, Sequential, gram
from merkhet.kernels.eigen import decompose
from merkhet.kernels.ridge import leave_one_out
from merkhet.report import Figure, Goal, Record

INPUTS, FEATURES, OUTPUTS, RIDGES, SECONDS = 5000, 64, 10, 20, 60.0
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    start = time.perf_counter()
    size = "full" if options.inputs == INPUTS else "small"
    record = Record(
        "kernels", "ridge", size, seeds=[0], command="python benchmarks/kernels_ridge.py"
    )
    record.settings = {
        "inputs": options.inputs,
        "features": FEATURES,
        "outputs": OUTPUTS,
        "ridges": RIDGES,
        "threads": torch.get_num_threads(),
    }
    compare(record, options.inputs)
    record.seconds = time.perf_counter() - start
    path = record.write(options.results, "kernels_ridge.json")
    print(path.read_text(encoding="utf-8"))


@torch.no_grad()
def compare(record: Record, count: int) -> None:
    """Time both forms on one kernel, and how far their errors are apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, FEATURES, generator=generator)
    targets = torch.randn(count, OUTPUTS, generator=generator).double()
    network = Sequential(Linear(), ReLU(), Linear(), ReLU(), Linear())
    kernel = gram(network, x, dtype=torch.float64)
    ridges = float(kernel.trace()) / count * torch.logspace(-4, 2, RIDGES).double()
    start = time.perf_counter()
    basis = decompose(kernel)
    between = time.perf_counter()
    found = leave_one_out(basis, targets, ridges).errors
    done = time.perf_counter()
    wanted = torch.stack([direct(kernel, targets, ridge) for ridge in ridges])
    slow, fast = time.perf_counter() - done, done - start
    record.figures = {
        "eigendecomposition": Figure(round(between - start, 2), "s"),
        "path of ridges": Figure(round(done - between, 3), "s"),
        "both": Figure(round(fast, 2), "s"),
        "direct form": Figure(round(slow, 2), "s"),
        "direct form / ours": Figure(round(slow / fast, 2)),
        "largest relative difference": Figure(float(((found - wanted) / wanted).abs().max())),
    }
    words = f"leave-one-out path, {count:,} inputs, {RIDGES} ridges, one eigendecomposition"
    record.goals = [Goal(words, f"below {SECONDS:g} s", round(fast, 2), fast < SECONDS)]


def direct(kernel: Tensor, targets: Tensor, ridge: Tensor) -> Tensor:
    """Return the mean squared leave-one-out error of one ridge by a solve of its own."""
    factor = torch.linalg.cholesky(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype))
    dual = torch.cholesky_solve(targets, factor)
    return (dual / torch.cholesky_inverse(factor).diagonal()[:, None]).square().mean()


if __name__ == "__main__":
    main()
