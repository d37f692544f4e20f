"""The check of tails over weights: what units are before training, for one input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from merkhet.core.graph import Unknown, trace
from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.unit_prior.analysis.dense_chains import chain_of
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.checks.looking import example_of, layers_of
from merkhet.unit_prior.checks.weight_units import Unit, exact_units, sampled_units
from merkhet.unit_prior.design.initialisations import tail_told
from merkhet.unit_prior.pictures import plot_by_depth, plot_survival
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.rules.tail_rule import TailReading, read_tails
from merkhet.unit_prior.weight_priors import Gaussian, weight_prior

HEAVY = 9.0  # kurtosis from which it is a finding: three times a normal unit's
SURE = 1.96  # standard errors by which a sampled kurtosis must be above
NORMAL = 3.0
SHOWN = 4  # layers whose survival is drawn
DEEPEST = -30.0  # log of the least probability that is drawn
PRIORS = ("gaussian", "init")  # that tail parameters are told for
Readings = dict[str, TailReading]


def unit_tails(subject: Subject, seconds: float) -> Section:
    """Read tail parameters by rule, and measure the kurtosis of units over fresh weights."""
    example, layers = example_of(subject), layers_of(subject)
    network = trace(subject.module, example)
    readings = {name: read_tails(subject.module, network, weight_prior(name)) for name in PRIORS}
    chain = chain_of(subject.module, network, example, Gaussian())
    prior = None
    if isinstance(chain, str):
        units, how = sampled_units(subject, example, layers, chain, seconds)
    else:
        prior = UnitPrior.from_spec(chain[0])
        units, how = exact_units(prior, chain, layers)
    return Section(
        title="Tails of units over fresh weights",
        summary=_summary(readings, units, layers),
        findings=heavy_units(units),
        tables=(_table(readings, units),),
        pictures=_pictures(units, prior),
        figures=_figures(readings, units),
        notes=(*_notes(readings, layers, how), *network.caveats()),
    )


def _summary(readings: Readings, units: Sequence[Unit], layers: Sequence[Place]) -> str:
    """Say how heavy the tails become."""
    last = layers[-1].path
    deepest = _theta(readings["gaussian"], last)
    heaviest = max((unit for unit in units if unit.kurtosis > 0), key=_kurtosis, default=None)
    seen = (
        ""
        if heaviest is None
        else (
            f" At the input looked at the kurtosis is {heaviest.kurtosis:.3g} at most, in "
            f"layer {heaviest.place.path} ({NORMAL:g} is a normal unit's)."
        )
    )
    if deepest == "unknown":
        return (
            f"How the tails of the last layer looked at, {last}, fall over fresh Gaussian weights "
            f"is not known by rule.{seen}"
        )
    return (
        f"Over fresh Gaussian weights a unit u of the last layer looked at, {last}, has a tail "
        f"parameter theta of {deepest}: P(|u| > x) falls like exp(-x^(1/theta)), and 1/2 is a "
        f"normal unit's.{seen}"
    )


def _kurtosis(unit: Unit) -> float:
    """Return what units are ranked by."""
    return unit.kurtosis


def _theta(reading: TailReading, path: str) -> str:
    """Return the tail parameter of a module's output in words."""
    return tail_told(reading.modules[path]) if path in reading.modules else "unknown"


def heavy_units(units: Sequence[Unit]) -> tuple[Finding, ...]:
    """Find units that are far from normal before training."""
    heavy = [unit for unit in units if unit.kurtosis - SURE * unit.error > HEAVY]
    if not heavy:
        return ()
    worst = max(heavy, key=_kurtosis)
    about = "" if worst.error == 0 else "about "
    return (
        Finding(
            name=f"unit_tails(kurtosis,{worst.place.path})",
            value=worst.kurtosis,
            sentence=f"Over fresh Gaussian weights a unit of {worst.place.path} has a kurtosis of "
            f"{about}{worst.kurtosis:.3g}: a few initialisations make it very large, most small.",
            yardstick=f"{NORMAL:g}, a normal unit's; wide layers stay near it",
            remedy="Width brings units nearer to normal, and norms between layers take the common "
            "scale out. The width that keeps the kurtosis of a dense ReLU network at 4:",
            code="from merkhet.unit_prior import solve_scale\n"
            f"print(solve_scale('kurtosis=4', widths=(100,) * {max(1, len(units) - 1)}))",
            weight=min(0.4, 0.1 * math.log2(worst.kurtosis / NORMAL)),
        ),
    )


def _table(readings: Readings, units: Sequence[Unit]) -> Table:
    """Return tail parameters and kurtosis by layer."""
    rows = tuple(
        (
            unit.place.path,
            unit.place.operation,
            *(_theta(reading, unit.place.path) for reading in readings.values()),
            _told(unit),
        )
        for unit in units
    )
    columns = ("layer", "operation", "theta, Gaussian weights", "theta, own init", "kurtosis")
    return Table("Tails over fresh weights, of one unit at one input", columns, rows)


def _told(unit: Unit) -> str:
    """Return a kurtosis with its standard error."""
    if math.isnan(unit.kurtosis):
        return "constant"
    error = f" ± {unit.error:.2g}" if unit.error else ""
    return f"{unit.kurtosis:.4g}{error}"


def _pictures(units: Sequence[Unit], prior: UnitPrior | None) -> tuple[Picture, ...]:
    """Draw kurtosis by depth, and survival functions on Weibull paper."""
    shown = [unit.kurtosis for unit in units]
    if not any(map(math.isfinite, shown)):
        return ()
    depth = plot_by_depth(
        {"over fresh weights": shown},
        "kurtosis",
        places=[unit.place.path for unit in units],
        reference=("a normal unit", NORMAL),
    )
    caption = "Kurtosis of a unit over fresh weights, by depth."
    return (Picture(caption, to_svg(depth)), _survival(units, prior))


def _survival(units: Sequence[Unit], prior: UnitPrior | None) -> Picture:
    """Draw survival functions, exact or of the draws."""
    step = max(1, len(units) // SHOWN)
    some = list(units)[::-step][:SHOWN][::-1]
    caption = "P(|u| > x) over fresh weights, on paper where exp(-x^(1/theta)) is a line."
    if prior is None:
        points = {unit.place.path: unit.sample for unit in some if unit.sample is not None}
        return Picture(caption, to_svg(plot_survival({}, points)))
    log_p = torch.linspace(-0.1, DEEPEST, 60, dtype=torch.float64)
    curves = {}
    for unit in some:
        t = prior.quantile(log_p.exp(), unit.layer).value
        curves[unit.place.path] = (t[t > 0], log_p[t > 0])
    return Picture(caption, to_svg(plot_survival(curves)))


def _figures(readings: Readings, units: Sequence[Unit]) -> dict[str, float]:
    """Return every number by its machine-readable name; what is infinite is left out."""
    figures = {f"unit_tails(kurtosis,{unit.place.path})": unit.kurtosis for unit in units}
    for name, reading in readings.items():
        for unit in units:
            tail = reading.modules.get(unit.place.path)
            if tail is not None and not isinstance(tail, Unknown):
                figures[f"unit_tails(theta,{name},{unit.place.path})"] = tail.theta
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _notes(readings: Readings, layers: Sequence[Place], how: str) -> tuple[str, ...]:
    """Say what was looked at, and what these tails are not."""
    last = layers[-1].path
    reason = " ".join(
        f"Of {last}, with {name} weights: {reading.modules[last].reason}."
        for name, reading in readings.items()
        if last in reading.modules
    )
    return (
        f"These are tails over weights, drawn anew, at the sample's first input; tails over "
        f"inputs are another thing. {how} One unit of each layer, before the activation.",
        f"theta is the asymptotic tail parameter, by rule for each operation. {reason} At "
        "usual widths it shows only at probabilities far below what can be sampled.",
        "Vladimirova, Verbeek, Mesejo and Arbel, ICML 2019, arXiv 1810.05193.",
    )
