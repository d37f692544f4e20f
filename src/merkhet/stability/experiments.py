"""Evidence: stability of trained, random and raw representations, and what shapes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet import data, models
from merkhet.core.deformations import translate
from merkhet.core.intervals import bootstrap
from merkhet.report import Trial, experiment
from merkhet.stability import (
    Conditions,
    StabilityCurve,
    measure_yardsticks,
    plot_curves,
    pooling_gap,
    stability_curves,
)
from merkhet.training import Optimisation, TrainingConfig, accuracy, fit

SIZES = {
    "translation": (0.25, 0.5, 1.0, 2.0, 4.0),
    "rotation": (1.0, 2.0, 5.0, 10.0, 20.0),
    "deformation": (0.25, 0.5, 1.0, 2.0, 4.0),
}
LAYERS = ("features.3", "features.7", "average", "")
NAMES = {"features.3": "first pooling", "features.7": "second pooling", "average": "tiles", "": ""}
SIGMAS = (1.0, 2.0, 4.0, 8.0)
PATCHES = (3, 5, 7, 11)
DEPTHS = (1, 2, 3, 4, 5)
SHIFT = 2.0  # pixels: the translation at which pooling scales are compared
BEND = 1.0  # pixels: the deformation at which patches and depths are compared
FIRST_SIGMA = 1.0
BORDER = 8
BY_YARDSTICK = ", in same-label distances"
TRAINING = Optimisation(learning_rate=5e-3)


NOTES = (
    "Means over random motions of test digits, by bicubic interpolation; the bounds are about the "
    "worst case, so a trend that the bound allows and the mean does not show contradicts neither."
)


@experiment
def representations(trial: Trial) -> None:
    """Curves of a trained CNN, random networks and raw pixels on MNIST; pooling, patch, depth."""
    small = trial.size == "small"
    trial.record.seeds = [0, 1, 2] if small else list(range(10))
    settings = {"data": "mnist", "inputs": 200 if small else 2000, "steps": 600 if small else 4000}
    trial.record.settings = {**settings, "widths": 64 if small else 256}
    curves = [
        trial.step(f"curves, seed {seed}", partial(_layers, trial, seed))
        for seed in trial.record.seeds
    ]
    _report_layers(trial, curves)
    trends = {
        name: [
            trial.step(f"{name}, seed {seed}", partial(measure, trial, seed))
            for seed in trial.record.seeds
        ]
        for name, measure in TRENDS.items()
    }
    _report_trends(trial, trends)
    trial.record.notes = NOTES
    trial.picture(_draw_trends(trends), "_trends")


class Homogeneous(nn.Module):
    """A random convolutional network of the kind that the theory speaks of.

    An initial pooling A_0 (Gaussian, one pixel), which makes the picture smooth enough to be
    moved by parts of a pixel; layers of patches, random Gaussian filters and ReLU (with weights
    of variance 2 / fan-in they keep norms on average); one last Gaussian pooling. Zero padding,
    stride 1.

    Shapes: (batch, 1, height, width) -> (batch, width, height, width).

    Args:
        width: Filters of each layer.
        patch: Side of the patches of the last layer; those before have side 3.
        depth: Layers.
        sigma: Standard deviation of the pooling in pixels.
        seed: Of the weights.
    """

    def __init__(self, width: int, patch: int, depth: int, sigma: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sides = [3] * (depth - 1) + [patch]
        channels = [1] + [width] * depth
        self.weights = nn.ParameterList(
            torch.randn(after, before, side, side, generator=generator)
            * (2 / (before * side**2)) ** 0.5
            for before, after, side in zip(channels[:-1], channels[1:], sides, strict=True)
        )
        self.register_buffer("first", gaussian(FIRST_SIGMA))
        self.register_buffer("last", gaussian(sigma))

    def maps(self, x: Tensor) -> Tensor:
        """Return the maps before the last pooling, (batch, width, height, width)."""
        x = pool(x, self.get_buffer("first"))
        for weight in self.weights:
            x = F.relu(F.conv2d(x, weight, padding=weight.shape[-1] // 2))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps of pictures (batch, 1, height, width), in the same shape."""
        return pool(self.maps(x), self.get_buffer("last"))


def gaussian(sigma: float) -> Tensor:
    """Return a Gaussian filter of sum 1, cut at four standard deviations, (taps,)."""
    reach = int(4 * sigma + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return line / line.sum()


def pool(maps: Tensor, line: Tensor) -> Tensor:
    """Return maps (batch, channels, height, width) filtered by `line` (taps,) along both axes."""
    channels, reach = maps.shape[1], len(line) // 2
    rows = line.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    maps = F.conv2d(maps, rows, padding=(reach, 0), groups=channels)
    return F.conv2d(maps, rows.transpose(2, 3), padding=(0, reach), groups=channels)


def _digits(trial: Trial, seed: int) -> tuple[Tensor, Tensor]:
    """Return test digits with a border, so that nothing is pushed out, and their labels."""
    drawn = data.load("mnist", "test").sample(trial.record.settings["inputs"], seed)
    assert drawn.labels is not None
    return drawn.floats(), drawn.labels


def _layers(trial: Trial, seed: int) -> dict[str, Any]:
    """Return the curves of pixels and of a trained and a random network's layers, one seed."""
    settings = trial.record.settings
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    trained, fresh = (models.SmallCNN(seed=seed) for _ in range(2))
    config = TrainingConfig(settings["steps"], batch_size=128, seed=seed, optimisation=TRAINING)
    fit(trained, train, _cross_entropy, config)
    found: dict[str, Any] = {"accuracy": accuracy(trained, test).value}
    inputs, labels = _digits(trial, seed)
    for name, module, layers in (
        ("pixels", nn.Flatten(), ("",)),
        ("trained", trained, LAYERS),
        ("random", fresh, LAYERS),
    ):
        found[name] = _curves(module, inputs, labels, layers, seed)
    return found


def _curves(
    module: nn.Module, inputs: Tensor, labels: Tensor, layers: tuple[str, ...], seed: int
) -> dict[str, dict[str, Any]]:
    """Return the curves of layers under every kind, as records, by kind and layer."""
    conditions = Conditions(seed=seed, interpolation="bicubic")
    yardsticks = measure_yardsticks(
        module, inputs, layers=layers, labels=labels, conditions=conditions
    )
    return {
        kind: {
            layer: curve.to_dict()
            for layer, curve in stability_curves(
                module,
                inputs,
                kind,
                sizes,
                layers=layers,
                yardsticks=yardsticks,
                conditions=conditions,
            ).items()
        }
        for kind, sizes in SIZES.items()
    }


def _cross_entropy(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the classification loss of a batch."""
    images, labels = batch
    return F.cross_entropy(module(images), labels)


def _moved(
    module: nn.Module, inputs: Tensor, labels: Tensor, seed: int
) -> dict[str, tuple[float, float]]:
    """Return how far a shift and a deformation move a representation.

    Returns:
        By kind, the mean relative distance, and the same in same-label distances.
    """
    conditions = Conditions(seed=seed, interpolation="bicubic", pairs=1000)
    yardsticks = measure_yardsticks(module, inputs, labels=labels, conditions=conditions)
    same = yardsticks[""].same_label
    assert same is not None
    found = {}
    for kind, size in (("translation", SHIFT), ("deformation", BEND)):
        curves = stability_curves(
            module, inputs, kind, (size,), yardsticks=yardsticks, conditions=conditions
        )
        moved = curves[""].mean[0]
        found[kind] = (moved, moved / same.value)
    return found


def _by(
    trial: Trial, seed: int, shapes: list[dict[str, Any]], border: int = 0
) -> dict[str, list[float]]:
    """Return distances of networks of several shapes, as they are and by the yardstick."""
    inputs, labels = _digits(trial, seed)
    inputs = F.pad(inputs, (border,) * 4)
    width = trial.record.settings["widths"]
    found: dict[str, list[float]] = {}
    for shape in shapes:
        module = Homogeneous(width, seed=seed, **shape)
        for kind, (moved, share) in _moved(module, inputs, labels, seed).items():
            found.setdefault(kind, []).append(moved)
            found.setdefault(f"{kind}{BY_YARDSTICK}", []).append(share)
    return found


def _pooling(trial: Trial, seed: int) -> dict[str, list[float]]:
    """Return distances by pooling scale, and how close a shift comes to the bound."""
    shapes: list[dict[str, Any]] = [{"patch": 3, "depth": 2, "sigma": sigma} for sigma in SIGMAS]
    found = _by(trial, seed, shapes, border=BORDER)
    inputs = F.pad(_digits(trial, seed)[0], (BORDER,) * 4)
    width = trial.record.settings["widths"]
    built = [Homogeneous(width, seed=seed, **shape) for shape in shapes]
    return {**found, "share of the bound": [_share_of_bound(module, inputs) for module in built]}


def _patch(trial: Trial, seed: int) -> dict[str, list[float]]:
    """Return distances by patch size, depth and pooling the same."""
    return _by(trial, seed, [{"patch": patch, "depth": 2, "sigma": 2.0} for patch in PATCHES])


def _depth(trial: Trial, seed: int) -> dict[str, list[float]]:
    """Return distances by depth, patch and pooling the same."""
    return _by(trial, seed, [{"patch": 3, "depth": depth, "sigma": 2.0} for depth in DEPTHS])


@torch.no_grad()
def _share_of_bound(module: Homogeneous, inputs: Tensor) -> float:
    """Return the largest |Phi(L_c x) - Phi(x)| / (|L_c A - A| |M P x|): theory says at most 1.

    The shift is by whole pixels along the columns, and the border is wide enough for it to
    commute with everything before the pooling.
    """
    line = module.get_buffer("last")
    # The pooling along rows has norm 1 and does not change under a shift along columns.
    gap = pooling_gap(line, torch.tensor([SHIFT]))[0]
    moved = translate(inputs, (0.0, SHIFT))
    shares = []
    for before, after in zip(inputs.split(50), moved.split(50), strict=True):
        difference = (module(after) - module(before)).flatten(1).double().norm(dim=1)
        shares.append(difference / (gap * module.maps(before).flatten(1).double().norm(dim=1)))
    return float(torch.cat(shares).max())


TRENDS: dict[str, Callable[[Trial, int], dict[str, list[float]]]] = {
    "pooling": _pooling,
    "patch": _patch,
    "depth": _depth,
}
AXES: dict[str, tuple[str, tuple[float, ...]]] = {
    "pooling": ("standard deviation of the pooling, pixels", SIGMAS),
    "patch": ("side of the patches, pixels", PATCHES),
    "depth": ("layers", DEPTHS),
}


def _report_layers(trial: Trial, found: list[dict[str, Any]]) -> None:
    """Put the curves' numbers, their goals and their picture into the record."""
    trial.figure("accuracy of the trained CNN", *_mean([one["accuracy"] for one in found]))
    shares: dict[tuple[str, str], list[float]] = {}
    for one in found:
        for name in ("pixels", "trained", "random"):
            for kind in SIZES:
                curve = StabilityCurve.from_dict(one[name][kind][""])
                assert curve.same_label is not None
                moved = curve.at(curve.sizes[-2]) / curve.same_label.value
                shares.setdefault((name, kind), []).append(moved)
    for (name, kind), values in shares.items():
        size = f"{SIZES[kind][-2]:g}"
        trial.figure(f"{name}, {kind} {size}, in same-label distances", *_mean(values))
    for kind in SIZES:
        pairs = zip(shares["trained", kind], shares["pixels", kind], strict=True)
        ratio = [trained / pixels for trained, pixels in pairs]
        trial.goal(
            f"trained output moves less than pixels under {kind}, in same-label distances",
            "ratio below 1 in every seed",
            round(max(ratio), 4),
            max(ratio) < 1,
        )
    trial.picture(plot_curves(_named(found[0])))


def _named(one: dict[str, Any]) -> dict[str, list[StabilityCurve]]:
    """Return one seed's curves by a name for the reader."""
    chosen = {
        "pixels": ("pixels", ""),
        "trained, first pooling": ("trained", "features.3"),
        "trained, second pooling": ("trained", "features.7"),
        "trained, output": ("trained", ""),
        "random, output": ("random", ""),
    }
    return {
        label: [StabilityCurve.from_dict(one[name][kind][layer]) for kind in SIZES]
        for label, (name, layer) in chosen.items()
    }


def _report_trends(trial: Trial, trends: dict[str, list[dict[str, list[float]]]]) -> None:
    """Put what pooling, patch and depth do into the record, with the theory's word on each."""
    for name, seeds in trends.items():
        for what in seeds[0]:
            for place, at in enumerate(AXES[name][1]):
                values = [one[what][place] for one in seeds]
                trial.figure(f"{what} by {name} {at:g}", *_mean(values))
    _goal(trial, trends, "pooling", "translation", -1, "a wider pooling moves less under shifts")
    worst = max(max(one["share of the bound"]) for one in trends["pooling"])
    trial.goal(
        "|L_c A - A| |MPx| bounds the distance", "share at most 1", round(worst, 4), worst <= 1
    )
    _goal(trial, trends, "patch", "deformation", 1, "larger patches move more when deformed")
    _goal(trial, trends, "depth", "deformation", 1, "deeper networks move more when deformed")
    linear = max(
        value / (one["deformation"][0] * (1 + depth) / 2)
        for one in trends["depth"]
        for depth, value in zip(DEPTHS, one["deformation"], strict=True)
    )
    trial.goal(
        "and no faster than the bound, in proportion to 1 + depth",
        "at most 1",
        round(linear, 4),
        linear <= 1,
    )


def _goal(
    trial: Trial,
    trends: dict[str, list[dict[str, list[float]]]],
    name: str,
    kind: str,
    sign: int,
    words: str,
) -> None:
    """Add a trend to the goals: shown where it holds in every seed, in same-label distances."""
    held = [_monotone(one[kind + BY_YARDSTICK], sign) for one in trends[name]]
    target = f"{'grows' if sign > 0 else 'falls'}{BY_YARDSTICK}, in every seed"
    outcome = f"{'shown' if all(held) else 'refuted'}: in {sum(held)} of {len(held)} seeds"
    trial.goal(words, target, outcome, all(held))


def _draw_trends(trends: dict[str, list[dict[str, list[float]]]]) -> Any:
    """Draw what pooling, patch and depth do, a line a seed."""
    from merkhet.report.figures import COLOURS, figure

    made, axes = figure(1, len(trends))
    for axis, (name, seeds) in zip(axes, trends.items(), strict=True):
        label, places = AXES[name]
        for colour, (kind, size) in zip(
            COLOURS, (("translation", SHIFT), ("deformation", BEND)), strict=False
        ):
            for number, one in enumerate(seeds):
                line = f"{kind}, {size:g} px" if not number else None
                shares = one[kind + BY_YARDSTICK]
                axis.plot(places, shares, marker="o", markersize=3, color=colour, label=line)
        axis.set(xlabel=label, ylabel="in same-label distances", ylim=(0, None), title=name)
        axis.legend(frameon=False, fontsize=8)
    return made


def _monotone(values: list[float], sign: int) -> bool:
    """Tell whether values rise (sign 1) or fall (sign -1) strictly."""
    return all(sign * (b - a) > 0 for a, b in pairwise(values))


def _mean(values: list[float]) -> tuple[float, str, tuple[float, float]]:
    """Return mean, unit and bootstrap interval over seeds."""
    return sum(values) / len(values), "", bootstrap(torch.tensor(values))
