"""Robust accuracy on Fashion-MNIST: adversarial training, a spectral constraint, penalties."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

from merkhet import data, models
from merkhet.core.intervals import student
from merkhet.report import Trial, experiment
from merkhet.rkhs.constraint import SpectralConstraint
from merkhet.rkhs.estimators import PAPER, Recipe, train_classifier
from merkhet.rkhs.expressions import parse_penalty
from merkhet.rkhs.robustness import evaluate_robustness
from merkhet.training import Running

RADII = (0.25, 0.5, 1.0, 1.5, 2.0)
TRAINED = 1.0  # the radius of adversarial training, of tuning and of the goal
VALIDATION = 10_000  # the last pictures of the training set
DECAYS = (0.01, 0.3)
BOUNDS = (2.0, 3.0, 4.5)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        penalty: An expression, as on the command line.
        decay: Weight decay.
        bound: On the spectral norms of the layers, or None.
    """

    penalty: str
    decay: float = DECAYS[0]
    bound: float | None = None


PGD = f"adversarial_loss({TRAINED:g})"
CHOICES: dict[str, tuple[Arm, ...]] = {
    "plain": tuple(Arm("none", decay) for decay in DECAYS),
    "PGD": tuple(Arm(PGD, decay) for decay in DECAYS),
    "PGD + spectral": tuple(Arm(PGD, bound=bound) for bound in BOUNDS),
    "gradient": tuple(Arm(f"gradient*{strength:g}") for strength in (0.01, 0.1)),
    "adversarial": tuple(Arm(f"adversarial(1)*{strength:g}") for strength in (0.03, 0.3)),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        pictures: Training pictures.
        attacked: Test pictures that are attacked, and validation pictures.
        widths: Of the network.
        recipe: Of its training.
        seeds: Draws of pictures and first weights.
        steps: Of the attack.
    """

    pictures: int
    attacked: int
    widths: tuple[int, ...]
    recipe: Recipe
    seeds: int
    steps: int


SHORT = Recipe(steps=500, batch_size=50, rate=4e-3, optimiser="adamw")
PLANS = {
    "small": Plan(1000, 400, (16, 32), SHORT, 6, 20),
    "full": Plan(50_000, 10_000, (32, 64), dataclasses.replace(PAPER, epochs=100), 5, 100),
}


@experiment
def robustness(trial: Trial) -> None:
    """Fashion-MNIST under PGD in l2: adversarial training, a constraint, and penalties alone."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan.seeds))
    trial.record.settings = {"data": "fashion-mnist", **dataclasses.asdict(plan)}
    arms = _tuned(trial, plan)
    trial.record.settings["arms"] = {name: dataclasses.asdict(arm) for name, arm in arms.items()}
    work = {
        f"{name}, seed {seed}": partial(_curve, plan, arm, seed, test=True)
        for name, arm in arms.items()
        for seed in range(plan.seeds)
    }
    found = trial.steps(work)
    curves = {name: [found[f"{name}, seed {seed}"] for seed in range(plan.seeds)] for name in arms}
    for name, rows in curves.items():
        for place, radius in enumerate((0.0, *RADII)):
            values = [row[place] for row in rows]
            mean = sum(values) / len(values)
            trial.figure(f"accuracy at {radius:g}, {name}", mean, "%", student(values))
    _judge(trial, curves)
    trial.record.notes = (
        f"Accuracy under PGD in l2 ({plan.steps} steps, from the picture and from a random start; "
        f"pictures kept in [0, 1]) on {plan.attacked} test pictures. Decays, strengths and bounds "
        f"are tuned by accuracy at radius {TRAINED:g} on as many validation pictures with another "
        "draw; PGD + spectral holds the operator norm of every layer under its bound after each "
        "step. Intervals are Student's over draws of training pictures and first weights."
    )
    trial.picture(_draw(trial))


def _tuned(trial: Trial, plan: Plan) -> dict[str, Arm]:
    """Return for each way to train the choice that stands best on validation data."""
    work = {
        str(arm): partial(_curve, plan, arm, plan.seeds)
        for arms in CHOICES.values()
        for arm in arms
    }
    scores = {key: curve[1 + RADII.index(TRAINED)] for key, curve in trial.steps(work).items()}
    return {name: max(arms, key=lambda arm: scores[str(arm)]) for name, arms in CHOICES.items()}


def _curve(plan: Plan, arm: Arm, seed: int, *, test: bool = False) -> list[float]:
    """Return accuracies in percent at radius 0 and at each of the radii, after training."""
    pool = _pictures("train")
    drawn = pool.subset(range(len(pool) - VALIDATION)).sample(plan.pictures, seed=seed)
    network = models.SmallCNN(1, 10, plan.widths, norm="none", grid=4, seed=seed)
    constraint = None
    if arm.bound is not None:
        constraint = SpectralConstraint(arm.bound, example=drawn.floats([0]))
    recipe = dataclasses.replace(plan.recipe, weight_decay=arm.decay, seed=seed)
    penalty, running = parse_penalty(arm.penalty), Running(progress=False)
    train_classifier(network, drawn, penalty, constraint, recipe=recipe, running=running)
    kept = range(len(pool) - VALIDATION, len(pool))
    held = _pictures("test") if test else pool.subset(kept)
    result = evaluate_robustness(
        network,
        held.sample(plan.attacked, seed=0),
        "l2",
        RADII,
        attacks=("pgd",),
        steps=plan.steps,
        certify=False,
        check_masking=False,
    )
    return [100 * value for value in (result.clean_accuracy, *result.accuracy())]


@functools.cache
def _pictures(split: str) -> data.Pictures:
    """Return Fashion-MNIST, read once in each process."""
    return data.load("fashion-mnist", split)


def _judge(trial: Trial, curves: dict[str, list[list[float]]]) -> None:
    """Record what the constraint adds to adversarial training."""
    for place, radius in enumerate((0.0, *RADII)):
        pairs = zip(curves["PGD + spectral"], curves["PGD"], strict=True)
        gains = [ours[place] - theirs[place] for ours, theirs in pairs]
        mean, (low, high) = sum(gains) / len(gains), student(gains)
        trial.figure(f"PGD + spectral - PGD at {radius:g}", mean, "points", (low, high))
        if radius == TRAINED:
            goal = f"robust accuracy at {radius:g}, PGD + spectral over PGD alone, points"
            trial.goal(goal, "above 0, interval too", round(mean, 2), low > 0)


def _draw(trial: Trial) -> Any:
    """Draw accuracy by radius."""
    from merkhet.report.figures import figure
    from merkhet.report.lines import draw_line

    made, (axis,) = figure(width=5.2, height=3.6)
    for name in CHOICES:
        radii = (0.0, *RADII)
        names = [f"accuracy at {radius:g}, {name}" for radius in radii]
        draw_line(axis, trial.record, radii, names, name)
    axis.set(xlabel="l2 radius of the attack", ylabel="accuracy, %", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return made
