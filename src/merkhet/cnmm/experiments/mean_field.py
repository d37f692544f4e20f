"""The mixture's output by the mean field against the exact mean of all its networks."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merkhet import data
from merkhet.cnmm.enumeration import expectation, probabilities
from merkhet.cnmm.estimators import Recipe, train_mixture
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier
from merkhet.cnmm.recalibration import recalibrated
from merkhet.core.intervals import student
from merkhet.report import Trial, experiment
from merkhet.training import Running

AFFINE = "affine"
KINDS: dict[str, dict[str, str]] = {
    "ReLU, batch norm": {},
    "GELU, batch norm": {"activation": "gelu"},
    "ReLU, group norm": {"norm": "group"},
    "residual, batch norm": {"kind": "residual"},
    AFFINE: {},
}
TIMES = ("fresh", "trained")
UNITS = {
    "error": "%",
    "error against recalibrated networks": "%",
    "total variation": "",
    "agreement": "%",
    "accuracy of the mean field": "%",
    "accuracy of the exact mean": "%",
    "accuracy of the mean of recalibrated networks": "%",
    "mean accuracy of recalibrated networks": "%",
}
ROUNDING = 1e-7  # the most that affine blocks may be off, of the exact mean's norm


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        pictures: Training pictures.
        recipe: Of the training.
        calibration: Training pictures that batch-norm statistics are measured on.
        tested: Test pictures.
        channels: Of the states of each stage.
        nodes: Of each stage.
        seeds: How many.
    """

    pictures: int
    recipe: Recipe
    calibration: int
    tested: int
    channels: tuple[int, ...]
    nodes: int
    seeds: int


PLANS = {
    "small": Plan(25_600, Recipe(epochs=1, rate=2e-2), 512, 1000, (8, 16), 4, 3),
    "full": Plan(60_000, Recipe(epochs=10), 2048, 10_000, (16, 32), 5, 5),
}


@experiment
def mean_field(trial: Trial) -> None:
    """Mean field against the mean of all networks run one by one, fresh and trained."""
    plan = PLANS[trial.size]
    seeds = list(range(plan.seeds))
    trial.record.seeds = seeds
    trial.record.settings = {
        **{"data": "fashion-mnist", **dataclasses.asdict(plan), "kinds": KINDS},
        **{"networks": 2 ** (len(plan.channels) * (plan.nodes - 2)), "stride": 2},
    }
    work = {
        f"{kind}, seed {seed}": partial(_measured, plan, kind, seed)
        for kind in KINDS
        for seed in seeds
    }
    found = trial.steps(work)
    for kind in KINDS:
        for when in TIMES:
            _tell(trial, f"{kind}, {when}", [found[f"{kind}, seed {s}"][when] for s in seeds])
    _judge(trial, found)
    trial.record.notes = (
        "error: norm of the mean field's logits minus those of the exact mean (every network run "
        "by itself, weighted by its probability) over the norm of the exact mean's. total "
        "variation and agreement: of the two's class probabilities and predicted classes. All of "
        "these networks use one set of batch-norm statistics, the mixture's, measured on "
        f"{plan.calibration} training pictures; recalibrated networks have their own. mean "
        "accuracy: of the single networks, weighted by their probability. affine: plain blocks "
        "without activation, in float64; the others in float32. Intervals are Student's over seeds "
        f"of first weights, training pictures and their order. {plan.tested:,} test pictures; the "
        "small size's rate was picked on held-out training pictures."
    )
    trial.picture(_draw(trial))


def _measured(plan: Plan, kind: str, seed: int) -> dict[str, dict[str, float]]:
    """Return what the mean field is worth before and after the training of one mixture."""
    pool = _pictures("train").sample(plan.pictures, seed)
    test = _pictures("test").sample(plan.tested, seed=0)
    seen = pool.floats(range(plan.calibration))
    model = _built(plan, kind, seed)
    dtype = torch.float64 if kind == AFFINE else torch.float32  # float64 is slow
    compare = partial(_compared, seen=seen, test=test, dtype=dtype)
    fresh = compare(model)
    recipe = dataclasses.replace(plan.recipe, seed=seed)
    train_mixture(model, pool, recipe, running=Running(progress=False))
    return {"fresh": fresh, "trained": compare(model)}


@functools.cache
def _pictures(split: str) -> data.Pictures:
    """Return Fashion-MNIST, read once in each process."""
    return data.load("fashion-mnist", split)


def _built(plan: Plan, kind: str, seed: int) -> CNMM:
    """Return a fresh mixture of a kind."""
    given: Mapping[str, Any] = KINDS[kind]
    model = cnmm_classifier(1, 10, plan.channels, plan.nodes, stride=2, seed=seed, **given)
    if kind == AFFINE:
        for stage in model.parts():
            for block in stage.blocks.values():
                assert isinstance(block, nn.Sequential)
                block[-1] = nn.Identity()
    return model


@torch.no_grad()
def _compared(
    model: CNMM, seen: Tensor, test: data.Pictures, dtype: torch.dtype
) -> dict[str, float]:
    """Return errors and accuracies.

    Args:
        model: Left as it is.
        seen: Training pictures, for the statistics of batch norms.
        test: Pictures to compare on.
        dtype: To compute in.
    """
    batches = seen.to(dtype).split(128)
    mixture = copy.deepcopy(model).cpu().to(dtype)
    mixture = recalibrated(mixture, mixture.mixture(), batches).eval()
    assert test.labels is not None
    x, labels = test.floats().to(dtype), test.labels
    mean, exact = _in_pieces(mixture, x), _in_pieces(partial(expectation, mixture), x)
    chances = probabilities(mixture)
    own = []
    for path in chances:
        gates = mixture.path(path)
        network = recalibrated(mixture, gates, batches).eval()
        own.append(_in_pieces(partial(network, gates=gates), x))
    pairs = list(zip(chances.values(), own, strict=True))
    ensemble = torch.stack([chance * output for chance, output in pairs]).sum(0)
    return {
        "error": 100 * _relative(mean, exact),
        "error against recalibrated networks": 100 * _relative(mean, ensemble),
        "total variation": float((mean.softmax(1) - exact.softmax(1)).abs().sum(1).mean() / 2),
        "agreement": _right(mean, exact.argmax(1)),
        "accuracy of the mean field": _right(mean, labels),
        "accuracy of the exact mean": _right(exact, labels),
        "accuracy of the mean of recalibrated networks": _right(ensemble, labels),
        "mean accuracy of recalibrated networks": sum(
            chance * _right(output, labels) for chance, output in pairs
        ),
    }


def _in_pieces(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the outputs for many pictures."""
    return torch.cat([run(piece) for piece in x.split(500)])


def _relative(one: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of what is exact."""
    return float((one - exact).norm() / exact.norm())


def _right(logits: Tensor, labels: Tensor) -> float:
    """Return the share of pictures with the given labels, in percent."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def _tell(trial: Trial, of: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Record the figures of one kind at one time, over seeds."""
    for what, unit in UNITS.items():
        values = [row[what] for row in rows]
        interval = student(values) if len(values) > 1 else None
        trial.figure(f"{what}, {of}", sum(values) / len(values), unit, interval)


def _judge(trial: Trial, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Record whether the mean field is exact for affine blocks."""
    own = [one for name, one in found.items() if name.startswith(f"{AFFINE}, ")]
    worst = max(one[when]["error"] / 100 for one in own for when in TIMES)
    goal = "relative error of the mean field's logits, affine blocks, at most"
    trial.goal(goal, f"below {ROUNDING:g}", worst, worst < ROUNDING)


def _draw(trial: Trial) -> Any:
    """Draw errors before and after training, and accuracies after it."""
    from merkhet.report.figures import figure
    from merkhet.report.lines import draw_line

    made, (errors, accuracy) = figure(columns=2, width=4.8, height=3.6)
    kinds = [kind for kind in KINDS if kind != AFFINE]
    places = range(len(kinds))
    for shift, when in zip((-0.1, 0.1), TIMES, strict=True):
        names = [f"error, {kind}, {when}" for kind in kinds]
        at = [place + shift for place in places]
        draw_line(errors, trial.record, at, names, when, linestyle="", markersize=5)
    for shift, what in zip((-0.15, 0, 0.15), list(UNITS)[4:7], strict=True):
        names = [f"{what}, {kind}, trained" for kind in kinds]
        at = [place + shift for place in places]
        label = what.removeprefix("accuracy of the ")
        draw_line(accuracy, trial.record, at, names, label, linestyle="", markersize=5)
    for axis in (errors, accuracy):
        axis.set_xticks(list(places), [kind.replace(", ", ",\n") for kind in kinds], fontsize=8)
        axis.legend(frameon=False, fontsize=7)
    errors.set(ylabel="relative error of the logits, %", title="Mean field against exact mean")
    errors.set_ylim(bottom=0)
    accuracy.set(ylabel="test accuracy, %", title="Trained")
    return made
