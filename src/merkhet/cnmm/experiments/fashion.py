"""One mixture on Fashion-MNIST against networks trained one by one."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

import torch

from merkhet import data
from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.estimators import Recipe, train_mixture
from merkhet.cnmm.experiments.alone import accuracy_of, chain, step_seconds, train_alone
from merkhet.cnmm.experiments.compared import Compared, draw, judge, tell
from merkhet.cnmm.extraction.extract import assemble, extract
from merkhet.cnmm.latency.device import using_threads
from merkhet.cnmm.latency.measure import measure_latency
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_multiscale
from merkhet.cnmm.nodes import full_nodes, parse_nodes, written
from merkhet.cnmm.objective import Schedule
from merkhet.cnmm.points.operating_points import operating_points
from merkhet.cnmm.points.result import OperatingPoints
from merkhet.cnmm.points.scores import Sets
from merkhet.core.timing import interleaved
from merkhet.report import Trial, experiment
from merkhet.training import Running

VALIDATION = 10_000  # the last training pictures, that nothing is trained on
RECALIBRATED = 512  # pictures, for batch norms
LEVELS = 30  # budgets that points are looked for at
BATCH = 16  # pictures at a time, of latencies
# Of accuracy on validation data, of a point over the next cheaper one: a standard error of the
# difference of two networks that disagree on 4 % of 10,000 pictures.
GAIN = 0.002


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        pictures: To train on.
        channels: Of the mixture's states, at each resolution.
        nodes: The resolution of each node.
        stride: Of the stem.
        recipe: Of all trainings.
        schedule: Of the mixture's.
        widths: Factors on the channels of the longest chain, for the networks it is held against.
        seeds: Repeats.
    """

    pictures: int
    channels: tuple[int, ...]
    nodes: tuple[int, ...]
    stride: int
    recipe: Recipe
    schedule: Schedule
    widths: tuple[float, ...]
    seeds: int


NODES = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2)
TURNS = Schedule(mixture_every=32, starts=5)
WIDTHS = (0.25, 0.375, 0.5, 0.75)
PLANS = {
    "small": Plan(
        *(50_000, (16, 32, 64), NODES, 2),
        *(Recipe(epochs=10, rate=8e-3, batch_size=128), TURNS, WIDTHS, 1),
    ),
    "full": Plan(
        *(50_000, (32, 64, 128), NODES, 1),
        *(Recipe(epochs=60, rate=8e-3, batch_size=128), TURNS, WIDTHS, 3),
    ),
}


@experiment
def fashion(trial: Trial) -> None:
    """Operating points of one training against each network trained alone, and narrower ones."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan.seeds))
    trial.record.settings = {"data": "fashion-mnist", **dataclasses.asdict(plan)}
    mixtures = trial.steps({f"mixture {s}": partial(_mixture, plan, s) for s in range(plan.seeds)})
    found = [
        trial.step(f"points {seed}", partial(_points, plan, mixtures[f"mixture {seed}"], seed))
        for seed in range(plan.seeds)
    ]
    every = [OperatingPoints.from_json(one["points"]) for one in found]
    work: dict[str, Any] = {}
    for seed, points in enumerate(every):
        for one in points.points:
            nodes = written(one.nodes)
            work[f"alone {nodes} {seed}"] = partial(_alone, plan, nodes, 1.0, seed)
        longest = written(full_nodes(every[seed].counts))
        for width in plan.widths:
            work[f"width {width} {seed}"] = partial(_alone, plan, longest, width, seed)
    alone = trial.steps(work)
    timed = trial.step("latencies", partial(_latencies, plan, found[0], alone))
    ratio = trial.step("training step", partial(_step_ratio, plan))
    accuracies = {name: one["accuracy"] for name, one in alone.items()}
    drawn = [one["random"] for one in found]
    compared = Compared(every, accuracies, drawn, plan.widths, timed, ratio)
    tell(trial, compared)
    judge(trial, compared)
    trial.record.notes = (
        f"{plan.pictures:,} training pictures, the same epochs, rate and batch for every network. "
        f"Points are found at {LEVELS} budgets of measured latency (batch {BATCH}, one thread), "
        f"chosen on {VALIDATION:,} training pictures that nothing was trained on, each {GAIN:.1%} "
        "or more better there than the next cheaper one, and reported on the 10,000 test pictures. "
        "alone: the same chain of blocks trained by itself, from its own "
        "first weights, without a teacher (the mixture's networks are distilled from it). "
        "narrower: the longest chain with fewer channels, trained alone; latencies between two are "
        "interpolated in their log. random: the mean of 5 paths drawn within 10 % of a point's "
        "latency."
    )
    trial.picture(draw(compared, f"milliseconds, batch {BATCH}"))


def _network(plan: Plan, seed: int, width: float = 1.0) -> CNMM:
    """Return a fresh mixture."""
    channels = [max(1, round(width * number)) for number in plan.channels]
    return cnmm_multiscale(1, 10, channels, plan.nodes, stride=plan.stride, seed=seed)


@functools.cache
def _pictures(split: str) -> data.Pictures:
    """Return Fashion-MNIST, read once in each process."""
    return data.load("fashion-mnist", split)


def _train(plan: Plan, seed: int) -> data.Pictures:
    """Return the pictures that networks are trained on."""
    whole = _pictures("train")
    return whole.subset(range(len(whole) - VALIDATION)).sample(plan.pictures, seed)


def _sets(plan: Plan, seed: int) -> Sets:
    """Return the data that points are chosen and reported on."""
    whole, test = _pictures("train"), _pictures("test")
    held = whole.subset(range(len(whole) - VALIDATION, len(whole)))
    assert held.labels is not None
    assert test.labels is not None
    train = _train(plan, seed).floats()[:RECALIBRATED]
    return Sets(train, (held.floats(), held.labels), (test.floats(), test.labels))


def _mixture(plan: Plan, seed: int) -> dict[str, Any]:
    """Train the mixture; return its weights and how its gates stand."""
    model = _network(plan, seed)
    recipe = dataclasses.replace(plan.recipe, seed=seed)
    result = train_mixture(
        model, _train(plan, seed), recipe, plan.schedule, running=Running(progress=False)
    )
    gates = [logits.sigmoid().tolist() for logits in model.logits()]
    return {"weights": model.state_dict(), "gates": gates, "seconds": result.seconds}


def _points(plan: Plan, trained: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the points of a trained mixture, and what random paths of equal latency give."""
    model = _network(plan, seed)
    model.load_state_dict(trained["weights"])
    sets = _sets(plan, seed)
    table = measure_latency(model.eval(), sets.test[0], batch=BATCH, threads=1)
    found = operating_points(model, table, LEVELS, sets, gain=GAIN, progress=False)
    draw = torch.Generator().manual_seed(seed)
    drawn = [_random(model, table.costs, one.cost, sets, draw) for one in found.points]
    spent = [[[i, j, seconds] for (i, j), seconds in stage.items()] for stage in table.costs.edges]
    return {"points": found.to_json(), "random": drawn, "fixed": table.costs.fixed, "edges": spent}


def _random(
    model: CNMM, table: CostTable, cost: float, sets: Sets, draw: torch.Generator
) -> list[float]:
    """Return the test accuracies of five paths drawn within a tenth of a cost."""
    assert sets.train is not None
    seen: dict[Any, float] = {}
    for _ in range(3000):
        nodes = tuple(gates.nodes for gates in model.sweep(1e6, draw))
        if len(seen) < 5 and nodes not in seen and abs(table.of_path(nodes) / cost - 1) < 0.1:
            seen[nodes] = accuracy_of(extract(model, nodes, sets.train.split(128)), *sets.test)
    return list(seen.values())


def _alone(plan: Plan, nodes: str, width: float, seed: int) -> dict[str, Any]:
    """Train one chain by itself; return its test accuracy and its weights."""
    model = _network(plan, seed + 100, width)
    network = chain(model, parse_nodes(nodes, model.counts))
    train_alone(network, _train(plan, seed), dataclasses.replace(plan.recipe, seed=seed))
    test = _pictures("test")
    assert test.labels is not None
    found = accuracy_of(network.eval(), test.floats(), test.labels)
    return {"accuracy": found}


@torch.no_grad()
def _latencies(plan: Plan, found: dict[str, Any], alone: dict[str, Any]) -> dict[str, float]:
    """Return measured seconds of points and of the narrower networks, in turns."""
    points = OperatingPoints.from_json(found["points"])
    x = _pictures("test").floats(range(BATCH))
    model = _network(plan, 0).eval()
    runs: dict[str, Any] = {
        f"point {written(one.nodes)}": partial(assemble(model, one.nodes), x)
        for one in points.points
    }
    for width in plan.widths:
        narrow = _network(plan, 0, width).eval()
        runs[f"width {width}"] = partial(assemble(narrow, full_nodes(narrow.counts)), x)
    with using_threads(1):
        return {name: median for name, (median, _) in interleaved(runs, 40).items()}


def _step_ratio(plan: Plan) -> dict[str, float]:
    """Return seconds of a step of the mixture's training, on average, and of the longest chain."""
    return step_seconds(_network(plan, 0), _train(plan, 0), plan.recipe, plan.schedule)
