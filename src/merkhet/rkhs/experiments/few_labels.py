"""Training on few labels in many ways: arms, their tuning on validation data, their accuracies."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet import data, models
from merkhet.core.deformations import deform
from merkhet.core.intervals import student
from merkhet.report import Trial
from merkhet.rkhs.estimators import Recipe, train_classifier
from merkhet.rkhs.expressions import parse_penalty
from merkhet.rkhs.fields import random_fields
from merkhet.training import Running

VALIDATION = 10_000  # the last pictures of the training set
DISPLACEMENT, GRADIENT = 2.0, 0.3  # of deformed copies: pixels, and their largest gradient
SHIFT = 4  # pixels that cropped copies move by at most
BASELINE = "none"
Scores = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A data set, a network, and how large the experiment is.

    Attributes:
        data: Name of the data set.
        network: Name and arguments, as `models.build` takes them, but for the seed.
        recipe: Of its training, rate and decay aside.
        rates: Learning rates to choose from.
        decays: Weight decays to choose from.
        draws: Draws of labelled pictures that the best penalty is compared on.
        others: Draws for all other penalties.
        tuning: Draws, others than these, that rates and strengths are chosen on.
    """

    data: str
    network: tuple[str, dict[str, Any]]
    recipe: Recipe
    rates: tuple[float, ...]
    decays: tuple[float, ...]
    draws: int = 10
    others: int = 5
    tuning: int = 2


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        penalty: An expression, as on the command line.
        copies: How pictures are varied in training: a name of `TRANSFORMS`, "" for not at all.
        rate: Learning rate.
        decay: Weight decay.
    """

    penalty: str
    copies: str
    rate: float
    decay: float


def tuned_baseline(trial: Trial, plan: Plan, labels: int, copies: str) -> Arm:
    """Return the network without a penalty, of the rate and decay best on validation data."""
    arms = {
        f"{copies or 'no'} copies, rate {rate:g}, decay {decay:g}": Arm(
            BASELINE, copies, rate, decay
        )
        for rate, decay in itertools.product(plan.rates, plan.decays)
    }
    return arms[best(trial, plan, labels, arms)]


def best(trial: Trial, plan: Plan, labels: int, arms: Mapping[str, Arm]) -> str:
    """Return the name of the arm that is best on validation data; record its accuracy."""
    scores = validated(trial, plan, labels, arms)
    name = max(scores, key=lambda one: scores[one])
    trial.figure(f"validation, {labels} labels, {name}", scores[name], "%")
    return name


def validated(trial: Trial, plan: Plan, labels: int, arms: Mapping[str, Arm]) -> dict[str, float]:
    """Return the mean accuracy of each arm on validation data, in percent."""
    draws = range(plan.draws, plan.draws + plan.tuning)
    found = accuracies(trial, plan, labels, arms, draws, test=False)
    return {name: sum(values) / len(values) for name, values in found.items()}


def accuracies(
    trial: Trial,
    plan: Plan,
    labels: int,
    arms: Mapping[str, Arm],
    draws: Iterable[int],
    *,
    test: bool,
) -> Scores:
    """Return accuracies in percent of each arm, one for each draw of labelled pictures."""
    keys = {
        (name, draw): f"{plan.network}, {labels} labels, draw {draw}, {arm}, test {test}"
        for name, arm in arms.items()
        for draw in draws
    }
    work = {
        key: partial(_accuracy, plan, labels, draw, arms[name], test)
        for (name, draw), key in keys.items()
    }
    found = trial.steps(work)
    return {name: [found[keys[name, draw]] for draw in draws] for name in arms}


def tell(trial: Trial, start: str, found: Scores) -> None:
    """Record mean accuracies with their intervals."""
    for name, values in found.items():
        mean = sum(values) / len(values)
        trial.figure(f"test accuracy, {start}, {name}", mean, "%", student(values))


def gain(trial: Trial, name: str, ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Record a mean paired gain in points with its interval; return mean and lower end."""
    gains = [one - two for one, two in zip(ours, theirs, strict=True)]
    mean, interval = sum(gains) / len(gains), student(gains)
    trial.figure(name, mean, "points", interval)
    return mean, interval[0]


def _accuracy(plan: Plan, labels: int, draw: int, arm: Arm, test: bool) -> float:
    """Return the accuracy in percent of a network trained on one draw."""
    pool = _pictures(plan.data, "train")
    drawn = pool.subset(range(len(pool) - VALIDATION)).sample(labels, seed=draw)
    name, arguments = plan.network
    network = models.build(name, **arguments, seed=draw)
    train_classifier(
        network,
        drawn,
        parse_penalty(arm.penalty),
        recipe=dataclasses.replace(plan.recipe, rate=arm.rate, weight_decay=arm.decay, seed=draw),
        transform=TRANSFORMS[arm.copies],
        running=Running(progress=False),
    )
    kept = range(len(pool) - VALIDATION, len(pool))
    held = _pictures(plan.data, "test") if test else pool.subset(kept)
    return _right(network, held)


@torch.no_grad()
def _right(network: torch.nn.Module, held: data.Pictures) -> float:
    """Return the share of pictures that are classified right, in percent."""
    network.eval()
    device = next(network.parameters()).device
    assert held.labels is not None
    parts = zip(held.images.split(500), held.labels.split(500), strict=True)
    right = sum(
        int((network(images.to(device).float() / 255).argmax(1).cpu() == labels).sum())
        for images, labels in parts
    )
    return 100 * right / len(held)


@functools.cache
def _pictures(name: str, split: str) -> data.Pictures:
    """Return a data set, read once in each process."""
    return data.load(name, split)


def half_deformed(pictures: Tensor) -> Tensor:
    """Return pictures (n, channels, height, width), every other one deformed at random."""
    fields = random_fields(pictures, DISPLACEMENT, GRADIENT)
    changed = (torch.arange(len(pictures), device=pictures.device) % 2 == 0)[:, None, None, None]
    return torch.where(changed, deform(pictures, fields), pictures)


def cropped(pictures: Tensor) -> Tensor:
    """Return pictures (n, channels, height, width), each moved by up to 4 pixels, half mirrored."""
    count, _, height, width = pictures.shape
    wide = F.pad(pictures, (SHIFT,) * 4)
    rows, columns = torch.randint(2 * SHIFT + 1, (2, count, 1))
    rows, columns = rows + torch.arange(height), columns + torch.arange(width)
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = (wide.shape[3] * rows[:, :, None] + columns[:, None, :]).flatten(1)
    index = index[:, None].expand(-1, pictures.shape[1], -1).to(pictures.device)
    return wide.flatten(2).gather(2, index).reshape(pictures.shape)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "": None,
    "deformed": half_deformed,
    "cropped": cropped,
}
