"""Kill a training run twenty times, resume it each time, and compare it bit for bit.

    .venv/bin/python benchmarks/kill_resume.py

A small network is trained on scikit-learn's digits, with dropout, batch norm, AdamW,
accumulation and a checkpoint every few steps: once without a stop, and once in processes that
are killed by SIGKILL at random moments, half of them while a checkpoint is being written.
Which kills really hit a write is not guessed from the clock: such a kill leaves a half-written
folder, and those are counted. Weights and the history of losses must come out identical.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.report.record import Figure, Goal, Record
from merkhet.training import Optimisation, Running, TrainingConfig, checkpoints, fit
from merkhet.training import accuracy as accuracy_of

SEED, KILLS, WRITE_KILLS, ENOUGH_WRITE_KILLS = 0, 20, 12, 5
LONGEST_LIFE = 20  # steps that a process may make before it is killed
CONFIG = TrainingConfig(
    steps=KILLS * LONGEST_LIFE + 20,
    batch_size=16,
    accumulate=2,
    seed=SEED,
    optimisation=Optimisation(learning_rate=3e-3, weight_decay=0.01, warmup_steps=20, clip_norm=1),
    running=Running(save_every=5, cpu=True, progress=False),
)
TRAIN = 1500
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """When to kill a process: some seconds after its line number `count` that begins so."""

    line: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Kill:
    """What a kill left behind.

    Attributes:
        step: The last step that the process told of; 0 if none.
        in_write: Whether a half-written checkpoint was left.
    """

    step: int
    in_write: bool


def main() -> None:
    """Run the benchmark, or with `--child` one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--child", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    folder = parser.parse_args().child
    if folder:
        child(folder)
    else:
        with tempfile.TemporaryDirectory() as work:
            benchmark(Path(work))


def benchmark(work: Path) -> None:
    """Train with and without kills in `work`, compare, and write the record."""
    record, started = Record("training", "kill_resume", "small"), time.perf_counter()
    write_seconds = undisturbed(work / "whole")
    kills = [killed(work / "killed", plan) for plan in plans(random.Random(SEED), write_seconds)]
    undisturbed(work / "killed")
    record.seconds = time.perf_counter() - started
    report(record, work, kills)
    path = record.write(RESULTS, "training_kill_resume.json")
    for goal in record.goals:
        print(f"{'met' if goal.met else 'NOT MET'}: {goal.goal}: {goal.value} ({goal.target})")
    print(f"{record.seconds:.0f} s, written to {path}")
    if not all(goal.met for goal in record.goals):
        sys.exit(1)


def plans(dice: random.Random, write_seconds: float) -> list[Plan]:
    """Draw the moments of the kills: in writes, and after steps."""
    writes = [
        Plan("write", dice.randint(1, LONGEST_LIFE // 5 - 1), dice.uniform(0, write_seconds))
        for _ in range(WRITE_KILLS)
    ]
    others = [
        Plan("step", dice.randint(1, LONGEST_LIFE - 5), dice.uniform(0, 0.02))
        for _ in range(KILLS - WRITE_KILLS)
    ]
    return dice.sample(writes + others, KILLS)


def killed(folder: Path, plan: Plan) -> Kill:
    """Start or resume the run, kill it as planned, and look at what it left."""
    step = seen = 0
    with running(folder) as process:
        for line in lines(process):
            if line.startswith("step"):
                step = int(line.split()[1])
            seen += line.startswith(f"{plan.line} ")
            if seen == plan.count:
                time.sleep(plan.seconds)
                process.kill()
                break
        else:
            raise RuntimeError("the run ended before it was killed: give it more steps")
    left = [path for path in folder.glob("checkpoints/.step-*") if path.suffix != ".old"]
    print(f"killed after step {step}{', in the write of a checkpoint' if left else ''}", flush=True)
    return Kill(step, bool(left))


def undisturbed(folder: Path) -> float:
    """Run or resume to the end; return the median seconds of writing a checkpoint."""
    durations, began = [], 0.0
    with running(folder) as process:
        for line in lines(process):
            if line.startswith("write "):
                began = time.perf_counter()
            if line.startswith("written"):
                durations.append(time.perf_counter() - began)
    if process.returncode:
        raise RuntimeError(f"the run ended with status {process.returncode}")
    return sorted(durations)[len(durations) // 2] if durations else 0.0


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that trains into `folder`, and wait for its end."""
    command = [sys.executable, __file__, "--child", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what the process says."""
    assert process.stdout is not None, "the process was started with a pipe"
    yield from process.stdout


def report(record: Record, work: Path, kills: list[Kill]) -> None:
    """Fill in what came out."""
    whole, resumed = work / "whole", work / "killed"
    weights = same_weights(whole / "model.safetensors", resumed / "model.safetensors")
    history = (whole / "losses.jsonl").read_bytes() == (resumed / "losses.jsonl").read_bytes()
    in_write = sum(kill.in_write for kill in kills)
    module = network()
    module.load_state_dict(load_file(resumed / "model.safetensors"))
    test = accuracy_of(module, digits()[1])
    record.seeds = [SEED]
    record.settings = {
        "data": f"scikit-learn digits, {TRAIN} for training",
        "network": "2 convolutions, batch norm, dropout 0.3, linear",
        "config": CONFIG.to_dict(),
        "kills": len(kills),
        "kills_in_a_checkpoint_write": in_write,
        "last_step_told_before_each_kill": [kill.step for kill in kills],
    }
    record.figures = {
        "kills": Figure(len(kills)),
        "kills_in_a_checkpoint_write": Figure(in_write),
        "test_accuracy": test,
    }
    record.goals = [
        Goal("final weights and buffers", "identical bit for bit", verdict(weights), weights),
        Goal("loss of every step", "identical bit for bit", verdict(history), history),
        Goal("kills by SIGKILL", f"{KILLS}", len(kills), len(kills) == KILLS),
        Goal(
            "kills that left a half-written checkpoint",
            f"at least {ENOUGH_WRITE_KILLS}",
            in_write,
            in_write >= ENOUGH_WRITE_KILLS,
        ),
    ]
    record.notes = (
        "One thread. A kill counts as in a write if a half-written checkpoint was left behind."
    )


def same_weights(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same tensors bit for bit."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def verdict(same: bool) -> str:
    """Return the outcome of a comparison in words."""
    return "identical" if same else "different"


def child(folder: Path) -> None:
    """Train, saying when a step is made and when a checkpoint's write begins and ends."""
    torch.set_num_threads(1)
    plain = checkpoints.atomic_folder

    @contextmanager
    def telling(path: Path) -> Iterator[Path]:
        with plain(path) as aside:
            print(f"write {path.name}", flush=True)
            yield aside
        print("written", flush=True)

    # Only here, in the benchmark's own process: the library knows nothing of being watched.
    checkpoints.atomic_folder = telling
    fit(network(), digits()[0], loss, CONFIG, folder=folder, after_step=tell)


def tell(_module: nn.Module, step: int) -> None:
    """Say that a step is made."""
    print(f"step {step}", flush=True)


def network() -> nn.Sequential:
    """Return the network, with weights that depend on the seed only."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 16, 10),
    )


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits for training and for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    return (
        TensorDataset(pictures[:TRAIN], labels[:TRAIN]),
        TensorDataset(pictures[TRAIN:], labels[TRAIN:]),
    )


def loss(module: nn.Module, batch: Any) -> Tensor:
    """Return the mean cross-entropy of a batch."""
    return F.cross_entropy(module(batch[0]), batch[1])


if __name__ == "__main__":
    main()
