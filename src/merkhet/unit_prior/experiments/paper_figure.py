"""The paper's experiment, 100 layers of falling width: what is and is not visible in it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from merkhet.core.intervals import bootstrap, student
from merkhet.report import Trial, experiment
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.tails.bias_reduced import bias_reduced

WIDTHS = tuple(range(1000, 0, -10))  # of the paper: 1000, 990, ..., 10
LAYERS = (1, 2, 3, 10, 100)
PROBABILITY = 1e-5  # about the least that its samples reach


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        draws: Of a unit.
        seeds: How many times.
    """

    draws: int
    seeds: int


PLANS = {"small": Plan(100_000, 5), "full": Plan(100_000, 50)}  # the paper has 1e5 draws


@experiment
def paper_figure(trial: Trial) -> None:
    """100 layers, widths 1000 to 10: kurtosis and tails, exactly and as 100,000 draws show them."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan.seeds))
    trial.record.settings = {**dataclasses.asdict(plan), "widths": "1000, 990, ..., 10"}
    prior = UnitPrior(WIDTHS)
    for layer in LAYERS:
        trial.figure(f"rule, layer {layer}", prior.tail_parameter(layer))
        trial.figure(f"kurtosis, exact, layer {layer}", float(prior.kurtosis(layer)))
        effective = prior.effective_tail(PROBABILITY, layer)
        trial.figure(f"effective at {PROBABILITY:g}, exact, layer {layer}", float(effective))
        _sampled(trial, plan, prior, layer)
    _judge(trial)
    trial.record.notes = (
        "ReLU, He's scale, one input, before the activation. kurtosis, sampled: of one seed's "
        "draws, with its bootstrap interval, which is too short where the tail is heavy. "
        "estimated: by the bias-reduced estimator; mean over seeds, Student's interval. At layer "
        "100 the rule gives 50; the samples, and the exact law at their probabilities, are near 2."
    )
    trial.picture(_draw(trial, plan, prior))


def _sampled(trial: Trial, plan: Plan, prior: UnitPrior, layer: int) -> None:
    """Record kurtosis and tail as samples show them."""

    def measured() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"kurtosis": [], "theta": []}
        for seed in range(plan.seeds):
            drawn = prior.sample(plan.draws, layer, torch.Generator().manual_seed(seed))
            found["kurtosis"].append(float((drawn**4).mean() / (drawn**2).mean() ** 2))
            found["theta"].append(bias_reduced(drawn).theta)
        drawn = prior.sample(plan.draws, layer, torch.Generator().manual_seed(0))
        low, high = bootstrap(drawn**4 / (drawn**2).mean() ** 2, resamples=200)
        return {**found, "interval": [low, high]}

    found = trial.step(f"{plan.draws} draws of layer {layer}", measured)
    low, high = found["interval"]
    trial.figure(f"kurtosis, sampled, layer {layer}", found["kurtosis"][0], interval=(low, high))
    theta = sum(found["theta"]) / plan.seeds
    trial.figure(f"estimated, layer {layer}", theta, interval=student(found["theta"]))


def _judge(trial: Trial) -> None:
    """Record how much of the rule samples show, and whether they agree with the exact law."""
    figures = trial.record.figures
    for layer in LAYERS:
        seen = figures[f"estimated, layer {layer}"].value / (layer / 2)
        trial.figure(f"share of l / 2 that the draws show, layer {layer}", 100 * seen, "%")
        exact = figures[f"kurtosis, exact, layer {layer}"].value
        low, high = figures[f"kurtosis, sampled, layer {layer}"].interval or (math.nan, math.nan)
        goal = f"exact kurtosis inside the interval of the draws, layer {layer}"
        trial.goal(goal, f"{exact:.3f} inside", f"{low:.3f} to {high:.3f}", low <= exact <= high)


def _draw(trial: Trial, plan: Plan, prior: UnitPrior) -> Any:
    """Draw survivals on Weibull paper, exact and sampled, and the kurtosis by depth."""
    from merkhet.report.figures import COLOURS, figure

    made, (tails, depth) = figure(columns=2, width=5.2, height=4.0)
    log_p = -math.log(10) * torch.linspace(0.05, 15, 80, dtype=torch.float64)
    for layer, colour in zip(LAYERS, COLOURS, strict=False):
        t = prior.quantile(None, layer, log_p=log_p).value / float(prior.std(layer))
        label = f"layer {layer}: {float(prior.effective_tail(PROBABILITY, layer)):.2f}"
        tails.plot(t, -log_p, color=colour, label=label)
        drawn = prior.sample(plan.draws, layer, torch.Generator().manual_seed(0)).abs()
        ordered = drawn.sort(descending=True).values / float(prior.std(layer))
        ranks = torch.logspace(0, math.log10(plan.draws) - 0.1, 25).long()
        seen = -torch.log((ranks - 0.5) / plan.draws)
        tails.plot(ordered[ranks - 1], seen, "o", ms=3, color=colour, mfc="none")
    tails.set(xscale="log", yscale="log", xlabel="t, in standard deviations", xlim=(0.05, None))
    tails.set(ylabel="-log P(|g| > t)", title="Weibull paper: exact (lines), 100,000 draws")
    tails.legend(frameon=False, fontsize=7, title=f"effective theta at {PROBABILITY:g}")
    layers = range(1, len(WIDTHS) + 1)
    excess = [float(prior.kurtosis(layer)) - 3 for layer in layers]
    depth.plot(layers[1:], excess[1:], color="black")
    depth.set(yscale="log", xlabel="layer", ylabel="excess kurtosis", title="Kurtosis, exact")
    return made
