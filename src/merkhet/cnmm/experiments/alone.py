"""Single chains of a mixture trained by themselves: what its operating points are held against."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.cnmm.costs import count_costs
from merkhet.cnmm.estimators import IGNORED, Classes, Recipe
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import Nodes, full_nodes, path_edges
from merkhet.cnmm.objective import Objective, Schedule
from merkhet.core.modes import evaluating
from merkhet.training import Optimisation, Running, TrainingConfig, fit
from merkhet.training.update import adamw

CHUNK = 500


def chain(model: CNMM, nodes: Nodes) -> nn.Sequential:
    """Return a copy of one chain of a mixture, unfolded, to be trained.

    Args:
        model: The mixture.
        nodes: The path.
    """
    parts = [
        stage.block(*edge)
        for stage, own in zip(model.parts(), nodes, strict=True)
        for edge in path_edges(own)
    ]
    return copy.deepcopy(nn.Sequential(model.stem, *parts, model.head))


def train_alone(network: nn.Module, data: Any, recipe: Recipe, ignore: int | None = None) -> None:
    """Train a network in place as `train_mixture` trains a mixture: loss, optimiser, rates.

    Args:
        network: From pictures to class scores, of pictures or of pixels.
        data: Pairs of a picture and its label or mask.
        recipe: As of the mixture.
        ignore: The label of pixels that count for nothing.
    """
    steps = recipe.steps_for(len(data))
    classes = Classes(IGNORED if ignore is None else ignore)
    config = TrainingConfig(
        steps,
        min(recipe.batch_size, len(data)),
        seed=recipe.seed,
        optimisation=Optimisation(recipe.rate, recipe.weight_decay, warmup_steps=steps // 10),
        running=Running(progress=False),
    )
    fit(network, data, lambda module, batch: classes(module(batch[0]), batch[1]), config)


def accuracy_of(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the share of pictures (n, channels, height, width) that are classified as labelled."""
    with evaluating(network):
        found = torch.cat([network(chunk).argmax(1) for chunk in x.split(CHUNK)])
    return float((found == labels).double().mean())


def step_seconds(
    model: CNMM, data: Any, recipe: Recipe, schedule: Schedule, turns: int = 4
) -> dict[str, float]:
    """Return the seconds of a training step, of the mixture and of its longest chain, in turns.

    A turn is a whole cycle of the schedule, so that each kind of step counts as often as in
    training; the median over the turns of the mean step of each, and of their ratio.

    Args:
        model: Fresh; trained a little.
        data: Pairs of a picture and its label.
        recipe: Batches and rates.
        schedule: Of the mixture.
        turns: Cycles, after one that warms up.
    """
    batch = (data.floats(range(recipe.batch_size)), data.labels[: recipe.batch_size])
    optimisation = Optimisation(recipe.rate, recipe.weight_decay)
    objective = Objective(10**6, F.cross_entropy, count_costs(model, batch[0][:1]), schedule)
    longest = chain(model, full_nodes(model.counts)).train()
    cycle = schedule.mixture_every
    both: dict[str, Callable[[int], Tensor]] = {}

    def of_mixture(step: int) -> Tensor:
        objective.at_step(cycle * 10**4 + step)  # gates move
        return objective(model, batch)[0]

    both["mixture"] = of_mixture
    both["longest chain"] = lambda step: F.cross_entropy(longest(batch[0]), batch[1])
    optimisers = {
        "mixture": adamw(model.train(), optimisation),
        "longest chain": adamw(longest, optimisation),
    }
    spent: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(-1, turns):
        for name, loss in both.items():
            start = time.perf_counter()
            for step in range(cycle):
                optimisers[name].zero_grad()
                loss(step).backward()
                optimisers[name].step()
            if turn >= 0:
                spent[name].append((time.perf_counter() - start) / cycle)
    pairs = zip(spent["mixture"], spent["longest chain"], strict=True)
    found = {f"seconds a step, {name}": statistics.median(times) for name, times in spent.items()}
    return {**found, "ratio": statistics.median(one / other for one, other in pairs)}
