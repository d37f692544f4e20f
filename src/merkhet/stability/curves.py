"""The result of measuring stability: one curve, its slope and its growth, with intervals."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.stability.distances import Estimate, Yardsticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ESTIMATES = ("same_label", "all_label", "slope", "exponent")


@dataclass(frozen=True)
class StabilityCurve:
    """Mean relative distance `|Phi(x') - Phi(x)| / |Phi(x)|` against size of deformation.

    Intervals are 95 % percentile bootstrap intervals over the inputs: distances are positive
    and skewed, and one resampling serves the curve, its slope and its exponent alike. They say
    how much the mean depends on the inputs (and directions) drawn, nothing about the worst case:
    a curve is an average, and no bound in either direction.

    Attributes:
        kind: "translation", "rotation", "scaling" or "deformation".
        unit: Of the sizes.
        layer: Path of the layer; "" is the output.
        sizes: Increasing sizes, all above 0; at 0 the distance is 0.
        mean: Mean relative distance at each size.
        low: Lower ends of the means' intervals.
        high: Upper ends.
        max_displacement: `|tau|_inf` at each size, in pixels.
        max_gradient: `|grad tau|_inf` at each size; the theory's bound wants at most 1/2.
        same_label: Mean relative distance between inputs of one label, or None.
        all_label: The same between inputs of any labels, or None.
        slope: Relative distance for each unit of size, from the line through the origin fitted to
            the smaller half of the sizes. It means something where `exponent` is near 1.
        exponent: Slope of log distance against log size over the same sizes: 1 where the distance
            grows in proportion, 1/2 where it grows like the square root (a map that is not
            Lipschitz). None with one size, or where a mean is 0.
        count: Inputs that the means are over.
        excluded: Inputs left out because their representation is 0.
    """

    kind: str
    unit: str
    layer: str
    sizes: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_displacement: tuple[float, ...]
    max_gradient: tuple[float, ...]
    same_label: Estimate | None
    all_label: Estimate | None
    slope: Estimate
    exponent: Estimate | None
    count: int
    excluded: int

    def at(self, size: float) -> float:
        """Return the mean relative distance at a size, linear between the sizes measured.

        Raises:
            InputError: The size is below 0 or beyond the largest measured.
        """
        if not 0 <= size <= self.sizes[-1]:
            raise InputError(
                f"size {size} of a {self.kind} measured up to {self.sizes[-1]:g}: give one from 0 "
                "to that"
            )
        sizes, means = (0.0, *self.sizes), (0.0, *self.mean)
        right = max(1, bisect_left(sizes, size))
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return means[right - 1] + share * (means[right] - means[right - 1])

    def rows(self) -> list[dict[str, float]]:
        """Return one row a size: size, mean, low, high, max_displacement, max_gradient."""
        names = ("mean", "low", "high", "max_displacement", "max_gradient")
        return [
            {"size": size, **{name: getattr(self, name)[index] for name in names}}
            for index, size in enumerate(self.sizes)
        ]

    def table(self) -> str:
        """Return the curve as lines of text."""
        where = f" of layer {self.layer}" if self.layer else ""
        lines = [f"{self.kind} ({self.unit}): relative distance{where}, {self.count} inputs"]
        lines += [
            f"{row['size']:>10g}  {row['mean']:.4f}  [{row['low']:.4f}, {row['high']:.4f}]"
            for row in self.rows()
        ]
        yardsticks = (("same label", self.same_label), ("any label", self.all_label))
        lines += [
            f"{name:>10}  {found.value:.4f}  [{found.low:.4f}, {found.high:.4f}]"
            for name, found in yardsticks
            if found
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> StabilityCurve:
        """Return the curve that `to_dict` gave, also when it went through JSON.

        Raises:
            InputError: The record is not a curve's.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(record) != names:
            odd = ", ".join(sorted(names ^ set(record)))
            raise InputError(f"not the record of a stability curve: check the fields {odd}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in record.items()
        }
        for name in _ESTIMATES:
            values[name] = None if values[name] is None else Estimate(**values[name])
        return cls(**values)

    def plot(self, axis: Axes, *, label: str | None = None, colour: str | None = None) -> None:
        """Draw the means with their band, and the yardsticks: dashed same label, dotted any.

        Args:
            axis: Where to draw.
            label: Of the line in a legend, by default the layer.
            colour: Of all that is drawn, by default the axis' next.
        """
        (line,) = axis.plot(
            (0.0, *self.sizes),
            (0.0, *self.mean),
            marker="o",
            markersize=3,
            color=colour,
            label=label or self.layer or "output",
        )
        colour = line.get_color()
        axis.fill_between(
            (0.0, *self.sizes),
            (0.0, *self.low),
            (0.0, *self.high),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        for found, style in ((self.same_label, "--"), (self.all_label, ":")):
            if found:
                axis.axhline(found.value, color=colour, linestyle=style, linewidth=0.8, alpha=0.6)


def curve(
    distances: Tensor,
    description: Mapping[str, Any],
    yardsticks: Yardsticks,
    generator: torch.Generator,
    resamples: int = 1000,
) -> StabilityCurve:
    """Return the curve of the relative distances measured.

    Args:
        distances: (inputs, sizes) float64, rows of NaN where an input is to be left out.
        description: The fields kind, unit, layer, sizes, max_displacement and max_gradient.
        yardsticks: Distances between different inputs.
        generator: Draws the resamples.
        resamples: How many.
    """
    kept = distances[~distances.isnan().any(1)]
    sizes = torch.tensor(description["sizes"], dtype=torch.float64)
    mean = kept.mean(0)
    again = _resampled_means(kept, generator, resamples)
    low, high = _interval(again)
    exponent = None
    if len(sizes) > 1 and bool((mean > 0).all()):
        exponent = _estimate(_exponents(mean, sizes), _exponents(again, sizes))
    return StabilityCurve(
        **description,
        mean=tuple(mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        same_label=yardsticks.same_label,
        all_label=yardsticks.all_label,
        slope=_estimate(_slopes(mean, sizes), _slopes(again, sizes)),
        exponent=exponent,
        count=len(kept),
        excluded=len(distances) - len(kept),
    )


def _resampled_means(values: Tensor, generator: torch.Generator, resamples: int) -> Tensor:
    """Return the means of resampled inputs, (resamples, sizes)."""
    count = len(values)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    weights = torch.zeros(resamples, count, dtype=values.dtype)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    return weights @ values / count


def _slopes(means: Tensor, sizes: Tensor) -> Tensor:
    """Return slopes of least-squares lines through the origin over the smaller sizes, (...)."""
    near = sizes[: _smaller(sizes)]
    return means[..., : len(near)] @ near / near.square().sum()


def _exponents(means: Tensor, sizes: Tensor) -> Tensor:
    """Return slopes of log distance against log size over the smaller sizes, (...)."""
    logs = sizes[: _smaller(sizes)].log()
    logs = logs - logs.mean()
    tiny = torch.finfo(means.dtype).tiny
    return means[..., : len(logs)].clamp_min(tiny).log() @ logs / logs.square().sum()


def _smaller(sizes: Tensor) -> int:
    """Return how many sizes count as small: half of them, and two where there are two."""
    return min(len(sizes), max(2, (len(sizes) + 1) // 2))


def _estimate(value: Tensor, resampled: Tensor) -> Estimate:
    """Return a number with its percentile interval."""
    low, high = _interval(resampled)
    return Estimate(float(value), float(low), float(high))


def _interval(resampled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2.5 and 97.5 % quantiles over the first axis."""
    low, high = resampled.quantile(resampled.new_tensor([0.025, 0.975]), dim=0)
    return low, high
