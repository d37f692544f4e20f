"""Families of weight priors: what the rule says of their units, and what samples show."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.graph import Unknown
from merkhet.report import Trial, experiment
from merkhet.unit_prior.rules.tail_rule import tail_rule
from merkhet.unit_prior.sampling.sample_units import sample_units
from merkhet.unit_prior.tails.bias_reduced import bias_reduced

FAMILIES = (
    *("uniform", "gaussian", "laplace", "generalised_normal(0.5)"),
    *("student(3)", "cauchy", "init"),
)
LIGHT = FAMILIES[1:4]  # by theta_w: 1/2, 1, 2
DEPTH = 4
INPUTS = 4
SHOWN = 3  # the layer that is drawn
SLOWER = 20
TOP = 1000  # largest values that the index of a power law is estimated from


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        width: Of the hidden layers.
        draws: Of the network's weights.
    """

    width: int
    draws: int


PLANS = {"small": Plan(10, 200_000), "full": Plan(10, 5_000_000)}


@experiment
def priors(trial: Trial) -> None:
    """Seven priors on weights: tail parameter by rule and by samples, layer by layer."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {**dataclasses.asdict(plan), "depth": DEPTH, "families": FAMILIES}
    found = trial.steps({family: partial(_measured, plan, family) for family in FAMILIES})
    for family, one in found.items():
        _tell(trial, family, one)
    _judge(trial, found)
    trial.record.notes = (
        f"Dense layers of {plan.width} ReLU, {INPUTS} inputs of length 1, weights of He's scale, "
        "no biases; units before the activation. theta, sampled: the bias-reduced estimator with "
        "its 95 % interval of sampling error, which leaves its bias out. index, sampled: Hill's, "
        f"of the {TOP:,} largest, with theta infinite by rule. quantile ratio: |g| exceeded with "
        "probability 1e-4 over its median. init: torch.nn's own, uniform weights and biases."
    )
    trial.picture(_draw(found))


def _network(width: int) -> tuple[nn.Sequential, list[str]]:
    """Return dense layers, and the paths of those that have weights."""
    parts: list[nn.Module] = []
    sizes = (INPUTS, *[width] * DEPTH)
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*parts[:-1]), [str(2 * layer) for layer in range(DEPTH)]


def _measured(plan: Plan, family: str) -> list[dict[str, Any]]:
    """Return for each layer the rule and what samples show."""
    network, paths = _network(plan.width)
    x = torch.full((1, INPUTS), INPUTS**-0.5, dtype=torch.float64)
    rule = tail_rule(network, x, family)
    draws = plan.draws // SLOWER if family == "init" else plan.draws  # one network at a time
    drawn = sample_units(network, x, family, draws, paths, generator=0)
    return [_of_layer(rule.modules[path], drawn.values[path].flatten()) for path in paths]


def _of_layer(rule: Any, values: Tensor) -> dict[str, Any]:
    """Return what the rule and a sample (n,) say of one unit."""
    assert not isinstance(rule, Unknown)
    ordered = values.abs().sort(descending=True).values
    count = len(ordered)
    quantiles = {f"{p:g}": float(ordered[int(p * count)]) for p in (1e-4, 1e-3, 1e-2, 0.1)}
    hill = 1 / float(ordered[:TOP].log().mean() - ordered[TOP].log())
    one = None if rule.index is not None else bias_reduced(values)  # a power law has no theta
    ranks = torch.logspace(0, math.log10(count / 2), 40).long()
    return {
        "rule": rule.theta,
        "index": rule.index,
        "theta": math.inf if one is None else one.theta,
        "interval": None if one is None or one.interval is None else list(one.interval),
        "hill": hill,
        "ratio": quantiles["0.0001"] / float(ordered[count // 2]),
        "at": (ordered[ranks - 1] / ordered[count // 2]).tolist(),
        "heights": (-torch.log((ranks - 0.5) / count)).tolist(),
    }


def _tell(trial: Trial, family: str, layers: list[dict[str, Any]]) -> None:
    """Record the figures of one family."""
    for layer, one in enumerate(layers, 1):
        start = f"{family}, layer {layer}"
        if one["index"] is None:
            trial.figure(f"theta, rule, {start}", one["rule"])
            interval = None if one["interval"] is None else tuple(one["interval"])
            trial.figure(f"theta, sampled, {start}", one["theta"], interval=interval)
        else:
            trial.figure(f"index, rule, {start}", one["index"])
            error = 1.96 * one["hill"] / math.sqrt(TOP)
            around = (one["hill"] - error, one["hill"] + error)
            trial.figure(f"index, sampled, {start}", one["hill"], interval=around)
        trial.figure(f"quantile ratio, {start}", one["ratio"])


def _judge(trial: Trial, found: dict[str, list[dict[str, Any]]]) -> None:
    """Record whether samples order families and layers as the rule does, and power laws' index."""
    for layer in range(DEPTH):
        values = [found[family][layer]["theta"] for family in LIGHT]
        ordered = values[0] < values[1] < values[2]
        told = " < ".join(f"{value:.2f}" for value in values)
        goal = f"theta in samples, layer {layer + 1}: {', '.join(LIGHT)} in order"
        trial.goal(goal, "in the order of the rule", told, ordered)
    for family in LIGHT:
        values = [one["theta"] for one in found[family]]
        told = ", ".join(f"{value:.2f}" for value in values)
        grows = values == sorted(values)
        trial.goal(f"theta in samples grows with depth, {family}", "growing", told, grows)
    for family in ("student(3)", "cauchy"):
        errors = [abs(one["hill"] / one["index"] - 1) for one in found[family]]
        goal = f"index of the power law in samples, every layer, {family}"
        worst = max(errors)
        trial.goal(goal, "within 20 % of the rule", f"{worst:.0%} off at most", worst <= 0.2)


def _draw(found: dict[str, list[dict[str, Any]]]) -> Any:
    """Draw survivals on Weibull paper, and theta by depth."""
    from merkhet.report.figures import COLOURS, figure

    made, (tails, depth) = figure(columns=2, width=5.2, height=4.0)
    for (family, layers), colour in zip(found.items(), COLOURS, strict=False):
        shown = layers[SHOWN - 1]
        tails.plot(shown["at"], shown["heights"], "o-", ms=2.5, lw=1, color=colour, label=family)
        if shown["index"] is None:
            numbers = range(1, DEPTH + 1)
            depth.plot(numbers, [one["rule"] for one in layers], "--", color=colour)
            values = [one["theta"] for one in layers]
            depth.plot(numbers, values, "o-", ms=4, color=colour, label=family)
    tails.set(xscale="log", yscale="log", xlabel="t, in medians of |g|", ylabel="-log P(|g| > t)")
    tails.set_title(f"Weibull paper: layer {SHOWN}, sampled")
    depth.set(xlabel="layer", ylabel="tail parameter theta")
    depth.set_xticks(range(1, DEPTH + 1))
    depth.set_title("By rule (dashed), as samples show it")
    for axis in (tails, depth):
        axis.legend(frameon=False, fontsize=7)
    return made
