"""What a network keeps of a picture: reconstructions against the step of the pooling."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
from torch import Tensor

from merkhet import data
from merkhet.ckn import CKN
from merkhet.ckn.reconstruction import reconstruct
from merkhet.core.intervals import bootstrap
from merkhet.report import Trial, experiment

# Pictures fitted to and measured on, patches drawn a layer, steps of the descent, filters.
PLANS: dict[str, dict[str, Any]] = {
    "small": {"train": 2000, "test": 32, "patches": 20_000, "descent": 60, "filters": (32, 64)},
    "full": {"train": 60000, "test": 512, "patches": 500_000, "descent": 300, "filters": (64, 256)},
}
STEPS = (1, 2, 3, 4, 6, 8)  # of the last layer's pooling, in positions of its maps
SCALE = 2  # of the pooling, where it is fixed; otherwise it is the step
SIDES = (3, 5)
LAYERS = {1: "one layer", 2: "two layers"}
SCALES = ("fixed", "growing")
KINDS = ("linear", "descent")
SMALL, GROWTH = {1: 0.1, 2: 0.2}, 3.0
SHOWN = 8


@experiment
def recovery(trial: Trial) -> None:
    """Pictures rebuilt from their representations: well while patches overlap, then worse."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {"data": "fashion-mnist", "steps": list(STEPS), "scale": SCALE, **plan}
    found = {
        (layers, side, scale, step): trial.step(
            f"{_name(layers, side, scale)}, step {step}",
            partial(_rebuilt, layers, side, _pooling(scale, step), plan),
        )
        for layers, side, scale, step in itertools.product(LAYERS, SIDES, SCALES, STEPS)
    }
    for (layers, side, scale, step), one in found.items():
        for kind in KINDS:
            errors, name = one[kind], f"{_name(layers, side, scale)}, {kind}, step {step}"
            trial.figure(name, float(errors.mean()), interval=bootstrap(errors))
    for layers, side in itertools.product(LAYERS, SIDES):
        _goals(trial, layers, side)
    trial.record.notes = (
        "Error: |found - picture| / |picture|, its mean over test pictures with the bootstrap "
        "interval over these; one network a setting, fitted without labels. linear: the decoder "
        "alone; descent: with L-BFGS after it. Two layers: the first has patches of 3 and pools by "
        "2; side and pooling are those of the second, whose positions are two pixels apart. "
        "Windows of the fixed scale reach two positions further than the patches on each side: "
        "patches of 3 leave gaps from step 8 on. A growing scale of 1 pools nothing."
    )
    trial.picture(_pictures_drawn(found))
    trial.picture(_errors_drawn(trial), "_errors")


def _name(layers: int, side: int, scale: str) -> str:
    """Return a setting in words."""
    return f"{LAYERS[layers]}, patches of {side}, {scale} scale"


def _pooling(scale: str, step: int) -> tuple[int, int]:
    """Return scale and step of the last layer's pooling."""
    return (SCALE if scale == "fixed" else step), step


def _rebuilt(
    layers: int, side: int, pooling: tuple[int, int], plan: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the error of each test picture, by the decoder and after descent, and the first few.

    Args:
        layers: 1 or 2.
        side: Of the last layer's patches.
        pooling: Its scale and step.
        plan: The trial's numbers.
    """
    train = data.load("fashion-mnist", "train", limit=plan["train"]).images
    pictures = data.load("fashion-mnist", "test", limit=plan["test"]).floats()
    all_sides, pools = (3, side), [(2, 2), pooling]
    network = CKN(1, plan["filters"][-layers:], all_sides[-layers:], pools[-layers:])
    network.fit_unsupervised(train, patches=plan["patches"], progress=False)
    features, size = network.encode(pictures), pictures.shape[2:]
    out = {"pictures": pictures[:SHOWN]}
    for kind, steps in zip(KINDS, (0, plan["descent"]), strict=True):
        images = reconstruct(network, features, size, images=train, steps=steps).images
        apart = (images - pictures).flatten(1).double().norm(dim=1)
        out[kind] = apart / pictures.flatten(1).double().norm(dim=1)
    return {**out, "rebuilt": images[:SHOWN]}


def _goals(trial: Trial, layers: int, side: int) -> None:
    """Record whether the error is small while the patches overlap, and grows after."""
    for scale in SCALES:
        name = _name(layers, side, scale)
        values = {
            step: trial.record.figures[f"{name}, descent, step {step}"].value for step in STEPS
        }
        worst = max(value for step, value in values.items() if step <= side)
        goal = f"{name}: error at steps up to {side}"
        trial.goal(goal, f"below {SMALL[layers]}", round(worst, 4), worst < SMALL[layers])
        growth = values[STEPS[-1]] / worst
        goal = f"{name}: error at step {STEPS[-1]} over the largest up to {side}"
        trial.goal(goal, f"{GROWTH:g} or more", round(growth, 2), growth >= GROWTH)


def _pictures_drawn(found: dict[tuple[int, int, str, int], dict[str, Tensor]]) -> Any:
    """Draw pictures, and below them what comes back at each step, at the fixed scale."""
    from merkhet.report.figures import figure

    made, axes = figure(2, 2, width=5.2, height=4.6)
    for axis, (layers, side) in zip(axes, itertools.product(LAYERS, SIDES), strict=True):
        rows = [found[layers, side, SCALES[0], step]["rebuilt"] for step in STEPS]
        sheet = _sheet([found[layers, side, SCALES[0], STEPS[0]]["pictures"], *rows])
        height = len(sheet) / (1 + len(STEPS))
        axis.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1)
        places = [height * (row + 0.5) for row in range(1 + len(STEPS))]
        axis.set_yticks(places, ["picture", *(f"step {step}" for step in STEPS)])
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.set_title(_name(layers, side, SCALES[0]), fontsize=9)
    return made


def _sheet(rows: list[Tensor]) -> Tensor:
    """Return rows of pictures (n, 1, height, width) as one picture."""
    shown = [torch.cat(list(row[:, 0]), -1) for row in rows]
    return torch.cat(shown).float().clamp(0, 1)


def _errors_drawn(trial: Trial) -> Any:
    """Draw the error against the step, by scale and kind."""
    from merkhet.report.figures import COLOURS, figure

    made, axes = figure(2, 2, width=4.4, height=3.0)
    for axis, (layers, side) in zip(axes, itertools.product(LAYERS, SIDES), strict=True):
        for (scale, colour), kind in itertools.product(zip(SCALES, COLOURS, strict=False), KINDS):
            name = f"{_name(layers, side, scale)}, {kind}"
            shown = [trial.record.figures[f"{name}, step {step}"] for step in STEPS]
            ends = [one.interval or (one.value, one.value) for one in shown]
            lows, highs = [low for low, _ in ends], [high for _, high in ends]
            style = "o-" if kind == "descent" else "o:"
            values = [one.value for one in shown]
            axis.fill_between(STEPS, lows, highs, alpha=0.2, color=colour)
            axis.plot(STEPS, values, style, ms=3, color=colour, label=f"{scale} scale, {kind}")
        axis.axvline(side, color="#999999", linewidth=0.8)
        axis.set(yscale="log", xlabel="step (line: side of the patches)", ylabel="relative error")
        axis.set_title(f"{LAYERS[layers]}, patches of {side}", fontsize=9)
    axes[0].legend(frameon=False, fontsize=7)
    return made
