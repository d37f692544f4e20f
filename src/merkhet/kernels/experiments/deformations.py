"""How far deformed digits move in the feature spaces of convolutional kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from merkhet import data
from merkhet.core.deformations import deform
from merkhet.core.intervals import bootstrap
from merkhet.core.smooth_fields import smooth_displacement
from merkhet.kernels import (
    Conv2d,
    Exponential,
    Flatten,
    GaussianPool2d,
    Layer,
    Linear,
    ReLU,
    Sequential,
    diagonal,
    distance,
    gram,
)
from merkhet.report import Trial, experiment

SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # pixels that the farthest point moves
GRADIENT = 0.15  # largest gradient of a deformation of one pixel
SMALL = 4  # sizes that exponents are fitted to
COUNTS = {"small": (12, 80), "full": (100, 1000)}  # digits that are deformed, and compared
ROOT, LINEAR = (0.35, 0.75), 0.85


def _layers(act: Layer) -> list[Layer]:
    """Return the paper's two layers: 3x3 patches, Gaussian pooling by 2, then by 5."""
    first = [Conv2d(3, weight_std=1.0), act, GaussianPool2d(2)]
    return [*first, Conv2d(3), act, GaussianPool2d(5), Flatten()]


KERNELS = {
    "NTK": (Sequential(*_layers(ReLU()), Linear()), "ntk"),
    "NNGP": (Sequential(*_layers(ReLU())), "nngp"),
    "CKN": (Sequential(*_layers(Exponential(1.0))), "nngp"),
}


@experiment
def deformation_stability(trial: Trial) -> None:
    """Deformed digits move the NTK like the square root of the deformation, a CKN in proportion."""
    few, many = COUNTS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {"data": "mnist", "deformed": few, "compared": many}
    trial.record.settings |= {"pixels": list(SIZES), "gradient of one pixel": GRADIENT}
    moved = {}
    for name in KERNELS:
        moved[name] = [
            trial.step(f"{name} at {size:g} pixels", partial(_moved, name, size, few))
            for size in SIZES
        ]
        _curve(trial, name, moved[name])
        yardsticks = trial.step(f"yardsticks of {name}", partial(_yardsticks, name, many))
        for which, value in yardsticks.items():
            trial.figure(f"{name}, {which} distance, relative", value)
    _exponents(trial, moved)
    trial.record.notes = (
        "Distances over the length of the picture's own feature map; smooth random fields, bicubic "
        "interpolation. Intervals are bootstrap over digits. The distances are accurate to 1e-7 of "
        "themselves or better at every size."
    )
    trial.picture(_draw(trial))


def _moved(name: str, size: float, count: int) -> list[float]:
    """Return the relative distance that each digit moves by."""
    network, kind = KERNELS[name]
    digits = data.load("mnist", limit=count).floats().double()
    fields = smooth_displacement(
        digits.shape[2:],
        size,
        size * GRADIENT,
        generator=torch.Generator().manual_seed(0),
        count=count,
        dtype=torch.float64,
    )
    other = deform(digits, fields, interpolation="bicubic")
    apart = distance(network, digits, other, kind, pairs="each")
    lengths = torch.cat([diagonal(network, one[None], kind) for one in digits]).sqrt()
    found: list[float] = (apart / lengths).tolist()
    return found


def _yardsticks(name: str, count: int) -> dict[str, float]:
    """Return mean relative distances between digits of one label, and between all."""
    network, kind = KERNELS[name]
    digits = data.load("mnist", limit=count)
    assert digits.labels is not None
    kernel = gram(network, digits.floats(), kind=kind, progress=False).double()
    relative = _relative(kernel)
    same = digits.labels[:, None] == digits.labels
    others = ~torch.eye(count, dtype=torch.bool)
    means = {"same-label": relative[same & others], "all-label": relative[others]}
    return {which: float(values.mean()) for which, values in means.items()}


def _relative(kernel: Tensor) -> Tensor:
    """Return distances over the length of the first of each pair, (n, n)."""
    own = kernel.diagonal()
    squared = own[:, None] + own - 2 * kernel
    return squared.clamp(min=0).sqrt() / own.sqrt()[:, None]


def _curve(trial: Trial, name: str, moved: list[list[float]]) -> None:
    """Record the mean relative distance at each size."""
    for size, distances in zip(SIZES, moved, strict=True):
        values = torch.tensor(distances, dtype=torch.float64)
        mean = float(values.mean())
        trial.figure(f"{name}, moved at {size:g} pixels", mean, interval=bootstrap(values))


def _exponents(trial: Trial, moved: dict[str, list[list[float]]]) -> None:
    """Record how the distances grow at small deformations."""
    steps = torch.tensor(SIZES[:SMALL], dtype=torch.float64).log()
    centred = steps - steps.mean()
    for name, distances in moved.items():
        logs = torch.tensor(distances[:SMALL], dtype=torch.float64).log()
        slopes = centred @ logs / centred.square().sum()
        power = float(slopes.mean())
        trial.figure(f"{name}, exponent of growth", power, interval=bootstrap(slopes))
        if name == "NTK":
            low, high = ROOT
            met = low <= power <= high
            trial.goal("NTK: growth like the square root", f"{low} to {high}", power, met)
        else:
            met = power >= LINEAR
            trial.goal(f"{name}: growth in proportion", f"{LINEAR} or more", power, met)


def _draw(trial: Trial) -> Any:
    """Draw how far each kernel's map moves, with the same-label distance as a yardstick."""
    from merkhet.report.figures import COLOURS, figure

    made, axes = figure(1, 2)
    for axis, scale in zip(axes, ("linear", "log"), strict=True):
        for name, colour in zip(KERNELS, COLOURS, strict=False):
            found = [trial.record.figures[f"{name}, moved at {size:g} pixels"] for size in SIZES]
            ends = [one.interval or (one.value, one.value) for one in found]
            lows, highs = [low for low, _ in ends], [high for _, high in ends]
            axis.fill_between(SIZES, lows, highs, alpha=0.2, color=colour)
            axis.plot(SIZES, [one.value for one in found], "o-", ms=3, color=colour, label=name)
            same = trial.record.figures[f"{name}, same-label distance, relative"].value
            axis.axhline(same, color=colour, linewidth=0.8, linestyle=":")
        axis.set(xscale=scale, yscale=scale, xlabel="deformation, pixels")
        axis.set_ylabel("relative distance (dotted: same label)")
    axes[0].legend(frameon=False, fontsize=8)
    return made
