"""Batch-norm statistics of single networks: the mixture's, and measured on a few pictures."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from merkhet import data
from merkhet.cnmm.costs import count_costs
from merkhet.cnmm.estimators import Recipe, train_mixture
from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier
from merkhet.cnmm.nodes import Nodes, full_nodes, shortest_nodes, written
from merkhet.cnmm.points.search import best_paths
from merkhet.cnmm.recalibration import recalibrated
from merkhet.core.intervals import student
from merkhet.report import Record, Trial, experiment
from merkhet.training import Running

PICTURES = (32, 128, 512, 2048)
SHARES = (0.25, 0.5, 0.75)  # between the cheapest path and the dearest
RANDOM = 3
BATCH = 128
OWN = "mixture's statistics"
ALLOWED = 1.0  # points that 512 pictures may lose against 2,048
NAMES = (
    *("shortest", "longest"),
    *(f"likeliest at {share:.0%} of the costs" for share in SHARES),
    *(f"random {number}" for number in range(1, RANDOM + 1)),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        pictures: Training pictures.
        recipe: Of the training.
        tested: Test pictures.
        channels: Of the states of each stage.
        nodes: Of each stage.
        seeds: How many.
    """

    pictures: int
    recipe: Recipe
    tested: int
    channels: tuple[int, ...]
    nodes: int
    seeds: int


PLANS = {
    "small": Plan(25_600, Recipe(epochs=1, rate=2e-2), 5000, (8, 16, 32), 4, 3),
    "full": Plan(60_000, Recipe(epochs=10), 10_000, (16, 32, 64), 5, 5),
}


@experiment
def recalibration(trial: Trial) -> None:
    """Accuracy of single networks by where their batch-norm statistics come from."""
    plan = PLANS[trial.size]
    seeds = list(range(plan.seeds))
    trial.record.seeds = seeds
    settings = {"data": "fashion-mnist", **dataclasses.asdict(plan), "stride": 2}
    work = {
        f"{norm}, seed {seed}": partial(_measured, plan, norm, seed)
        for norm in ("batch", "group")
        for seed in seeds
    }
    found = trial.steps(work)
    batch = [found[f"batch, seed {seed}"] for seed in seeds]
    group = [found[f"group, seed {seed}"] for seed in seeds]
    paths = {seed: one["paths"] for seed, one in zip(seeds, batch, strict=True)}
    trial.record.settings = settings | {"paths by seed, batch norm": paths}
    _tell(trial, batch, group)
    _tell_losses(trial, batch)
    _tell_variances(trial, batch)
    trial.record.notes = (
        "Networks of one mixture each for batch norm and group norm. mixture's statistics: the "
        "running ones that training left. 32 ... 2048 pictures: means and variances measured on "
        "so many training pictures, in the network itself; no weight changes. points lost: "
        "accuracy on 2,048 pictures minus that named, over all networks and seeds. variance: of "
        "the states after a stage, over pictures and pixels, mean over the channels, in the "
        "mixture and in its longest network, each with its own statistics. Random networks are "
        "drawn with even chances: training rarely saw them. Intervals are Student's over seeds of "
        f"first weights, pictures, order and random networks. {plan.tested:,} test pictures: "
        "nothing was picked on them; the small size's rate was, on held-out training pictures."
    )
    trial.picture(_draw(trial.record))


def _measured(plan: Plan, norm: str, seed: int) -> dict[str, Any]:
    """Return accuracies of the networks of one mixture, and variances of their states."""
    pool = _pictures("train").sample(plan.pictures, seed)
    test = _pictures("test").sample(plan.tested, seed=0)
    model = cnmm_classifier(1, 10, plan.channels, plan.nodes, norm=norm, stride=2, seed=seed)
    seen = pool.floats(range(min(max(PICTURES), len(pool))))
    fresh = _variances(model, seen)
    recipe = dataclasses.replace(plan.recipe, seed=seed)
    train_mixture(model, pool, recipe, running=Running(progress=False))
    model = copy.deepcopy(model).cpu().eval()
    paths = _paths(model, test.floats([0]), seed)
    sizes = PICTURES if norm == "batch" else ()
    accuracy = {name: _accuracies(model, nodes, seen, sizes, test) for name, nodes in paths.items()}
    return {
        "paths": {name: written(nodes) for name, nodes in paths.items()},
        "accuracy": accuracy,
        "mixture": _right(model, model.mixture(), test),
        "variances": {"fresh": fresh, "trained": _variances(model, seen)},
    }


@functools.cache
def _pictures(split: str) -> data.Pictures:
    """Return Fashion-MNIST, read once in each process."""
    return data.load("fashion-mnist", split)


def _paths(model: CNMM, example: Tensor, seed: int) -> dict[str, Nodes]:
    """Return the networks that are looked at, by name."""
    table = count_costs(model, example)
    low, high = table.range()
    likely = best_paths(model, table, best=1)
    draw = random.Random(seed)
    found = [shortest_nodes(model.counts), full_nodes(model.counts)]
    for share in SHARES:
        wanted = low + share * (high - low)
        found.append(min(likely, key=lambda one: abs(one.cost - wanted)).nodes)
    for _ in range(RANDOM):
        kept = [[node for node in range(1, n - 1) if draw.random() < 0.5] for n in model.counts]
        pairs = zip(kept, model.counts, strict=True)
        found.append(tuple((0, *inner, n - 1) for inner, n in pairs))
    return dict(zip(NAMES, found, strict=True))


def _accuracies(
    model: CNMM, nodes: Nodes, seen: Tensor, sizes: Sequence[int], test: data.Pictures
) -> dict[str, float]:
    """Return the accuracy of one network in percent, by where its statistics come from."""
    gates = model.path(nodes)
    found = {OWN: _right(model, gates, test)}
    for size in sizes:
        own = recalibrated(model, gates, seen[:size].split(BATCH)).eval()
        found[str(size)] = _right(own, gates, test)
    return found


@torch.no_grad()
def _right(model: CNMM, gates: Sequence[Gates], test: data.Pictures) -> float:
    """Return the share of test pictures that are right, in percent."""
    assert test.labels is not None
    classes = torch.cat([model(x, gates).argmax(1) for x in test.floats().split(1000)])
    return 100 * float((classes == test.labels).double().mean())


def _variances(model: CNMM, seen: Tensor) -> dict[str, list[float]]:
    """Return the variance of the states after each stage, in the mixture and in one network."""
    every = {"mixture": model.mixture(), "longest network": model.path(full_nodes(model.counts))}
    return {
        of: _spread(recalibrated(model, gates, seen.split(BATCH)).eval(), gates, seen)
        for of, gates in every.items()
    }


@torch.no_grad()
def _spread(model: CNMM, gates: Sequence[Gates], seen: Tensor) -> list[float]:
    """Return the variance of the last node's states of each stage, mean over the channels."""
    x, found = model.stem(seen), []
    for stage, own in zip(model.parts(), gates, strict=True):
        x = stage(x, own)
        found.append(float(x.double().var((0, 2, 3)).mean()))
    return found


def _tell(trial: Trial, batch: Sequence[Any], group: Sequence[Any]) -> None:
    """Record accuracies, over seeds."""
    for name in NAMES:
        for of in (OWN, *map(str, PICTURES)):
            told = of if of == OWN else f"{of} pictures"
            values = [one["accuracy"][name][of] for one in batch]
            _figure(trial, f"accuracy, {name}, {told}", values, "%")
        values = [one["accuracy"][name][OWN] for one in group]
        _figure(trial, f"accuracy, {name}, group norm", values, "%")
    for norm, rows in (("batch", batch), ("group", group)):
        _figure(trial, f"accuracy, mixture, {norm} norm", [one["mixture"] for one in rows], "%")


def _tell_losses(trial: Trial, batch: Sequence[Any]) -> None:
    """Record the points that are lost against the most pictures, and judge those of 512."""
    most = str(PICTURES[-1])
    for of in (OWN, *map(str, PICTURES[:-1])):
        told = of if of == OWN else f"{of} pictures"
        by_seed = [[row[most] - row[of] for row in one["accuracy"].values()] for one in batch]
        means = [sum(lost) / len(lost) for lost in by_seed]
        worst = max(loss for lost in by_seed for loss in lost)
        _figure(trial, f"points lost, mean, {told}", means, "points")
        trial.figure(f"points lost, most, {told}", worst, "points")
    worst = trial.record.figures["points lost, most, 512 pictures"].value
    goal = "recalibrated on 512 pictures: points lost against 2,048, at most"
    trial.goal(goal, f"at most {ALLOWED:g}", worst, worst <= ALLOWED)


def _tell_variances(trial: Trial, batch: Sequence[Any]) -> None:
    """Record the variances of the states after each stage, over seeds."""
    for when, of in itertools.product(("fresh", "trained"), ("mixture", "longest network")):
        by_stage = zip(*(one["variances"][when][of] for one in batch), strict=True)
        for stage, values in enumerate(by_stage):
            _figure(trial, f"variance after stage {stage}, {of}, {when}", values, "")


def _figure(trial: Trial, name: str, values: Sequence[float], unit: str) -> None:
    """Record a mean over seeds with its interval."""
    interval = student(values) if len(values) > 1 else None
    trial.figure(name, sum(values) / len(values), unit, interval)


def _draw(record: Record) -> Any:
    """Draw mean accuracy by where statistics come from, a line for each network."""
    from merkhet.report.figures import COLOURS, figure

    made, (axis,) = figure(width=7.6, height=4.2)
    named = {8: OWN} | {size: f"{size} pictures" for size in PICTURES}
    ticks = {8: "the\nmixture's", **{size: str(size) for size in PICTURES}, 8192: "group\nnorm"}
    figures = record.figures
    for name, colour in zip(NAMES, COLOURS, strict=True):
        means = [figures[f"accuracy, {name}, {told}"].value for told in named.values()]
        axis.plot(list(named), means, "o-", color=colour, label=name)
        axis.plot([8192], [figures[f"accuracy, {name}, group norm"].value], "s", color=colour)
    axis.set(xscale="log", xlabel="training pictures that statistics are measured on")
    axis.set_ylabel("test accuracy, mean over seeds, %")
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return made
