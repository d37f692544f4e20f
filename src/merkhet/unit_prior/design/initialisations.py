"""Initialisations compared: what each makes of the units of a network, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator, check_counts
from merkhet.core.errors import InputError
from merkhet.core.graph import Unknown, trace
from merkhet.core.progress import progress_bar
from merkhet.unit_prior.analysis.places import first_example, places
from merkhet.unit_prior.sampling.initialised import Scheme, Start, schemes, tails_of, units_of
from merkhet.unit_prior.sampling.runs import Tell

NAMES = ("he", "xavier", "lecun", "init")
DRAWS = 1000  # where none are asked for: the command line has the same
KEEPS = 2.0  # largest over smallest standard deviation of layers, up to which a scale is kept
FAR = 10.0  # from last to first layer; beyond, it explodes or vanishes
OFF = 0.01  # probability that a whole layer is off, from which it is told
HEAVY = 9.0  # kurtosis from which it is told: three times a normal unit's


@dataclass(frozen=True)
class LayerLaw:
    """What an initialisation makes of the units of one layer, for one input.

    Attributes:
        path: Of the layer's module.
        std: Standard deviation of a unit; inf where it has none.
        kurtosis: E (g - E g)^4 / var^2, 3 for a normal unit; inf where it has none, NaN for a
            unit that is constant.
        dead: Probability that the unit is exactly 0.
        theta: The asymptotic tail parameter in words: "1.5", "at most 1.5", "power 3".
        method: How std, kurtosis and dead were got.
    """

    path: str
    std: float
    kurtosis: float
    dead: float
    theta: str
    method: str


@dataclass(frozen=True)
class Initialisation:
    """One initialisation of a network.

    Attributes:
        name: Of the initialisation.
        layers: The layers with weights, the first one first.
    """

    name: str
    layers: tuple[LayerLaw, ...]

    @property
    def ratio(self) -> float:
        """Standard deviation of the last layer over that of the first; NaN where there is none."""
        first, last = self.layers[0].std, self.layers[-1].std
        return last / first if first > 0 and math.isfinite(first + last) else math.nan

    @property
    def spread(self) -> float:
        """The largest standard deviation of a layer over the smallest; inf where one is 0."""
        stds = [layer.std for layer in self.layers]
        return max(stds) / min(stds) if min(stds) > 0 and math.isfinite(max(stds)) else math.inf

    @property
    def sound(self) -> bool:
        """Whether the scale is kept and layers are not off."""
        return self.spread <= KEEPS and max(layer.dead for layer in self.layers) <= OFF

    def verdict(self) -> str:
        """Say what it does to the scale, and what else stands out."""
        said = [_scale_told(self.ratio, self.spread)]
        dead = max(layer.dead for layer in self.layers)
        if dead > OFF:
            said.append(f"a whole layer is off with probability {dead:.1%}")
        kurtosis = max((one.kurtosis for one in self.layers if one.kurtosis > 0), default=0.0)
        if HEAVY < kurtosis < math.inf:
            said.append(f"units have a kurtosis of up to {kurtosis:.3g}")
        return "; ".join(said)


@dataclass(frozen=True)
class Comparison:
    """Initialisations of one network, for one input.

    Attributes:
        initialisations: As they were asked for.
        draws: Of fresh weights, where nothing exact is known.
    """

    initialisations: tuple[Initialisation, ...]
    draws: int

    @property
    def recommended(self) -> str:
        """The name of the one whose standard deviations differ least between layers.

        Those with a spread of at most 2 and whole layers off with at most 1 % come first.
        """
        ranked = sorted(self.initialisations, key=lambda one: (not one.sound, one.spread))
        return ranked[0].name

    def recommendation(self) -> str:
        """Say which to take, by the rule of `recommended`."""
        best = next(one for one in self.initialisations if one.name == self.recommended)
        if best.sound:
            return f"take {best.name}: its {best.verdict()}"
        return (
            f"none keeps the scale within a factor of {KEEPS:g}; nearest is {best.name}: its "
            f"{best.verdict()}. Set the gain by solve_scale, or put norms between layers"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it; what is infinite or no number is None."""
        return {
            "draws": self.draws,
            "recommended": self.recommended,
            "initialisations": [
                {
                    **_plain({"name": one.name, "ratio": one.ratio, "verdict": one.verdict()}),
                    "layers": [_plain(asdict(layer)) for layer in one.layers],
                }
                for one in self.initialisations
            ],
        }

    def __str__(self) -> str:
        heads = ("initialisation", "layer", "std", "kurtosis", "dead", "theta")
        rows: list[tuple[str, ...]] = [heads]
        for one in self.initialisations:
            rows += [(one.name, *_cells(layer)) for layer in one.layers]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        said = [f"{one.name}: {one.verdict()}" for one in self.initialisations]
        return "\n".join([*lines, *self._methods(), *said, self.recommendation()])

    def _methods(self) -> list[str]:
        """Return a line for each way in which the table's numbers were got."""
        names: dict[str, list[str]] = {}
        for one in self.initialisations:
            for method in dict.fromkeys(layer.method for layer in one.layers):
                names.setdefault(method, []).append(one.name)
        return [f"numbers of {', '.join(those)}: {method}" for method, those in names.items()]


def compare_initialisations(
    module: nn.Module,
    x: Tensor,
    names: Sequence[str] = NAMES,
    *,
    n: int = DRAWS,
    generator: int | torch.Generator | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare initialisations of a network by what its units are at one input.

    Dense chains under Gaussian weights are exact; elsewhere n draws of fresh weights are taken,
    of one unit of each layer (the first feature, at the middle position), before the activation.

    Args:
        module: The network; only its architecture matters, unless "init" is asked for. It is
            left as found.
        x: Inputs (batch, ...), of which the first one is taken.
        names: "he", "xavier", "lecun" (Gaussian), "he_uniform", "xavier_uniform",
            "lecun_uniform", "orthogonal" (with gain sqrt(2)), "init" (each module's own), or a
            prior as `weight_prior` takes it, such as "laplace" or "student(3)".
        n: Draws.
        generator: A seed or a generator; None is the seed 0. Each name begins at the same place.
        progress: Whether a terminal shows a bar.

    Raises:
        InputError: No names or such as do not exist, no layers with weights, or a network that
            does not run on x.
    """
    check_counts(n=n)
    asked = schemes(names)
    example = first_example(x)
    layers = [place for place in places(module, example, None) if place.weighted]
    if not layers:
        raise InputError("the network runs no layer with weights: there is nothing to initialise")
    source = as_generator(0 if generator is None else generator)
    seed = int(torch.randint(2**62, (), generator=source, device=source.device))
    start = Start(module, trace(module, example), example, layers)
    with progress_bar("units", n * len(asked), unit="draws", shown=progress) as tell:
        found = [_initialisation(start, one, n, as_generator(seed), tell) for one in asked]
    return Comparison(tuple(found), n)


def _initialisation(
    start: Start, one: Scheme, n: int, generator: torch.Generator, tell: Tell
) -> Initialisation:
    """Return what one initialisation makes of the layers."""
    units, tails = units_of(start, one, n, generator, tell), tails_of(start, one)
    found = tuple(
        LayerLaw(place.path, *units.numbers[place.path], tail_told(tails[place.path]), units.method)
        for place in start.layers
    )
    return Initialisation(one.name, found)


def tail_told(tail: Any) -> str:
    """Return a tail parameter in words."""
    if isinstance(tail, Unknown):
        return "unknown"
    if tail.theta == math.inf:
        return "infinite" if tail.index is None else f"power {tail.index:g}"
    return f"{tail.theta:g}" if tail.exact else f"at most {tail.theta:g}"


def _scale_told(ratio: float, spread: float) -> str:
    """Say what happens to the scale over depth."""
    if math.isnan(ratio):
        return "units have no standard deviation to compare"
    if spread <= KEEPS:
        return f"scale is kept, within a factor of {max(spread, 1.0):.3g}"
    if ratio > KEEPS or ratio < 1 / KEEPS:
        mild, wild = ("grows", "explodes") if ratio > 1 else ("shrinks", "vanishes")
        word = mild if 1 / FAR <= ratio <= FAR else wild
        return f"scale {word}, {ratio:.3g} times from first to last"
    return f"scale differs between layers, by a factor of {spread:.3g}"


def _cells(layer: LayerLaw) -> tuple[str, ...]:
    """Return a layer's row of the table."""
    numbers = (f"{layer.std:.4g}", f"{layer.kurtosis:.4g}", f"{layer.dead:.2g}")
    return (layer.path or "output", *numbers, layer.theta)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None for what JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
