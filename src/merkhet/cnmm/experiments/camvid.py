"""One mixture on street scenes: mean IoU against cost, and some networks trained alone."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from merkhet import data
from merkhet.cnmm.costs import count_costs
from merkhet.cnmm.estimators import Recipe, train_mixture
from merkhet.cnmm.experiments.alone import chain, train_alone
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_segmenter
from merkhet.cnmm.nodes import parse_nodes, written
from merkhet.cnmm.objective import Schedule
from merkhet.cnmm.points.operating_points import operating_points
from merkhet.cnmm.points.result import OperatingPoints
from merkhet.cnmm.points.scores import Sets
from merkhet.report import Trial, experiment
from merkhet.training import Running, confusion_matrix, mean_iou

LEVELS = 8
COMPARED = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        size: (height, width) of the pictures.
        channels: By resolution, from half the picture's on.
        nodes: The resolution of each node of the stage.
        recipe: Of all trainings.
        schedule: Of the mixture's.
        compared: Points whose networks are trained alone.
    """

    size: tuple[int, int]
    channels: tuple[int, ...]
    nodes: tuple[int, ...]
    recipe: Recipe
    schedule: Schedule
    compared: int


TURNS = Schedule(mixture_every=8)
PLANS = {
    "small": Plan(
        *((96, 128), (8, 16, 32), (1, 2, 2, 2, 1)),
        *(Recipe(epochs=40, batch_size=16), TURNS, COMPARED),
    ),
    "full": Plan(
        *((176, 240), (32, 64, 128, 256), (1, 2, 3, 3, 3, 2, 1)),
        *(Recipe(epochs=300, batch_size=8), TURNS, COMPARED),
    ),
}


@experiment
def camvid(trial: Trial) -> None:
    """Street scenes: operating points of one mixture by multiply-adds, in mean IoU."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {"data": "camvid", **dataclasses.asdict(plan)}
    trained = trial.step("mixture", partial(_mixture, plan))
    text = trial.step("points", partial(_points, plan, trained))
    points = OperatingPoints.from_json(text)
    places = np.unique(np.linspace(0, len(points.points) - 1, plan.compared).round().astype(int))
    names = [written(points.points[place].nodes) for place in places]
    alone = trial.steps({name: partial(_alone, plan, name) for name in names})
    for one in points.points:
        low, high = one.interval or (one.test, one.test)
        name = written(one.nodes)
        trial.figure(f"{name}: mean IoU", 100 * one.test, "%", (100 * low, 100 * high))
        trial.figure(f"{name}: multiply-adds", one.cost / 1e6, "M")
    gaps = []
    for place, name in zip(places, names, strict=True):
        trial.figure(f"{name}, trained alone: mean IoU", 100 * alone[name], "%")
        gaps.append(100 * (alone[name] - points.points[place].test))
    trial.figure("points of mean IoU lost against the same network alone, at most", max(gaps))
    rising = all(one.test <= other.test for one, other in pairwise(points.points))
    trial.goal("mean IoU on test scenes rises with cost", "at every point", str(rising), rising)
    height, width = plan.size
    trial.record.notes = (
        f"367 scenes of {width}x{height} to train on, 101 to choose points by, 233 to report on; "
        "classes 0 to 10, void ignored; one global count over present classes, intervals by "
        "bootstrap over scenes (neighbours in a film are alike, so they are short). No "
        "augmentation, no weights of classes; first weights random. alone: the same chain trained "
        "by itself for the same epochs, without a teacher."
    )
    trial.picture(_draw(points, names, places, alone))
    trial.picture(_scenes_drawn(plan, trained, points), "_scenes")


@functools.cache
def _scenes(split: str, size: tuple[int, int]) -> Any:
    """Return the scenes of a split, read once in each process."""
    return data.load_segmentation("camvid", split, size=size)


def _network(plan: Plan, seed: int = 0) -> CNMM:
    """Return a fresh mixture."""
    return cnmm_segmenter(3, 11, plan.channels, plan.nodes, seed=seed)


def _mixture(plan: Plan) -> dict[str, torch.Tensor]:
    """Train the mixture; return its weights."""
    model, scenes = _network(plan), _scenes("train", plan.size)
    running = Running(progress=False)
    train_mixture(model, scenes, plan.recipe, plan.schedule, ignore=scenes.ignore, running=running)
    return model.state_dict()


def _points(plan: Plan, weights: dict[str, torch.Tensor]) -> str:
    """Return the points of the trained mixture, as JSON."""
    model = _network(plan)
    model.load_state_dict(weights)
    parts = {split: _scenes(split, plan.size) for split in ("train", "val", "test")}
    pairs = {name: (one.floats(), one.masks.long()) for name, one in parts.items()}
    sets = Sets(pairs["train"][0], pairs["val"], pairs["test"], parts["train"].ignore)
    table = count_costs(model, pairs["val"][0][:1])
    return operating_points(model.eval(), table, LEVELS, sets, progress=False).to_json()


def _alone(plan: Plan, nodes: str) -> float:
    """Train one chain by itself; return its mean IoU on the test scenes."""
    model = _network(plan, seed=100)
    network = chain(model, parse_nodes(nodes, model.counts))
    scenes, test = _scenes("train", plan.size), _scenes("test", plan.size)
    train_alone(network, scenes, plan.recipe, scenes.ignore)
    count = confusion_matrix(network.eval(), test, len(test.classes), ignore_index=test.ignore)
    return mean_iou(count)


def _draw(points: OperatingPoints, names: list[str], places: Any, alone: dict[str, float]) -> Any:
    """Draw mean IoU against multiply-adds."""
    from merkhet.cnmm.pictures import draw_curve, plain_ticks
    from merkhet.report.figures import COLOURS, figure

    made, (axis,) = figure(width=6.4, height=4.0)
    draw_curve(axis, points, "one mixture, one training", color=COLOURS[0])
    axis.plot(
        [points.points[place].cost / 1e6 for place in places],
        [100 * alone[name] for name in names],
        *("s",),
        color=COLOURS[1],
        label="the same networks, trained alone",
    )
    axis.set(xscale="log", xlabel="million multiply-adds", ylabel="mean IoU, %")
    axis.legend(frameon=False)
    plain_ticks(axis)
    return made


def _scenes_drawn(plan: Plan, weights: dict[str, torch.Tensor], points: OperatingPoints) -> Any:
    """Draw three test scenes, their labels, and what the cheapest and dearest networks say."""
    from merkhet.cnmm.extraction.extract import extract
    from merkhet.report.figures import figure

    model = _network(plan)
    model.load_state_dict(weights)
    train = _scenes("train", plan.size).floats(range(256)).split(64)
    test = _scenes("test", plan.size).subset([20, 110, 200])
    x, masks = test.floats(), test.masks.long()
    rows: list[tuple[str, torch.Tensor]] = [("scene", x.permute(0, 2, 3, 1)), ("labels", masks)]
    for name, one in (("cheapest", points.points[0]), ("dearest", points.points[-1])):
        with torch.no_grad():
            rows.append((name, extract(model, one.nodes, train)(x).argmax(1)))
    made, axes = figure(len(x), len(rows), width=2.2, height=1.7)
    for place, axis in enumerate(axes):
        scene, column = divmod(place, len(rows))
        name, shown = rows[column]
        picture = shown[scene]
        if name != "scene":
            picture = picture.masked_fill(masks[scene] == test.ignore, test.ignore)
            axis.imshow(picture.numpy(), cmap="tab20", vmin=0, vmax=19, interpolation="nearest")
        else:
            axis.imshow(picture.numpy())
        axis.set_axis_off()
        if not scene:
            axis.set_title(name)
    return made
