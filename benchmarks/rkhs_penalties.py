"""A training step with each penalty against the plain step, in turns.

    python benchmarks/rkhs_penalties.py

VGG11 at a quarter of its width without norm, pictures 3x32x32, 10 classes, batches of 64, float32,
SGD. A step is forward, backward and update; the goals are ratios to the plain step of the same
run. Writes benchmarks/results/rkhs_penalties.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.timing import interleaved
from merkhet.models import VGG11
from merkhet.report import Figure, Goal, Record
from merkhet.rkhs.adversarial import AdversarialPenalty
from merkhet.rkhs.deformation import DeformationPenalty, TangentPenalty
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.rkhs.loss_based import AdversarialLoss, LossGradientPenalty
from merkhet.rkhs.penalty import Penalty, regularised_loss
from merkhet.rkhs.spectral import SpectralPenalty

BATCH, RADIUS = 64, 0.5
REPEATS, IN_A_ROW = 15, 3  # turns, and steps in each, as training makes them one after another
GOALS: dict[str, tuple[Penalty, float | None]] = {
    "loss gradient": (LossGradientPenalty(), 2.25),
    "adversarial loss, 5 steps": (AdversarialLoss(RADIUS), 5.4),
    "gradient, mean by random projection": (GradientPenalty("mean"), 2.5),
    "gradient, sup": (GradientPenalty("sup"), 4.8),
    "adversarial, 5 steps, one example a class": (AdversarialPenalty(RADIUS), 7.0),
    "adversarial, 5 steps, exhaustive": (AdversarialPenalty(RADIUS, select="all"), 45.0),
    "tangent": (TangentPenalty(), 2.7),
    "spectral, by operator norm": (SpectralPenalty(), 1.1),
    "deformation, 4 samples": (DeformationPenalty(), None),
}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns")
    repeats = parser.parse_args().repeats
    start = time.perf_counter()
    record = Record(
        "rkhs", "penalties", "small", seeds=[0], command="python benchmarks/rkhs_penalties.py"
    )
    runs = {"plain": plain_step()}
    runs |= {name: penalised_step(penalty) for name, (penalty, _) in GOALS.items()}
    times = interleaved(runs, repeats)
    for name, (median, (low, high)) in times.items():
        middle, *ends = (round(1000 * value / IN_A_ROW, 2) for value in (median, low, high))
        record.figures[f"step, {name}"] = Figure(middle, "ms", (ends[0], ends[1]))
    for name, (_, goal) in GOALS.items():
        ratio = round(times[name][0] / times["plain"][0], 3)
        record.figures[f"step over the plain one, {name}"] = Figure(ratio)
        if goal is not None:
            record.goals.append(
                Goal(f"step over the plain one: {name}", f"at most {goal}", ratio, ratio <= goal)
            )
    record.settings = {"network": "VGG11, width 0.25, no norm", "batch": BATCH, "classes": 10}
    record.settings |= {"repeats": repeats, "threads": torch.get_num_threads()}
    record.notes = f"Medians of turns of {IN_A_ROW} steps; intervals are quartiles of the turns."
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "rkhs_penalties.json")
    print(path.read_text(encoding="utf-8"))


def batch() -> tuple[Tensor, Tensor]:
    """Return pictures and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 3, 32, 32, generator=generator)
    return x, torch.randint(10, (BATCH,), generator=generator)


def step(loss: Callable[[VGG11], Tensor]) -> Callable[[], None]:
    """Return a turn: training steps of a fresh network."""
    model = VGG11(width=0.25, norm="none")
    # Small: the steps are to be timed, the network is not to change.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def run() -> None:
        for _ in range(IN_A_ROW):
            optimiser.zero_grad()
            loss(model).backward()
            optimiser.step()

    return run


def plain_step() -> Callable[[], None]:
    """Return the step on cross-entropy alone, written without merkhet's losses."""
    x, y = batch()
    return step(lambda model: F.cross_entropy(model(x), y))


def penalised_step(penalty: Penalty) -> Callable[[], None]:
    """Return the step on cross-entropy and a penalty."""
    data = batch()
    loss = regularised_loss(penalty)
    return step(lambda model: loss(model, data)[0])


if __name__ == "__main__":
    main()
