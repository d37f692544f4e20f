"""Learning from few labels: kernels of networks, the usual kernel, and a network tuned alike."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from merkhet import data, models
from merkhet.core.intervals import student
from merkhet.kernels import (
    Conv2d,
    Exponential,
    Flatten,
    GaussianPool2d,
    Layer,
    Linear,
    ReLU,
    Sequential,
    decompose,
    default_ridges,
    gram,
    leave_one_out,
    ridge_coefficients,
)
from merkhet.report import Trial, experiment
from merkhet.training import Optimisation, TrainingConfig, accuracy, fit

# Labelled pictures to draw from, pictures to test on, numbers of labels, seeds.
PLANS: dict[str, dict[str, Any]] = {
    "small": {"pool": 1200, "test": 500, "labels": (100, 300, 1000), "seeds": 5, "networks": 3},
    "full": {
        "pool": 10000,
        "test": 10000,
        "labels": (100, 300, 1000, 3000, 5000),
        "seeds": 10,
        "networks": 10,
    },
}
SIDE = 14  # of the pictures, means of 2x2 pixels
WIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the Gaussian kernel, by the median distance
RATES, DECAYS = (3e-3, 1e-2, 3e-2, 1e-1), (0.0, 1e-2)
STEPS, PASSES, BATCH = 300, 15, 50  # of the network's training: both at least
HELD = 5  # one label of five is held out to tune the network


def _layers(act: Layer) -> Layer:
    """Return two 3x3 convolutions with Gaussian pooling by 2, then by 5."""
    first = [Conv2d(3, weight_std=1.0), act, GaussianPool2d(2)]
    return Sequential(*first, Conv2d(3), act, GaussianPool2d(5), Flatten(), Linear())


DENSE = Sequential(Flatten(), Linear(weight_std=1.0), *[ReLU(), Linear()] * 2)
NETWORKS = {"conv": _layers(ReLU()), "conv exponential": _layers(Exponential(1.0)), "dense": DENSE}
KERNELS = {
    "conv NTK": ("conv", 1),
    "conv NNGP": ("conv", 0),
    "CKN": ("conv exponential", 0),
    "dense NTK": ("dense", 1),
    "dense NNGP": ("dense", 0),
}
METHODS = (*KERNELS, "RBF", "CNN")


@experiment
def small_data(trial: Trial) -> None:
    """Test accuracy on Fashion-MNIST from 100 labels up: kernels of networks, RBF, a tuned CNN."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan["seeds"]))
    trial.record.settings = {"data": "fashion-mnist", "side": SIDE, **plan}
    pool, test = _pictures("train", plan["pool"]), _pictures("test", plan["test"])
    kernels = {
        name: trial.step(f"kernels of {name}", partial(_kernels, name, pool[0], test[0]))
        for name in NETWORKS
    }
    found: dict[str, list[float]] = {}
    for method in METHODS:
        seeds = trial.record.seeds[: plan["networks"] if method == "CNN" else None]
        for count in plan["labels"]:
            name = f"{method}, {count} labels"
            found[name] = [
                trial.step(
                    f"{name}, seed {seed}",
                    partial(_accuracy, method, count, seed, pool, test, kernels),
                )
                for seed in seeds
            ]
            _mean(trial, name, found[name], "%")
    _compare(trial, found)
    trial.record.notes = (
        "Intervals are Student's over draws of the labelled pictures from one pool (they overlap "
        "where labels are many, so that intervals are too narrow there); the test pictures are the "
        "same, and what another choice of them would change is not in the intervals. Differences "
        "are between methods that were given the same labels. Ridges, and the Gaussian kernel's "
        "width, by leave-one-out; the network's rate and decay on a fifth of its labels, after "
        "which it is trained on all of them."
    )
    trial.picture(_draw(trial))


def _pictures(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return pictures (n, 1, 14, 14) between 0 and 1, and their labels."""
    found = data.load("fashion-mnist", split, limit=count)
    assert found.labels is not None
    return F.avg_pool2d(found.floats(), 2), found.labels


def _kernels(name: str, pool: Tensor, test: Tensor) -> list[Tensor]:
    """Return NNGP and NTK of the pool with itself and of the test with the pool: (2, n, m)."""
    own = gram(NETWORKS[name], pool, kind="both", progress=False)
    cross = gram(NETWORKS[name], test, pool, kind="both", progress=False)
    return [torch.stack(own), torch.stack(cross)]


def _accuracy(
    method: str,
    count: int,
    seed: int,
    pool: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    kernels: dict[str, list[Tensor]],
) -> float:
    """Return the test accuracy in percent, from `count` labelled pictures of the pool."""
    drawn = torch.randperm(len(pool[0]), generator=torch.Generator().manual_seed(seed))[:count]
    if method == "CNN":
        return 100 * _network(TensorDataset(pool[0][drawn], pool[1][drawn]), test, seed)
    targets = F.one_hot(pool[1][drawn], 10).double() - 0.1
    if method == "RBF":
        pairs = _gaussian(pool[0][drawn].flatten(1), test[0].flatten(1))
    else:
        name, kind = KERNELS[method]
        own, cross = kernels[name]
        pairs = [(own[kind][drawn][:, drawn], cross[kind][:, drawn])]
    tried = [_ridge(one, other, targets) for one, other in pairs]
    scores = min(tried, key=lambda one: one[0])[1]
    return 100 * float((scores.argmax(1) == test[1]).double().mean())


def _ridge(own: Tensor, cross: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Return the least leave-one-out error over ridges, and the scores (m, k) with that ridge.

    `decompose` is given the kernel's own type, which says how exact it is.
    """
    basis = decompose(own)
    path = leave_one_out(basis, targets, default_ridges(basis))
    coefficients = ridge_coefficients(basis, targets, float(path.ridges[path.best]))
    return float(path.errors[path.best]), cross.double() @ coefficients


def _gaussian(x: Tensor, other: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return Gaussian kernels of x with itself and of others with x, by width."""
    own, cross = torch.cdist(x.double(), x.double()), torch.cdist(other.double(), x.double())
    middle = float(own.median())
    return [
        tuple((-(d / (width * middle)).square() / 2).exp() for d in (own, cross))  # type: ignore[misc]
        for width in WIDTHS
    ]


def _network(train: TensorDataset, test: tuple[Tensor, Tensor], seed: int) -> float:
    """Return the test accuracy of a CNN whose rate and decay were chosen on a part of its data."""
    held = Subset(train, range(len(train) // HELD))
    rest = Subset(train, range(len(train) // HELD, len(train)))
    choices = list(itertools.product(RATES, DECAYS))
    scores = [accuracy(_trained(rest, *choice, seed), held).value for choice in choices]
    best = choices[scores.index(max(scores))]
    return accuracy(_trained(train, *best, seed), TensorDataset(*test)).value


def _trained(train: Any, rate: float, decay: float, seed: int) -> torch.nn.Module:
    """Return a CNN after training."""
    network = models.SmallCNN(1, 10, widths=(32, 64), seed=seed)
    how = Optimisation(learning_rate=rate, weight_decay=decay)
    steps = max(STEPS, PASSES * len(train) // BATCH)
    config = TrainingConfig(steps, min(BATCH, len(train)), seed=seed, optimisation=how)
    fit(network, train, _loss, config)
    return network


def _loss(module: torch.nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of a batch."""
    return F.cross_entropy(module(batch[0]), batch[1])


def _mean(trial: Trial, name: str, values: list[float], unit: str) -> tuple[float, float]:
    """Record the mean over seeds with its interval, and return the interval."""
    interval = student(values)
    trial.figure(name, sum(values) / len(values), unit, interval)
    return interval


def _compare(trial: Trial, found: dict[str, list[float]]) -> None:
    """Record how the convolutional NTK stands against the usual kernel and the network."""
    for other in ("RBF", "CNN"):
        for count in PLANS[trial.size]["labels"]:
            ours, theirs = (found[f"{method}, {count} labels"] for method in ("conv NTK", other))
            gains = [one - two for one, two in zip(ours, theirs, strict=False)]  # shared seeds
            name = f"conv NTK - {other}, {count} labels"
            low, _ = _mean(trial, name, gains, "points")
            gain = round(trial.record.figures[name].value, 2)
            trial.goal(f"{name}, points", "above 0, its interval too", gain, low > 0)


def _draw(trial: Trial) -> Any:
    """Draw accuracy against labels."""
    from merkhet.report.figures import COLOURS, figure
    from merkhet.report.lines import draw_line

    made, (axis,) = figure(width=5.6, height=3.8)
    counts = PLANS[trial.size]["labels"]
    for place, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=False)):
        apart = 1.03 ** (place - len(METHODS) // 2)  # or intervals would cover each other
        names = [f"{method}, {count} labels" for count in counts]
        style = {"marker": "s", "ls": "--"} if method in ("RBF", "CNN") else {}
        at = [apart * count for count in counts]
        draw_line(axis, trial.record, at, names, method, color=colour, **style)
    axis.set(xscale="log", xlabel="labels", ylabel="test accuracy, %")
    axis.set_xticks(counts, [f"{count:,}" for count in counts])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    return made
