"""Convolution, pooling, residual sums and norms: what they do to the tails of units."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.graph import Unknown
from merkhet.core.intervals import bootstrap
from merkhet.report import Trial, experiment
from merkhet.unit_prior.rules.tail_rule import tail_rule
from merkhet.unit_prior.sampling.sample_units import sample_units

BLOCKS = 4
SIDE = 8  # of pictures


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        width: Channels, and units of dense layers.
        draws: Of the network's weights.
    """

    width: int
    draws: int


PLANS = {"small": Plan(8, 20_000), "full": Plan(8, 1_000_000)}


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, of x's shape."""
        total: Tensor = x + self.body(x)
        return total


def _dense(width: int) -> nn.Module:
    """Return a dense layer and ReLU."""
    return nn.Sequential(nn.ReLU(), nn.Linear(width, width))


def _conv(width: int) -> nn.Module:
    """Return a 3x3 convolution after ReLU."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))


def _averaged(width: int) -> nn.Module:
    """Return a 3x3 convolution after ReLU, and its means over windows of 3x3."""
    return nn.Sequential(_conv(width), nn.AvgPool2d(3, stride=1, padding=1))


def _maximal(width: int) -> nn.Module:
    """Return a 3x3 convolution after ReLU, and its maxima over windows of 3x3."""
    return nn.Sequential(_conv(width), nn.MaxPool2d(3, stride=1, padding=1))


def _residual(width: int) -> nn.Module:
    """Return a residual block of two dense layers."""
    return Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))


def _normed(width: int) -> nn.Module:
    """Return a residual block of two dense layers behind a layer norm."""
    body = nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
    )
    return Residual(body)


def _normed_chain(width: int) -> nn.Module:
    """Return a layer norm, ReLU and a dense layer."""
    return nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))


# By name: a block of a width, whether it acts on pictures, and whether theta grows with depth.
KINDS = {
    "dense": (_dense, False, True),
    "dense, layer norm": (_normed_chain, False, False),
    "residual": (_residual, False, True),
    "residual, layer norm": (_normed, False, False),
    "convolution": (_conv, True, True),
    "convolution, mean": (_averaged, True, True),
    "convolution, maximum": (_maximal, True, True),
}


@experiment
def conv_and_residual(trial: Trial) -> None:
    """Theta by rule and kurtosis by samples over depth, for seven kinds of blocks."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {**dataclasses.asdict(plan), "blocks": BLOCKS, "side": SIDE}
    found = trial.steps({kind: partial(_measured, plan, kind) for kind in KINDS})
    for kind, one in found.items():
        trial.record.settings[f"method, {kind}"] = one["method"]
        for block, values in enumerate(one["blocks"]):
            start = f"{kind}, after {block} blocks"
            trial.figure(f"theta, rule, {start}", values["rule"])
            interval = (values["low"], values["high"])
            trial.figure(f"kurtosis, {start}", values["kurtosis"], interval=interval)
    _judge(trial, found)
    trial.record.notes = (
        f"Gaussian weights of He's scale, no biases, one random input, width {plan.width}; a first "
        "layer with weights, then blocks; kurtosis of one unit in the middle about its mean, with "
        "its bootstrap interval over draws of all weights."
    )
    trial.picture(_draw(trial))


def _network(kind: str, width: int) -> tuple[nn.Sequential, Tensor]:
    """Return a network of blocks, and an input for it."""
    block, on_pictures, _ = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    first = nn.Conv2d(1, width, 3, padding=1) if on_pictures else nn.Linear(width, width)
    shape = (1, 1, SIDE, SIDE) if on_pictures else (1, width)
    network = nn.Sequential(first, *(block(width) for _ in range(BLOCKS))).double()
    return network, torch.randn(shape, generator=generator, dtype=torch.float64)


def _measured(plan: Plan, kind: str) -> dict[str, Any]:
    """Return the rule and the kurtosis after each block."""
    network, x = _network(kind, plan.width)
    rule = tail_rule(network, x)
    unit = SIDE * SIDE // 2 + SIDE // 2 if KINDS[kind][1] else 0
    paths = {str(block): [unit] for block in range(BLOCKS + 1)}
    drawn = sample_units(network, x, "gaussian", plan.draws, paths, generator=0)
    blocks = [_of_block(rule.modules[path], drawn.values[path].flatten()) for path in paths]
    return {"blocks": blocks, "method": drawn.method}


def _of_block(rule: Any, values: Tensor) -> dict[str, float]:
    """Return what the rule and a sample (n,) say of a unit."""
    assert not isinstance(rule, Unknown)
    centred = values - values.mean()
    fourth = centred**4 / (centred**2).mean() ** 2
    low, high = bootstrap(fourth, resamples=400)
    return {"rule": rule.theta, "kurtosis": float(fourth.mean()), "low": low, "high": high}


def _judge(trial: Trial, found: dict[str, dict[str, Any]]) -> None:
    """Record whether kurtosis grows over depth where the rule says that theta does."""
    for kind, (_, _, growing) in KINDS.items():
        second, last = found[kind]["blocks"][1], found[kind]["blocks"][-1]
        grew = last["low"] > second["high"]
        word = "grows" if growing else "does not grow"
        goal = f"kurtosis {word} from the first to the last block, as theta by rule: {kind}"
        told = f"{second['kurtosis']:.2f} to {last['kurtosis']:.2f}"
        trial.goal(goal, "intervals apart" if growing else "intervals meet", told, grew == growing)


def _draw(trial: Trial) -> Any:
    """Draw kurtosis by depth, and theta by rule."""
    from merkhet.report.figures import COLOURS, figure
    from merkhet.report.lines import draw_line

    made, (rule, kurtosis) = figure(columns=2, width=5.2, height=4.0)
    places = range(BLOCKS + 1)
    styles = ("-", "--", "-.", ":", "-", "--", "-.")
    for kind, colour, style in zip(KINDS, COLOURS, styles, strict=False):
        starts = [f"{kind}, after {block} blocks" for block in places]
        values = [trial.record.figures[f"theta, rule, {start}"].value for start in starts]
        rule.plot(places, values, style, marker="o", ms=4, color=colour, label=kind)
        names = [f"kurtosis, {start}" for start in starts]
        draw_line(kurtosis, trial.record, places, names, kind, color=colour, linestyle=style)
    for axis in (rule, kurtosis):
        axis.set_xticks(list(places))
    rule.set(xlabel="blocks", ylabel="theta by rule", title="Asymptotic tail parameter")
    kurtosis.set(yscale="log", xlabel="blocks", ylabel="kurtosis", title="As samples show it")
    rule.legend(frameon=False, fontsize=7)
    return made
