"""The check of tails over inputs: activations of the network against those of fresh ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.checks.looking import (
    PASSES,
    affordable,
    fresh_networks,
    layers_by_input,
    penalty_code,
    run,
)
from merkhet.unit_prior.pictures import plot_by_depth, plot_survival
from merkhet.unit_prior.tails.hill import hill_weibull

UNITS = 64  # of a layer, drawn at random
HEAVY = 9.0  # kurtosis over inputs from which it is a finding
TIMES = 2.0  # the largest among fresh networks
NORMAL = 3.0


@dataclass
class Picked:
    """Values of some units of layers over inputs, by path."""

    units: dict[str, Tensor]
    seen: dict[str, list[Tensor]] = field(default_factory=dict)

    def take(self, path: str, output: Tensor) -> None:
        """Take in a batch of outputs."""
        values = output.flatten(1)[:, self.units[path].to(output.device)].double().cpu()
        self.seen.setdefault(path, []).append(values)

    def values(self) -> dict[str, Tensor]:
        """Return values (inputs, units) by path."""
        return {path: torch.cat(parts) for path, parts in self.seen.items()}


@dataclass(frozen=True)
class Tails:
    """Tails of a layer's units over inputs.

    Attributes:
        kurtosis: Of all units, each at mean 0 and variance 1; NaN where all are constant.
        theta: The effective tail parameter by Hill's estimator, None where it refuses.
        values: (inputs, units) at mean 0 and variance 1, those that are constant left out.
    """

    kurtosis: float
    theta: float | None
    values: Tensor


def trained_tails(subject: Subject, seconds: float) -> Section:
    """Compare the tails of activations over inputs with those of fresh networks."""
    layers, left_out = layers_by_input(subject)
    count = affordable(subject, seconds, PASSES)
    inputs = subject.inputs[:count]
    units = _drawn(layers, subject.seed)
    now = _tails(subject, subject.module, inputs, units)
    make, how = fresh_networks(subject, inputs)
    copies = [_tails(subject, fresh, inputs, units) for fresh in make()]
    fresh = {path: [copy[path] for copy in copies] for path in now}
    return Section(
        title="Tails of activations over inputs",
        summary=_summary(now, fresh),
        findings=_findings(now, fresh),
        tables=(_table(now, fresh),),
        pictures=_pictures(now, fresh),
        figures=_figures(now, fresh),
        notes=_notes(subject, count, f"{how}.{left_out[:-1]}" if left_out else how, now),
    )


def _drawn(layers: Sequence[Place], seed: int) -> dict[str, Tensor]:
    """Return some units of each layer, by path."""
    generator = torch.Generator().manual_seed(seed)
    return {
        place.path: torch.randperm(place.units, generator=generator)[:UNITS].sort().values
        for place in layers
    }


def _tails(
    subject: Subject, module: nn.Module, inputs: Tensor, units: dict[str, Tensor]
) -> dict[str, Tails]:
    """Return the tails of a network's layers over inputs, by path."""
    picked = Picked(units)
    run(subject, module, inputs, list(units), picked.take)
    return {path: tails_over_inputs(values) for path, values in picked.values().items()}


def tails_over_inputs(values: Tensor) -> Tails:
    """Return the tails of units over inputs, each unit at mean 0 and variance 1.

    Args:
        values: (inputs, units) float64.
    """
    centred = values - values.mean(0)
    std = centred.square().mean(0).sqrt()
    moving = std > 1e-9 * values.abs().amax(0)
    scaled = centred[:, moving] / std[moving]
    if not scaled.numel():
        return Tails(math.nan, None, scaled)
    try:
        theta = hill_weibull(scaled).theta
    except InputError:  # too few inputs, or values that are the same: kurtosis alone is told
        theta = None
    return Tails(float(scaled.pow(4).mean()), theta, scaled)


def _mean(found: Sequence[Tails]) -> float:
    """Return the mean kurtosis of copies, NaN where there is none."""
    known = [one.kurtosis for one in found if not math.isnan(one.kurtosis)]
    return sum(known) / len(known) if known else math.nan


def _theta(found: Sequence[Tails]) -> float:
    """Return the mean tail parameter of copies, NaN where the estimator refuses one."""
    known = [one.theta for one in found if one.theta is not None]
    return sum(known) / len(known) if len(known) == len(found) else math.nan


def _summary(now: dict[str, Tails], fresh: dict[str, list[Tails]]) -> str:
    """Say where activations have the heaviest tails over inputs."""
    known = {path: one.kurtosis for path, one in now.items() if not math.isnan(one.kurtosis)}
    if not known:
        return "No unit looked at changes with the input."
    worst = max(known, key=lambda path: known[path])
    return (
        f"Over inputs, the units of layer {worst} have a kurtosis of {known[worst]:.3g}, the "
        "largest of the layers looked at; in fresh networks they have "
        f"{_mean(fresh[worst]):.3g}, and {NORMAL:g} is normal."
    )


def _findings(now: dict[str, Tails], fresh: dict[str, list[Tails]]) -> tuple[Finding, ...]:
    """Find layers whose tails over inputs became heavy in training."""
    usual = {
        path: max((one.kurtosis for one in found), default=math.nan)
        for path, found in fresh.items()
    }
    heavy = {
        path: one.kurtosis
        for path, one in now.items()
        if one.kurtosis > max(HEAVY, TIMES * usual[path])
    }
    if not heavy:
        return ()
    worst = max(heavy, key=lambda path: heavy[path])
    times = heavy[worst] / _mean(fresh[worst])
    return (
        Finding(
            name=f"trained_tails(kurtosis,{worst})",
            value=heavy[worst],
            sentence=f"Over inputs, the units of layer {worst} have a kurtosis of "
            f"{heavy[worst]:.3g}, {times:.3g} times that of fresh networks: a few inputs drive "
            "them far out, as quantisation and half precision dislike.",
            yardstick=f"the same network freshly initialised, on the same inputs: "
            f"{_mean(fresh[worst]):.3g}",
            remedy="A penalty on the units of that layer, as of a normal prior, draws far ones "
            "in; divide u by the size that they should have.",
            code=penalty_code(worst),
            weight=min(0.4, 0.1 * math.log2(times)),
        ),
    )


def _table(now: dict[str, Tails], fresh: dict[str, list[Tails]]) -> Table:
    """Return kurtosis and tail parameters over inputs, by layer."""
    rows = tuple(
        (
            path,
            _told(one.kurtosis),
            _told(_mean(fresh[path])),
            _told(math.nan if one.theta is None else one.theta),
            _told(_theta(fresh[path])),
        )
        for path, one in now.items()
    )
    columns = ("layer", "kurtosis here", "fresh", "effective theta here", "fresh")
    return Table("Tails of units over inputs", columns, rows)


def _told(value: float) -> str:
    """Return a number, or that there is none."""
    return "none" if math.isnan(value) else f"{value:.3g}"


def _pictures(now: dict[str, Tails], fresh: dict[str, list[Tails]]) -> tuple[Picture, ...]:
    """Draw kurtosis by depth, and survival over inputs in the heaviest layer."""
    known = {path: one for path, one in now.items() if not math.isnan(one.kurtosis)}
    if not known:
        return ()
    lines = {
        "here": [one.kurtosis for one in now.values()],
        "fresh networks": [_mean(found) for found in fresh.values()],
    }
    depth = plot_by_depth(
        lines, "kurtosis over inputs", places=list(now), reference=("normal", NORMAL)
    )
    worst = max(known, key=lambda path: known[path].kurtosis)
    points = {f"{worst}, here": known[worst].values.flatten()}
    if fresh[worst][0].values.numel():
        points[f"{worst}, a fresh network"] = fresh[worst][0].values.flatten()
    return (
        Picture("Kurtosis of units over inputs, by depth.", to_svg(depth)),
        Picture(
            "P(|u| > x) over inputs, of the units of the layer with the largest kurtosis, each at "
            "mean 0 and variance 1.",
            to_svg(plot_survival({}, points)),
        ),
    )


def _figures(now: dict[str, Tails], fresh: dict[str, list[Tails]]) -> dict[str, float]:
    """Return every number by its machine-readable name; what there is not is left out."""
    figures: dict[str, float] = {}
    for path, one in now.items():
        figures[f"trained_tails(kurtosis,{path})"] = one.kurtosis
        figures[f"trained_tails(kurtosis,fresh,{path})"] = _mean(fresh[path])
        figures[f"trained_tails(theta,{path})"] = math.nan if one.theta is None else one.theta
        figures[f"trained_tails(theta,fresh,{path})"] = _theta(fresh[path])
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _notes(subject: Subject, count: int, how: str, now: dict[str, Tails]) -> tuple[str, ...]:
    """Say what was looked at, and what these tails are not."""
    refused = all(one.theta is None for one in now.values())
    few = " Too few inputs, or values, for an estimate of theta: kurtosis alone." if refused else ""
    return (
        "These are tails over inputs, of one network at a time; tails over weights, at one input, "
        f"are another thing. {count} of {len(subject.inputs)} inputs; {how}. Up to {UNITS} units "
        f"of a layer, each at mean 0 and variance 1 over the inputs, taken together.{few}",
        "Effective theta: Hill's estimator from the largest values, of which those of one input "
        "go together; 1/2 is normal.",
    )
