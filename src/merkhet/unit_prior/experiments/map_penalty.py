"""Training by MAP: the prior as a penalty on weights, and as one on units, with few labels."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet import data
from merkhet.core.intervals import student
from merkhet.report import Trial, experiment
from merkhet.training import Optimisation, Running, TrainingConfig, fit
from merkhet.unit_prior.design.regulariser import regulariser
from merkhet.unit_prior.design.unit_penalty import UnitPenalty, unit_penalty
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.sampling.fresh import fresh_copy
from merkhet.unit_prior.weight_priors import Gaussian

VALIDATION = 10_000  # the last pictures of the training set
PIXELS, CLASSES = 784, 10
BASELINE = "no penalty"
ARMS = ("weights", "units, exact", "units, asymptotic")
Loss = Callable[[nn.Module, Any], Tensor]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        labels: Labelled pictures.
        width: Of the three hidden layers.
        steps: Of training.
        strengths: Of the prior, to choose from: 1 is the posterior's own.
        rates: Learning rates to choose from, for each arm.
        draws: Draws of labelled pictures that arms are compared on.
        tuning: Draws, others than these, that strengths and rates are chosen on.
    """

    labels: int
    width: int
    steps: int
    strengths: tuple[float, ...]
    rates: tuple[float, ...]
    draws: int
    tuning: int = 3


PLANS = {
    "small": Plan(1000, 100, 600, (0.0001, 0.001, 0.01, 0.1), (0.002, 0.006, 0.018), 5),
    "full": Plan(1000, 300, 6000, (0.0001, 0.001, 0.01, 0.1, 1.0), (0.001, 0.003, 0.01), 20),
}


@experiment
def map_penalty(trial: Trial) -> None:
    """MNIST, 1,000 labels: accuracy and units under the prior on weights, and on units."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan.draws))
    trial.record.settings = {"data": "mnist", **dataclasses.asdict(plan)}
    chosen = {arm: _tuned(trial, plan, arm) for arm in (BASELINE, *ARMS)}
    trial.record.settings["chosen"] = chosen
    found = {arm: _tested(trial, plan, arm, *chosen[arm]) for arm in chosen}
    for arm, runs in found.items():
        values = [run["accuracy"] for run in runs]
        mean = sum(values) / len(values)
        trial.figure(f"test accuracy, {arm}", mean, "%", student(values))
        for layer in range(1, 5):
            kurtoses = [run["kurtosis"][layer - 1] for run in runs]
            mean = sum(kurtoses) / len(kurtoses)
            trial.figure(f"kurtosis of units, {arm}, layer {layer}", mean, "", student(kurtoses))
    _judge(trial, found)
    trial.record.notes = (
        "Three hidden layers of ReLU, weights and starts of He's scale, no biases. weights: the "
        "squared weights over twice their prior variance, over the number of labels. units, "
        "exact: -log p(u) of every unit before its activation, summed over units and layers, "
        "their dependence left out, over the number of labels; asymptotic: |u|^(2 / l) in its "
        "place. Strength and rate are chosen for each arm by accuracy on the last "
        f"{VALIDATION:,} training pictures, on {plan.tuning} draws that are not compared. "
        "kurtosis: about the mean, over units and 2,000 test pictures, before the activation."
    )
    trial.picture(_draw(trial))


def _tuned(trial: Trial, plan: Plan, arm: str) -> tuple[float, float]:
    """Return the strength and the rate of an arm that are best on validation data."""
    strengths = (0.0,) if arm == BASELINE else plan.strengths
    draws = range(plan.draws, plan.draws + plan.tuning)
    pairs = list(itertools.product(strengths, plan.rates))
    keys = {
        pair: [f"{arm}, strength and rate {pair}, validation, draw {draw}" for draw in draws]
        for pair in pairs
    }
    work = {
        key: partial(_run, plan, arm, *pair, draw, False)
        for pair in pairs
        for key, draw in zip(keys[pair], draws, strict=True)
    }
    found = trial.steps(work)
    means = {
        pair: sum(found[key]["accuracy"] for key in keys[pair]) / plan.tuning for pair in pairs
    }
    best = max(pairs, key=lambda pair: means[pair])
    trial.figure(f"validation accuracy, {arm}", means[best], "%")
    return best


def _tested(
    trial: Trial, plan: Plan, arm: str, strength: float, rate: float
) -> list[dict[str, Any]]:
    """Return what each draw of labelled pictures gives."""
    work = {
        f"{arm}, strength {strength:g}, rate {rate:g}, draw {draw}": partial(
            _run, plan, arm, strength, rate, draw, True
        )
        for draw in range(plan.draws)
    }
    return list(trial.steps(work).values())


def _judge(trial: Trial, found: dict[str, list[dict[str, Any]]]) -> None:
    """Record what each penalty gains over none, paired by draw."""
    base = [run["accuracy"] for run in found[BASELINE]]
    for arm in ARMS:
        gains = [run["accuracy"] - one for run, one in zip(found[arm], base, strict=True)]
        mean, (low, high) = sum(gains) / len(gains), student(gains)
        trial.figure(f"gain, {arm}", mean, "points", (low, high))
        goal = f"{arm}: test accuracy above no penalty"
        trial.goal(goal, "interval above 0", f"{low:.2f} to {high:.2f} points", low > 0)


def _run(
    plan: Plan, arm: str, strength: float, rate: float, draw: int, test: bool
) -> dict[str, Any]:
    """Train on one draw; return accuracy in percent, and the kurtosis of units by layer."""
    pool = _pictures("train")
    drawn = pool.subset(range(len(pool) - VALIDATION)).sample(plan.labels, seed=draw)
    norm = float(drawn.floats().flatten(1).norm(dim=1).mean())
    network = fresh_copy(_network(plan.width), Gaussian(), draw)
    config = TrainingConfig(
        plan.steps,
        50,
        seed=draw,
        optimisation=Optimisation(rate, warmup_steps=plan.steps // 10),
        running=Running(progress=False),
    )
    with _penalised(plan, arm, strength, norm, network) as loss:
        fit(network, drawn, loss, config)
    kept = range(len(pool) - VALIDATION, len(pool))
    held = _pictures("test") if test else pool.subset(kept)
    return _measured(network.eval(), held)


def _network(width: int) -> nn.Sequential:
    """Return three hidden layers of ReLU without biases."""
    sizes = (PIXELS, width, width, width)
    parts: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, CLASSES, bias=False))


def _layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers with weights by path."""
    return {path: part for path, part in network.named_modules() if isinstance(part, nn.Linear)}


@contextlib.contextmanager
def _penalised(
    plan: Plan, arm: str, strength: float, norm: float, network: nn.Module
) -> Iterator[Loss]:
    """Yield the loss of an arm, for inputs of a norm."""
    if arm == BASELINE:
        yield _cross_entropy
    elif arm == "weights":
        yield partial(_with_weights, strength / plan.labels)
    else:
        prior = _prior(plan.width, norm)
        form = arm.removeprefix("units, ")
        by_path = {
            path: regulariser(prior, layer, form=form)
            for layer, path in enumerate(_layers(network), 1)
        }
        with unit_penalty(network, by_path) as penalty:
            yield partial(_with_units, penalty, strength / plan.labels)


def _prior(width: int, norm: float) -> UnitPrior:
    """Return the prior on units that goes with the network's weights."""
    stds = tuple(math.sqrt(2 / before) for before in (PIXELS, width, width, width))
    return UnitPrior((width,) * 3, weight_std=stds, input_norm=norm)


def _cross_entropy(network: nn.Module, batch: Any) -> Tensor:
    """Return the mean loss of a batch of pictures with labels."""
    inputs, labels = batch
    return F.cross_entropy(network(inputs), labels)


def _with_weights(factor: float, network: nn.Module, batch: Any) -> Tensor:
    """Return the loss with the prior's density of the weights."""
    told = [part.weight.square().sum() * part.in_features / 4 for part in _layers(network).values()]
    return _cross_entropy(network, batch) + factor * torch.stack(told).sum()


def _with_units(penalty: UnitPenalty, factor: float, network: nn.Module, batch: Any) -> Tensor:
    """Return the loss with the penalty that the pass has collected."""
    loss = _cross_entropy(network, batch)
    return loss + factor * penalty()


@torch.no_grad()
def _measured(network: nn.Module, held: data.Pictures) -> dict[str, Any]:
    """Return accuracy in percent, and the kurtosis of units of each layer over pictures."""
    assert held.labels is not None
    x = held.floats()
    right = float((network(x).argmax(1) == held.labels).double().mean())
    kurtoses: list[float] = []
    hidden = x[:2000]
    for part in network.children():
        hidden = part(hidden)
        if isinstance(part, nn.Linear):
            centred = hidden.double() - hidden.double().mean()
            kurtoses.append(float((centred**4).mean() / (centred**2).mean() ** 2))
    return {"accuracy": 100 * right, "kurtosis": kurtoses}


@functools.cache
def _pictures(split: str) -> data.Pictures:
    """Return MNIST, read once in each process."""
    return data.load("mnist", split)


def _draw(trial: Trial) -> Any:
    """Draw accuracies, kurtosis by layer, and the penalties themselves."""
    from merkhet.report.figures import COLOURS, figure
    from merkhet.report.lines import draw_line, draw_points

    made, (accuracy, kurtosis, penalty) = figure(columns=3, width=4.4, height=3.6)
    arms = (BASELINE, *ARMS)
    draw_points(accuracy, trial.record, arms, [f"test accuracy, {arm}" for arm in arms])
    accuracy.set(xlabel="test accuracy, %", title="1,000 labels")
    for arm, colour in zip(arms, COLOURS, strict=False):
        names = [f"kurtosis of units, {arm}, layer {layer}" for layer in range(1, 5)]
        draw_line(kurtosis, trial.record, range(1, 5), names, arm, color=colour)
    kurtosis.set(xlabel="layer", ylabel="kurtosis of units", title="Trained, over test pictures")
    kurtosis.legend(frameon=False, fontsize=7)
    kurtosis.set_xticks(range(1, 5))
    prior = UnitPrior((PLANS[trial.size].width,) * 3)
    u = torch.linspace(-8, 8, 801, dtype=torch.float64)
    for layer, colour in zip(range(1, 5), COLOURS, strict=False):
        exact, asymptotic = (
            regulariser(prior, layer, form=form)(u * float(prior.std(layer)))
            for form in ("exact", "asymptotic")
        )
        penalty.plot(u, exact, color=colour, label=f"layer {layer}")
        penalty.plot(u, asymptotic, "--", color=colour, linewidth=1)
    penalty.set(xlabel="unit, in standard deviations", ylabel="penalty", ylim=(0, 25))
    penalty.set_title("Exact (solid), asymptotic (dashed)")
    penalty.legend(frameon=False, fontsize=7)
    return made
