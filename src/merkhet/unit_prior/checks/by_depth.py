"""The check of scales: how large units are by depth, now and in fresh networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn

from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.unit_prior.checks.looking import (
    COMPARE,
    PASSES,
    affordable,
    fresh_networks,
    layers_by_input,
    penalty_code,
    run,
)
from merkhet.unit_prior.checks.streams import stream, unsettled_norms
from merkhet.unit_prior.pictures import plot_by_depth

FAR = 10.0  # from the first to the last layer before the output, of a fresh network
VERY_FAR = 100.0  # of the network as it is, where a fresh one stays within `FAR`


@dataclass
class Sizes:
    """Sums of squares of the units of layers, by path."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, path: str, output: Tensor) -> None:
        """Take in a batch of outputs."""
        self.sums[path] = self.sums.get(path, 0.0) + float(output.double().square().sum())
        self.counts[path] = self.counts.get(path, 0) + output.numel()

    def roots(self) -> dict[str, float]:
        """Return the root mean square of units, by path."""
        return {path: math.sqrt(total / self.counts[path]) for path, total in self.sums.items()}


def scales(subject: Subject, seconds: float) -> Section:
    """Measure the root mean square of the units of each layer, here and in fresh copies."""
    layers, left_out = layers_by_input(subject)
    paths = [place.path for place in layers]
    along = stream(subject.network, paths)
    count = affordable(subject, seconds, PASSES)
    inputs = subject.inputs[:count]
    now = _sizes(subject, subject.module, inputs, paths)
    make, how = fresh_networks(subject, inputs)
    copies = [_sizes(subject, fresh, inputs, paths) for fresh in make()]
    fresh = {path: _middle([copy[path] for copy in copies]) for path in paths}
    return Section(
        title="Scales by depth",
        summary=_summary(now, fresh, along),
        findings=unsettled_norms(subject.module) or _findings(now, fresh, along),
        tables=(_table(now, fresh, copies),),
        pictures=_pictures(now, fresh, copies),
        figures=_figures(now, fresh, along),
        notes=(
            f"{count} of {len(subject.inputs)} inputs; {how}, of which the geometric mean is "
            "shown. Root mean square over inputs, units and positions, before the activation, of "
            f"{len(paths)} layers with weights, from first to last.{left_out}{_ends(paths, along)}",
        ),
    )


def _ends(paths: Sequence[str], along: Sequence[str]) -> str:
    """Say how many layers are shown without being compared."""
    count = len(paths) - len(along)
    if not count:
        return ""
    return (
        f" Shown and not compared: {count} of them, whose results are added to others and may "
        "be of any size."
    )


def _sizes(
    subject: Subject, module: nn.Module, inputs: Tensor, paths: list[str]
) -> dict[str, float]:
    """Return the root mean squares of a network's layers, by path."""
    found = Sizes()
    run(subject, module, inputs, paths, found.take)
    return found.roots()


def _middle(values: Sequence[float]) -> float:
    """Return the geometric mean; 0 where one is 0."""
    if min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def ratio(sizes: dict[str, float], paths: Sequence[str]) -> float:
    """Return the size of the last layer before the output over that of the first.

    NaN where there is one layer only, or a size of 0; the output's own scale is that of the
    targets.
    """
    hidden = _hidden(paths)
    first, last = sizes[hidden[0]], sizes[hidden[-1]]
    return last / first if len(hidden) > 1 and first > 0 and last > 0 else math.nan


def _hidden(paths: Sequence[str]) -> list[str]:
    """Return the layers before the output, where there are two or more."""
    return list(paths[:-1]) if len(paths) > 2 else list(paths)


def _far(value: float) -> float:
    """Return a ratio or its inverse, whichever is above 1; 1 where there is none."""
    return max(value, 1 / value) if value > 0 else 1.0


def _summary(now: dict[str, float], fresh: dict[str, float], paths: Sequence[str]) -> str:
    """Say how scales change over depth."""
    here, there = ratio(now, paths), ratio(fresh, paths)
    if math.isnan(here) or math.isnan(there):
        return (
            f"The units of {paths[0]} have a root mean square of {now[paths[0]]:.3g} here and of "
            f"{fresh[paths[0]]:.3g} in fresh networks."
        )
    return (
        "From the first layer to the last before the output, the root mean square of units "
        f"changes {there:.3g} times in fresh networks and {here:.3g} times in this one."
    )


def _findings(
    now: dict[str, float], fresh: dict[str, float], paths: Sequence[str]
) -> tuple[Finding, ...]:
    """Find scales that explode or vanish."""
    there, here = ratio(fresh, paths), ratio(now, paths)
    if _far(there) > FAR:
        return (_at_the_start(fresh, _hidden(paths)),)
    if _far(here) > VERY_FAR and there > 0:
        return (_since(now, fresh, _hidden(paths)),)
    return ()


def _at_the_start(fresh: dict[str, float], hidden: Sequence[str]) -> Finding:
    """Return the finding of an initialisation that does not keep the scale."""
    there = fresh[hidden[-1]] / fresh[hidden[0]]
    alive = [path for path in hidden if fresh[path] > 0]
    steps = {path: fresh[path] / fresh[before] for before, path in pairwise(alive)}
    worst = max(steps, key=lambda path: _far(steps[path]))
    return Finding(
        name="scales(fresh,ratio)",
        value=there,
        sentence=f"In freshly initialised networks the units of layer {hidden[-1]} are "
        f"{_told(there)} as those of layer {hidden[0]}, the first: gradients change as much the "
        f"other way. The largest step is at layer {worst}: {_told(steps[worst])} as at the one "
        "before.",
        yardstick=f"1; up to {FAR:g} times larger or smaller trains without trouble",
        remedy="Take an initialisation that keeps the scale of this network, for which this "
        "compares some at the first input, or put norms between layers.",
        code=COMPARE,
        weight=min(0.6, 0.2 + 0.1 * math.log10(_far(there))),
    )


def _since(now: dict[str, float], fresh: dict[str, float], hidden: Sequence[str]) -> Finding:
    """Return the finding of scales that training has driven apart."""
    here = now[hidden[-1]] / now[hidden[0]]
    moved = {path: now[path] / fresh[path] for path in hidden if now[path] * fresh[path] > 0}
    worst = max(moved, key=lambda path: _far(moved[path]))
    return Finding(
        name="scales(ratio)",
        value=here,
        sentence=f"The units of layer {hidden[-1]} are {_told(here)} as those of layer "
        f"{hidden[0]}, the first: half precision and quantised layers lose the small ones. "
        f"Furthest from fresh networks is layer {worst}, with units {_told(moved[worst])} as "
        "there.",
        yardstick="freshly initialised networks: "
        f"{_told(fresh[hidden[-1]] / fresh[hidden[0]])} as in the first layer",
        remedy=f"A penalty on the units of layer {worst} draws them back to the size of fresh "
        f"networks, {fresh[worst]:.3g}; weight decay does so more slowly.",
        code=penalty_code(worst, fresh[worst]),
        weight=min(0.4, 0.1 * math.log10(_far(here))),
    )


def _told(times: float) -> str:
    """Return a ratio in words that "as" follows."""
    far = _far(times)
    told = f"{far:.3g}" if far < 1000 else f"{far:,.0f}" if far < 1e6 else f"{far:.1g}"
    return f"{told} times as {'large' if times >= 1 else 'small'}"


def _table(
    now: dict[str, float], fresh: dict[str, float], copies: Sequence[dict[str, float]]
) -> Table:
    """Return sizes by layer."""
    rows = tuple(
        (
            path,
            f"{size:.3g}",
            f"{fresh[path]:.3g}",
            "{:.3g} to {:.3g}".format(*_range(copies, path)),
        )
        for path, size in now.items()
    )
    columns = ("layer", "here", "fresh networks", "from, to")
    return Table("Root mean square of units over inputs", columns, rows)


def _range(copies: Sequence[dict[str, float]], path: str) -> tuple[float, float]:
    """Return the least and the largest size of a layer among copies."""
    sizes = [copy[path] for copy in copies]
    return min(sizes), max(sizes)


def _pictures(
    now: dict[str, float], fresh: dict[str, float], copies: Sequence[dict[str, float]]
) -> tuple[Picture, ...]:
    """Draw sizes by depth, where there is one to see."""
    if len(now) < 2:
        return ()
    lines = {"here": list(now.values()), "fresh networks": list(fresh.values())}
    spread = {"fresh networks": [_range(copies, path) for path in now]}
    drawn = plot_by_depth(lines, "root mean square of units", places=list(now), intervals=spread)
    caption = "Root mean square of units over inputs, by depth; the band, all fresh networks."
    return (Picture(caption, to_svg(drawn)),)


def _figures(
    now: dict[str, float], fresh: dict[str, float], paths: Sequence[str]
) -> dict[str, float]:
    """Return every number by its machine-readable name."""
    figures = {f"scales({path})": size for path, size in now.items()}
    figures |= {f"scales(fresh,{path})": size for path, size in fresh.items()}
    figures |= {"scales(ratio)": ratio(now, paths), "scales(fresh,ratio)": ratio(fresh, paths)}
    return {name: value for name, value in figures.items() if math.isfinite(value)}
