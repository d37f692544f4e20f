"""How far representations of kernel networks move, by pooling scale, patch size and depth."""

from __future__ import annotations

import statistics
from functools import cache, partial
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet import data
from merkhet.ckn import CKN
from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.core.deformations import translate
from merkhet.core.intervals import student
from merkhet.report import Trial, experiment
from merkhet.stability import (
    Conditions,
    StabilityCurve,
    measure_yardsticks,
    plot_curves,
    pooling_gap,
    stability_curves,
)

# Pictures fitted to, patches drawn a layer, pictures moved, filters of the first and other layers.
PLANS: dict[str, dict[str, Any]] = {
    "small": {"train": 2000, "patches": 20_000, "inputs": 200, "filters": (32, 64)},
    "full": {"train": 60000, "patches": 500_000, "inputs": 1000, "filters": (64, 256)},
}
SEEDS = {"small": 3, "full": 10}
KINDS: dict[str, tuple[float, ...]] = {
    "translation": (0.5, 1.0, 2.0, 4.0),
    "rotation": (2.0, 5.0, 10.0, 20.0),
    "deformation": (0.25, 0.5, 1.0, 2.0),
}
AT = {"translation": 2.0, "rotation": 10.0, "deformation": 1.0}  # where settings are compared
STEP = 2  # scale and step of the first pooling, in pixels; the last pooling has step 1
MIDDLE = {"scale": 4, "side": 3, "depth": 2}
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "scale": ("scale of the last pooling, positions", (1, 2, 4, 6)),
    "side": ("side of the last patches, positions", (3, 5, 7, 9)),
    "depth": ("layers", (2, 3, 4, 5)),
}
MODULES = ("pixels", "random CNN", "CKN")
# No digit comes near enough to the edge for a window of the last pooling to be cut there.
BORDER = 32
SHARED = ", in same-label distances"


@experiment
def stability(trial: Trial) -> None:
    """Wide poolings buy invariance and small patches stability; kernel networks against others."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(SEEDS[trial.size]))
    trial.record.settings = {"data": "mnist", "kernel": "exp", "sigma": 0.6, **MIDDLE, **plan}
    curves = [
        trial.step(f"curves, seed {seed}, {plan}", partial(_compared, seed, plan))
        for seed in trial.record.seeds
    ]
    _report_modules(trial, curves)
    trends = {
        name: [
            trial.step(f"{name}, seed {seed}, {plan}", partial(_trend, name, seed, plan))
            for seed in trial.record.seeds
        ]
        for name in AXES
    }
    _report_trends(trial, trends)
    bounds = [
        trial.step(f"bound, seed {seed}, {plan}", partial(_bound, seed, plan))
        for seed in trial.record.seeds
    ]
    _report_bound(trial, bounds)
    trial.record.notes = (
        "Means over random motions of test digits, by bicubic interpolation, of networks fitted "
        "without labels; intervals are Student's over seeds, which draw digits, filters and "
        "motions. Positions of the last maps are two pixels apart. The theory bounds the worst "
        "case: a trend that it allows and the mean does not show contradicts neither."
    )
    trial.picture(plot_curves(_named(curves[0])))
    trial.picture(_draw(trends, bounds), "_trends")


@cache
def _train(count: int) -> Tensor:
    """Return digits to fit to, (count, 1, 28, 28) bytes."""
    return data.load("mnist", "train", limit=count).images


@cache
def _digits(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return test digits to move, and their labels."""
    drawn = data.load("mnist", "test").sample(count, seed)
    assert drawn.labels is not None
    return drawn.floats(), drawn.labels


def _network(
    seed: int, plan: dict[str, Any], *, scale: int = 4, side: int = 3, depth: int = 2
) -> CKN:
    """Return a network fitted without labels.

    The first pooling halves the maps, and is the same for all; the last one has step 1.

    Args:
        seed: Of the filters.
        plan: The trial's numbers.
        scale: Of the last pooling, in positions of its maps.
        side: Of the patches of the last layer; those before have side 3.
        depth: Layers, 2 or more.
    """
    first, others = plan["filters"]
    filters = (first, *[others] * (depth - 1))
    sides = (*[3] * (depth - 1), side)
    pooling = ((STEP, STEP), *[1] * (depth - 2), (scale, 1))
    network = CKN(1, filters, sides, pooling, seed=seed)
    images = _train(plan["train"])
    return network.fit_unsupervised(images, patches=plan["patches"], seed=seed, progress=False)


def _random(seed: int, plan: dict[str, Any]) -> nn.Module:
    """Return a CNN with the shape and the poolings of the middle network, its weights random."""
    first, second = plan["filters"]
    convolutions = [
        nn.Conv2d(before, after, 3, padding=1, bias=False)
        for before, after in ((1, first), (first, second))
    ]
    generator = torch.Generator().manual_seed(seed)
    for convolution in convolutions:
        # He's variance: norms stay as they are on average.
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
    pools = [GaussianPool2d(STEP), GaussianPool2d(MIDDLE["scale"], 1)]
    layers = [
        one
        for convolution, pool in zip(convolutions, pools, strict=True)
        for one in (convolution, nn.ReLU(), pool)
    ]
    return nn.Sequential(*layers)


def _curves(
    module: nn.Module, seed: int, plan: dict[str, Any], kinds: dict[str, tuple[float, ...]]
) -> dict[str, StabilityCurve]:
    """Return a representation's curves at the sizes of each kind, with its yardsticks."""
    inputs, labels = _digits(plan["inputs"], seed)
    conditions = Conditions(seed=seed, interpolation="bicubic", pairs=1000)
    yardsticks = measure_yardsticks(module, inputs, labels=labels, conditions=conditions)
    return {
        kind: stability_curves(
            module, inputs, kind, sizes, yardsticks=yardsticks, conditions=conditions
        )[""]
        for kind, sizes in kinds.items()
    }


def _compared(seed: int, plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the curves of pixels, a random CNN and the middle network, as records."""
    modules = (nn.Flatten(), _random(seed, plan), _network(seed, plan, **MIDDLE))
    return {
        name: {kind: curve.to_dict() for kind, curve in _curves(module, seed, plan, KINDS).items()}
        for name, module in zip(MODULES, modules, strict=True)
    }


def _trend(name: str, seed: int, plan: dict[str, Any]) -> dict[str, list[float]]:
    """Return how far networks move, and the same in same-label distances, by kind.

    Args:
        name: What changes from network to network; the rest stays in the middle.
        seed: Of digits, filters and motions.
        plan: The trial's numbers.
    """
    found: dict[str, list[float]] = {}
    for value in AXES[name][1]:
        network = _network(seed, plan, **{**MIDDLE, name: value})
        sizes: dict[str, tuple[float, ...]] = {kind: (size,) for kind, size in AT.items()}
        for kind, curve in _curves(network, seed, plan, sizes).items():
            assert curve.same_label is not None
            found.setdefault(kind, []).append(curve.mean[0])
            found.setdefault(kind + SHARED, []).append(curve.mean[0] / curve.same_label.value)
    return found


@torch.no_grad()
def _bound(seed: int, plan: dict[str, Any]) -> dict[str, list[float]]:
    """Return |L_c A - A| and what a shift makes of it, by scale of the last pooling.

    The shift c is one position of the last maps along the columns, two pixels, so that it commutes
    with all that comes before the last pooling A: |Phi(L_c x) - Phi(x)| <= |L_c A - A| |M P x|,
    with M P x the last layer's maps before A. "moved" is the largest ratio over the digits.
    """
    inputs = F.pad(_digits(plan["inputs"], seed)[0], (BORDER,) * 4)
    network = _network(seed, plan, scale=1)
    network.layer(-1).pooling = (1, 1)
    maps = network.encode(inputs)
    apart = network.encode(translate(inputs, (0.0, float(STEP)))) - maps
    found: dict[str, list[float]] = {"gap": [], "moved": []}
    for scale in AXES["scale"][1]:
        # The pooling along rows has norm 1 and does not change under a shift along columns.
        line = (-((torch.arange(-scale, scale + 1) / scale) ** 2)).exp()
        found["gap"].append(float(pooling_gap(line / line.sum(), torch.tensor([1.0]))))
        ratios = _norms(GaussianPool2d(scale, 1)(apart)) / _norms(maps)
        found["moved"].append(float(ratios.max()))
    return found


def _norms(maps: Tensor) -> Tensor:
    """Return the norm of each picture's maps, (n,) float64."""
    norms: Tensor = maps.flatten(1).double().norm(dim=1)
    return norms


def _report_modules(trial: Trial, found: list[dict[str, dict[str, Any]]]) -> None:
    """Record how far representations move in same-label distances, and which moves less."""
    for kind, size in AT.items():
        shares: dict[str, list[float]] = {}
        for name, one in product(MODULES, found):
            curve = StabilityCurve.from_dict(one[name][kind])
            assert curve.same_label is not None
            shares.setdefault(name, []).append(curve.at(size) / curve.same_label.value)
        for name, values in shares.items():
            _figure(trial, f"{name}, {kind} {size:g}{SHARED}", values)
        for other in MODULES[:2]:
            ratios = zip(shares["CKN"], shares[other], strict=True)
            worst = max(own / theirs for own, theirs in ratios)
            goal = f"CKN / {other}, {kind} {size:g}{SHARED}"
            trial.goal(goal, "below 1 in every seed", round(worst, 4), worst < 1)


def _report_trends(trial: Trial, trends: dict[str, list[dict[str, list[float]]]]) -> None:
    """Record distances by scale, side and depth, and what the theory leads one to expect."""
    for name, seeds in trends.items():
        for (place, at), what in product(enumerate(AXES[name][1]), seeds[0]):
            _figure(trial, f"{what} by {name} {at}", [one[what][place] for one in seeds])
    for name, what, sign, words in (
        ("scale", "translation", -1, "a wider last pooling moves less under shifts"),
        ("scale", f"translation{SHARED}", -1, "a wider last pooling moves less under shifts"),
        ("scale", f"deformation{SHARED}", -1, "a wider last pooling moves less when deformed"),
        ("side", f"deformation{SHARED}", 1, "larger patches move more when deformed"),
        ("depth", f"deformation{SHARED}", 1, "deeper networks move more when deformed"),
    ):
        held = [
            all(sign * (after - before) > 0 for before, after in pairwise(one[what]))
            for one in trends[name]
        ]
        target = f"{what} {'grows' if sign > 0 else 'falls'} at every step, in every seed"
        outcome = f"in {sum(held)} of {len(held)} seeds"
        trial.goal(words, target, outcome, all(held))


def _report_bound(trial: Trial, found: list[dict[str, list[float]]]) -> None:
    """Record how much of |L_c A - A| a shift uses: by theory, at most all of it."""
    for place, scale in enumerate(AXES["scale"][1]):
        trial.figure(f"|L_c A - A| by scale {scale}", found[0]["gap"][place])
        largest = max(one["moved"][place] for one in found)
        trial.figure(f"largest |Phi(L_c x) - Phi(x)| / |M P x| by scale {scale}", largest)
    worst = max(
        moved / gap for one in found for moved, gap in zip(one["moved"], one["gap"], strict=True)
    )
    goal = "largest share of |L_c A - A| |M P x| that a shift by two pixels uses"
    trial.goal(goal, "at most 1", round(worst, 4), worst <= 1)


def _figure(trial: Trial, name: str, values: list[float]) -> None:
    """Record a mean over seeds."""
    trial.figure(name, statistics.mean(values), interval=student(values))


def _named(one: dict[str, dict[str, Any]]) -> dict[str, list[StabilityCurve]]:
    """Return one seed's curves by representation."""
    return {
        name: [StabilityCurve.from_dict(curve) for curve in curves.values()]
        for name, curves in one.items()
    }


def _draw(
    trends: dict[str, list[dict[str, list[float]]]], bounds: list[dict[str, list[float]]]
) -> Any:
    """Draw what scale, side and depth do, a line a seed, and the shift beside its bound."""
    from merkhet.report.figures import COLOURS, figure

    made, axes = figure(2, 2)
    for axis, (name, seeds) in zip(axes, trends.items(), strict=False):
        label, places = AXES[name]
        for colour, kind in zip(COLOURS, AT, strict=False):
            for number, one in enumerate(seeds):
                line = None if number else f"{kind}, {AT[kind]:g}"
                axis.plot(places, one[kind + SHARED], "o-", ms=3, color=colour, label=line)
        axis.set(xlabel=label, ylabel="in same-label distances", ylim=(0, None), title=name)
        axis.set_xticks(places)
    axes[0].legend(frameon=False, fontsize=8)
    label, places = AXES["scale"]
    axes[-1].plot(places, bounds[0]["gap"], "k--", label="|L_c A - A|, computed")
    for number, one in enumerate(bounds):
        line = None if number else "largest |Phi(L_c x) - Phi(x)| / |M P x|"
        axes[-1].plot(places, one["moved"], "o-", ms=3, color=COLOURS[0], label=line)
    axes[-1].set(xlabel=label, ylim=(0, None), title="shift by two pixels, and its bound")
    axes[-1].legend(frameon=False, fontsize=8)
    return made
