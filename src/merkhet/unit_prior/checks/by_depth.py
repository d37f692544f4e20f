"""The check of scales: how large units are by depth, now and in fresh networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.unit_prior.checks.looking import (
    PASSES,
    affordable,
    fresh_networks,
    layers_of,
    penalty_code,
    run,
)
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
    paths = [place.path for place in layers_of(subject)]
    count = affordable(subject, seconds, PASSES)
    inputs = subject.inputs[:count]
    now = _sizes(subject, subject.module, inputs, paths)
    make, how = fresh_networks(subject, inputs)
    copies = [_sizes(subject, fresh, inputs, paths) for fresh in make()]
    fresh = {path: _middle([copy[path] for copy in copies]) for path in paths}
    return Section(
        title="Scales by depth",
        summary=_summary(now, fresh, paths),
        findings=_findings(now, fresh, paths),
        tables=(_table(now, fresh, copies),),
        pictures=_pictures(now, fresh, copies),
        figures=_figures(now, fresh, paths),
        notes=(
            f"{count} of {len(subject.inputs)} inputs; {how}, of which the geometric mean is "
            "shown. Root mean square over inputs, units and positions, before the activation, of "
            f"{len(paths)} layers with weights, from first to last.",
        ),
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
    hidden = list(paths[:-1]) if len(paths) > 2 else list(paths)
    first, last = sizes[hidden[0]], sizes[hidden[-1]]
    return last / first if len(hidden) > 1 and first > 0 and last > 0 else math.nan


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
        return (_at_the_start(there),)
    if _far(here) > VERY_FAR:
        return (_since(here, there, max(paths[:-1], key=lambda path: now[path])),)
    return ()


def _at_the_start(there: float) -> Finding:
    """Return the finding of an initialisation that does not keep the scale."""
    word = "grow" if there > 1 else "shrink"
    return Finding(
        name="scales(fresh,ratio)",
        value=there,
        sentence=f"In freshly initialised networks units {word} {_far(there):.3g} times from the "
        "first layer to the last before the output: gradients do as much the other way.",
        yardstick=f"1; up to {FAR:g} trains without trouble",
        remedy="Compare initialisations on this network and take one that keeps the scale, or put "
        "norms between layers.",
        code="from merkhet.unit_prior import compare_initialisations; "
        "print(compare_initialisations(module, preprocess(inputs[:1])))",
        weight=min(0.6, 0.2 + 0.1 * math.log10(_far(there))),
    )


def _since(here: float, there: float, largest: str) -> Finding:
    """Return the finding of scales that training has driven apart."""
    word = "grow" if here > 1 else "shrink"
    return Finding(
        name="scales(ratio)",
        value=here,
        sentence=f"Units {word} {_far(here):.3g} times from the first layer to the last before "
        "the output: half precision and quantised layers lose the small ones.",
        yardstick=f"freshly initialised networks: {there:.3g}",
        remedy="Weight decay, or a penalty on the units of the layer that has grown, as of a "
        "normal prior of the scale input_norm, keeps scales together.",
        code=penalty_code(largest),
        weight=min(0.4, 0.1 * math.log10(_far(here))),
    )


def _table(
    now: dict[str, float], fresh: dict[str, float], copies: Sequence[dict[str, float]]
) -> Table:
    """Return sizes by layer."""
    rows = tuple(
        (path, f"{size:.3g}", f"{fresh[path]:.3g}", "{:.3g} to {:.3g}".format(*_ends(copies, path)))
        for path, size in now.items()
    )
    columns = ("layer", "here", "fresh networks", "from, to")
    return Table("Root mean square of units over inputs", columns, rows)


def _ends(copies: Sequence[dict[str, float]], path: str) -> tuple[float, float]:
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
    spread = {"fresh networks": [_ends(copies, path) for path in now]}
    drawn = plot_by_depth(lines, "root mean square of units", intervals=spread)
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
