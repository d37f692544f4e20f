"""The tail parameter by depth and width: by rule, from exact tails, from samples."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from merkhet.report import Trial, experiment
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.tails.bias_reduced import bias_reduced
from merkhet.unit_prior.tails.curve_fit import fit_curve, fit_levels

# Layers and widths of the goals: how far the fit on exact tails may be from l / 2.
GOALS = {10: 0.05, 100: 0.15}
GOAL_LAYERS = (2, 3, 4)
DEEPEST = 1e-300  # survival that curves are fitted down to
PROBABILITIES = (1e-3, 1e-5, 1e-30, 1e-300)
NEAR = 0.9  # of l / 2: where the theorem counts as seen
LARGEST = 5000.0  # -log10 of the least probability looked at


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        widths: Of all hidden layers of a network, one network each.
        layers: Deepest layer looked at.
        draws: Of a unit, that tails are estimated from.
        seeds: How many times.
    """

    widths: tuple[int, ...]
    layers: int
    draws: int
    seeds: int


PLANS = {
    "small": Plan((10, 30, 100, 300), 6, 1_000_000, 3),
    "full": Plan((3, 10, 30, 100, 300, 1000), 10, 10_000_000, 10),
}


@experiment
def theorem(trial: Trial) -> None:
    """Theta by depth and width: the rule l / 2, fits on exact tails, and what samples see."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan.seeds))
    trial.record.settings = dataclasses.asdict(plan)
    for width in plan.widths:
        prior = UnitPrior((width,) * (plan.layers - 1))
        for layer in range(1, plan.layers + 1):
            _exactly(trial, prior, width, layer)
            _sampled(trial, plan, prior, width, layer)
    _judge(trial)
    trial.record.notes = (
        "ReLU, He's scale, one input, the layer counted from 1 by weight matrices, before the "
        "activation. fit: -log S = A + B t^(1/theta) - C log t, on exact survivals. effective: "
        "the slope of log(-log S) by log t, inverted, at a probability. sampled: the bias-reduced "
        f"estimator on {plan.draws:,} draws, its mean over seeds; the interval is Student's. "
        f"seen: -log10 of the probability at which the effective parameter reaches {NEAR:g} l / 2."
    )
    trial.picture(_draw(trial, plan))


def _exactly(trial: Trial, prior: UnitPrior, width: int, layer: int) -> None:
    """Record the parameter by rule, by fits on exact tails, and at probabilities."""
    start = f"H = {width}, layer {layer}"
    trial.figure(f"rule, {start}", prior.tail_parameter(layer))
    for least in (1e-30, DEEPEST):
        levels = fit_levels(least)
        found = fit_curve(prior.quantile(levels, layer), levels.log())
        trial.figure(f"fit to {least:g}, {start}", found.theta)
    for p in PROBABILITIES:
        trial.figure(f"effective at {p:g}, {start}", float(prior.effective_tail(p, layer)))
    if layer > 1:
        trial.figure(f"seen, {start}", _seen(prior, layer))


def _seen(prior: UnitPrior, layer: int) -> float:
    """Return -log10 of the probability at which the local index comes near the rule, or inf."""
    from scipy.optimize import brentq

    wanted = NEAR * prior.tail_parameter(layer)

    def missing(depth: float) -> float:
        log_p = torch.tensor(-depth * math.log(10), dtype=torch.float64)
        return float(prior.effective_tail(None, layer, log_p=log_p)) - wanted

    if missing(LARGEST) < 0:
        return math.inf
    return float(brentq(missing, 1.0, LARGEST, rtol=1e-4))


def _sampled(trial: Trial, plan: Plan, prior: UnitPrior, width: int, layer: int) -> None:
    """Record what an estimator sees in samples."""
    from merkhet.core.intervals import student

    def estimates() -> list[float]:
        found = []
        for seed in range(plan.seeds):
            generator = torch.Generator().manual_seed(seed)
            drawn = prior.sample(plan.draws, layer, generator)
            found.append(bias_reduced(drawn).theta)
        return found

    start = f"H = {width}, layer {layer}"
    values = trial.step(f"{plan.draws} draws, {start}", estimates)
    trial.figure(f"sampled, {start}", float(np.mean(values)), interval=student(values))


def _judge(trial: Trial) -> None:
    """Record whether fits on exact tails come near the rule."""
    for width, within in GOALS.items():
        errors = {
            layer: abs(
                trial.record.figures[f"fit to 1e-300, H = {width}, layer {layer}"].value
                / (layer / 2)
                - 1
            )
            for layer in GOAL_LAYERS
        }
        worst = max(errors.values())
        goal = f"theta by the fit on exact tails to 1e-300, l = 2, 3, 4, H = {width}"
        trial.goal(goal, f"within {within:.0%} of l / 2", f"{worst:.1%}", worst <= within)


def _draw(trial: Trial, plan: Plan) -> Any:
    """Draw theta by depth, and where it is seen."""
    from merkhet.report.figures import COLOURS, figure

    made, (by_depth, by_probability) = figure(columns=2, width=5.2, height=4.0)
    layers = range(1, plan.layers + 1)
    figures = trial.record.figures
    by_depth.plot(layers, [layer / 2 for layer in layers], color="black", label="rule, l / 2")
    for width, colour in zip(plan.widths, COLOURS, strict=False):
        for kind, line, marker in (("fit to 1e-300", "-", "o"), ("sampled", ":", "s")):
            values = [figures[f"{kind}, H = {width}, layer {layer}"].value for layer in layers]
            label = f"{kind}, H = {width}"
            by_depth.plot(layers, values, line, marker=marker, ms=4, color=colour, label=label)
        for layer, style in ((2, "-"), (4, "--")):
            _draw_effective(by_probability, width, layer, color=colour, linestyle=style)
    by_depth.set(xlabel="layer l", ylabel="tail parameter theta", title="By depth")
    by_depth.legend(frameon=False, fontsize=7)
    by_probability.set(
        xscale="log",
        xlabel="-log10 of the probability",
        ylabel="effective theta over l / 2",
        title="Where it is seen: l = 2 (solid), 4 (dashed)",
    )
    by_probability.axhline(1, color="black", linewidth=1)
    by_probability.axvspan(0.5, 6, color="0.9", label="a million samples")
    by_probability.legend(frameon=False, fontsize=7)
    return made


def _draw_effective(axis: Any, width: int, layer: int, **style: Any) -> None:
    """Draw the local index over its limit, by probability."""
    prior = UnitPrior((width,) * (layer - 1))
    depths = np.geomspace(0.5, 1000, 60)
    log_p = torch.from_numpy(-math.log(10) * depths)
    found = prior.effective_tail(None, layer, log_p=log_p).value.numpy() / (layer / 2)
    axis.plot(depths, found, label=f"H = {width}" if layer == 2 else None, **style)
