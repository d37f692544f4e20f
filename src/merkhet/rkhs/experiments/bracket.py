"""The bracket of the Lipschitz constant over training, by penalty, and by method."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from merkhet import data, models
from merkhet.report import Trial, experiment
from merkhet.rkhs.bracket import Bracket, lipschitz
from merkhet.rkhs.certificates import certified_accuracy, certified_radius
from merkhet.rkhs.estimators import Recipe, train_classifier
from merkhet.rkhs.expressions import parse_penalty
from merkhet.rkhs.spectral import spectral_norms
from merkhet.rkhs.variation import gradient_norms
from merkhet.training import Running

ARMS = {
    "no penalty": "none",
    "loss gradient": "loss_gradient*1",
    "gradient, sup": "gradient*0.01",
    "adversarial loss": "adversarial_loss(1)",
    "spectral": "spectral(1)*0.1",
    "gradient + spectral": "gradient*0.01 + spectral(1)*0.1",
}
LOOKED_AT = 100  # test pictures that lower bounds are looked for around
CERTIFIED_AT = 0.1  # l2 radius
COUNTS = ("lower", "upper", "estimate", "reshaped", "gradient")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        pictures: Training pictures.
        widths: Of the network.
        recipe: Of its training.
        at: Steps after which the bracket is taken.
    """

    pictures: int
    widths: tuple[int, ...]
    recipe: Recipe
    at: tuple[int, ...]


def _recipe(steps: int) -> Recipe:
    return Recipe(steps=steps, batch_size=64, rate=4e-3, weight_decay=0.01, optimiser="adamw")


PLANS = {
    "small": Plan(5000, (16, 32), _recipe(800), (0, 25, 100, 400, 800)),
    "full": Plan(50_000, (64, 128), _recipe(20_000), (0, 100, 500, 2000, 8000, 20_000)),
}


class Snapshots:
    """Copies of a network after given steps of its training.

    Args:
        at: The steps.
    """

    def __init__(self, at: Iterable[int]) -> None:
        self.at = frozenset(at)
        self.taken: dict[int, nn.Module] = {}

    def __call__(self, module: nn.Module, step: int) -> None:
        """Take a copy, if this is one of the steps."""
        if step in self.at:
            self.taken[step] = copy.deepcopy(module).eval()


@experiment
def bracket(trial: Trial) -> None:
    """Lower and upper bounds of the Lipschitz constant over training, with each penalty."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {"data": "fashion-mnist", **dataclasses.asdict(plan), "arms": ARMS}
    found = trial.steps({name: partial(_measured, plan, text) for name, text in ARMS.items()})
    for name, one in found.items():
        for step, values in one["steps"].items():
            for what in COUNTS:
                trial.figure(f"{what}, {name}, step {step}", values[what])
        for what in ("accuracy", "certified", "margin"):
            unit = "" if what == "margin" else "%"
            trial.figure(f"{what}, {name}", one[what], unit)
    _judge(trial, plan, found)
    trial.record.notes = (
        "lower: the largest ratio |f(x) - f(x')| / |x - x'| found. upper: by certified operator "
        "norms. estimate: the same product by power iteration. reshaped: the product of the norms "
        "of the layers' weights as matrices out x (in k k), times those of the poolings: the "
        "paper's code takes these norms, and the product bounds nothing. gradient: the largest "
        f"gradient of one logit. All around {LOOKED_AT} test pictures. certified: of 1,000 test "
        f"pictures, those certified at l2 radius {CERTIFIED_AT}. margin: the mean one."
    )
    trial.picture(_draw(trial, plan))


def _measured(plan: Plan, penalty: str) -> dict[str, Any]:
    """Train a network and return its bounds at each of the steps, and what is certified."""
    pool, test = _pictures("train"), _pictures("test")
    network = models.SmallCNN(1, 10, plan.widths, norm="none", grid=4, seed=0)
    snapshots = Snapshots(plan.at)
    snapshots(network, 0)
    drawn = pool.sample(plan.pictures, seed=0)
    running = Running(progress=False)
    train_classifier(
        network, drawn, parse_penalty(penalty), snapshots, recipe=plan.recipe, running=running
    )
    few = test.sample(LOOKED_AT, seed=0).floats()
    steps = {step: _bounds(one, few) for step, one in sorted(snapshots.taken.items())}
    return {"steps": {step: values for step, values in steps.items()}} | _certified(network.eval())


def _bounds(network: nn.Module, few: torch.Tensor) -> dict[str, float]:
    """Return bounds and estimates of the Lipschitz constant around pictures (n, 1, 28, 28)."""
    found, estimated = lipschitz(network, few), lipschitz(network, few, method="power", ascents=0)
    operators = math.prod(spectral_norms(network, few[:1]).values())
    reshaped = math.prod(spectral_norms(network, few[:1], "reshaped").values())
    return {
        "lower": found.lower,
        "upper": found.upper,
        "estimate": estimated.upper,
        "reshaped": estimated.upper * reshaped / operators,
        "gradient": float(gradient_norms(network, few).max()),
    }


def _certified(network: nn.Module) -> dict[str, float]:
    """Return accuracy and certified accuracy in percent, and the mean margin, on test pictures."""
    held = _pictures("test").sample(1000, seed=1)
    assert held.labels is not None
    x = held.floats()
    found: Bracket = lipschitz(network, x[:10])
    radii = certified_radius(network, x, held.labels, bracket=found)
    with torch.no_grad():
        logits = network(x)
    own = logits.gather(1, held.labels[:, None])[:, 0]
    others = logits.scatter(1, held.labels[:, None], -math.inf).amax(1)
    return {
        "accuracy": 100 * float((logits.argmax(1) == held.labels).double().mean()),
        "certified": 100 * float(certified_accuracy(radii, [CERTIFIED_AT])[0]),
        "margin": float((own - others).mean()),
    }


@functools.cache
def _pictures(split: str) -> data.Pictures:
    """Return Fashion-MNIST, read once in each process."""
    return data.load("fashion-mnist", split)


def _judge(trial: Trial, plan: Plan, found: dict[str, dict[str, Any]]) -> None:
    """Record whether the bounds are in order, and how far apart they are at the end."""
    rows = [values for one in found.values() for values in one["steps"].values()]
    wrong = sum(row["lower"] > row["upper"] or row["estimate"] > row["upper"] for row in rows)
    goal = f"brackets of {len(rows)} whose lower bound or estimate is above the upper bound"
    trial.goal(goal, "0", wrong, wrong == 0)
    excess = max(row["upper"] / row["estimate"] - 1 for row in rows)
    trial.figure("largest excess of the certified bound over the estimate", 100 * excess, "%")
    under = [row["upper"] / row["reshaped"] for row in rows]
    trial.figure("upper over the product of reshaped norms, least", min(under))
    trial.figure("upper over the product of reshaped norms, most", max(under))
    for name, one in found.items():
        last = one["steps"][plan.at[-1]]
        trial.figure(f"upper over lower at the end, {name}", last["upper"] / last["lower"])


def _draw(trial: Trial, plan: Plan) -> Any:
    """Draw the brackets over training."""
    from merkhet.report.figures import COLOURS, figure

    made, (axis,) = figure(width=6.4, height=4.0)
    figures = trial.record.figures
    for name, colour in zip(ARMS, COLOURS, strict=False):
        low, high = (
            [figures[f"{what}, {name}, step {step}"].value for step in plan.at]
            for what in ("lower", "upper")
        )
        places = [1 + step for step in plan.at]
        axis.plot(places, low, "o-", ms=3, color=colour, label=name)
        axis.plot(places, high, "o--", ms=3, color=colour)
    axis.set(xscale="log", yscale="log", xlabel="1 + steps of training")
    axis.set(ylabel="Lipschitz constant: lower (solid), upper (dashed)")
    axis.legend(frameon=False, fontsize=8)
    return made
