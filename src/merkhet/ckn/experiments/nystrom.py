"""How far the kernel of a finite network is from the exact one, by the number of its filters."""

from __future__ import annotations

import statistics
from functools import cache, partial
from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet import data
from merkhet.ckn import CKN, Form
from merkhet.ckn.fitting import draw_patches
from merkhet.core.intervals import student
from merkhet.kernels import (
    Conv2d,
    Exponential,
    Flatten,
    GaussianPool2d,
    Layer,
    Linear,
    Sequential,
    gram,
)
from merkhet.report import Trial, experiment

# Pictures compared in all pairs, pictures and patches that filters come from, filters by depth.
PLANS: dict[str, dict[str, Any]] = {
    "small": {"pictures": 60, "train": 1000, "patches": (20_000, 8192), "most": (1024, 256)},
    "full": {"pictures": 500, "train": 60000, "patches": (200_000, 50_000), "most": (1024, 1024)},
}
SEEDS = {"small": 3, "full": 10}
LAYERS = {1: "one layer", 2: "two layers"}
SIDE, POOLING = 3, 2
SIGMAS = (0.4, 0.6, 1.0)
RIDGE, FINE = 1e-4, 1e-8  # the default, and one that takes float64
CASES = (*((sigma, RIDGE) for sigma in SIGMAS), (0.6, FINE))
SOURCES = ("k-means", "random patches")
SPARE = 8  # patches drawn for each random filter: black ones are no directions
AT = 256  # filters at which goals are set
ENOUGH = {1: 0.05, 2: 0.10}


@experiment
def nystrom(trial: Trial) -> None:
    """The kernel of a finite network comes to the exact one as its filters grow."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(SEEDS[trial.size]))
    trial.record.settings = {"data": "fashion-mnist at 14x14", "side": SIDE, "pooling": POOLING}
    trial.record.settings |= {"sigmas": list(SIGMAS), "ridges": [RIDGE, FINE], "kernel": "exp"}
    trial.record.settings |= plan
    for layers, case in product(LAYERS, CASES):
        for source in SOURCES:
            runs = [
                trial.step(
                    f"{_name(layers, case, source)}, seed {seed}, {plan}",
                    partial(_errors, layers, case, source, seed, plan),
                )
                for seed in trial.record.seeds
            ]
            _figures(trial, _name(layers, case, source), counts_of(plan, layers), runs)
        _goals(trial, layers, case, counts_of(plan, layers))
    trial.record.notes = (
        "Error: Frobenius norm of the difference of Gram matrices of test pictures, all pairs, "
        "over that of the exact one (merkhet.kernels, to 2e-7); centred: after the mean of "
        "the maps is taken off. Two layers have as many filters each. Intervals are Student's "
        "over seeds, which draw patches and filters; the pictures stay."
    )
    trial.picture(_draw(trial, plan))


def counts_of(plan: dict[str, Any], layers: int) -> list[int]:
    """Return the numbers of filters that networks of some layers are measured with."""
    return [2**power for power in range(4, 11) if 2**power <= plan["most"][layers - 1]]


def exact_network(layers: int, sigma: float) -> Layer:
    """Return the infinitely wide network whose NNGP kernel is in proportion to the exact kernel.

    Args:
        layers: How many.
        sigma: Width of the kernel of each.
    """
    parts: list[Layer] = []
    for place in range(layers):
        convolution = Conv2d(SIDE) if place else Conv2d(SIDE, weight_std=1.0)
        parts += [convolution, Exponential(sigma), GaussianPool2d(POOLING)]
    return Sequential(*parts, Flatten(), Linear())


def exact_gram(
    pictures: Tensor, layers: int, sigma: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return inner products <Phi(x), Phi(x')> of the exact representations, (n, n), float64.

    `merkhet.kernels` takes means where a network takes sums: over the channels c of pictures, and
    over the positions h w of the last maps. `Exponential` is half the layer's kernel, and the
    variance 2 of the weights that follow makes up for it, so the factor is c h w.

    Args:
        pictures: (n, c, rows, columns).
        layers: Of patches of side 3, kernel "exp" and pooling by 2.
        sigma: Width of the kernel.
        dtype: float32 for the fast path (within 2e-6), float64 for the plain form.
    """
    factor, *size = pictures.shape[1:]
    for length in size:
        for _ in range(layers):
            length = -(-length // POOLING)
        factor *= length
    network = exact_network(layers, sigma)
    found = gram(network, pictures.to(dtype), kind="nngp", dtype=dtype, progress=False)
    return found.double() * factor


def gram_of(network: CKN, pictures: Tensor) -> Tensor:
    """Return inner products of representations of pictures (n, c, rows, columns), (n, n)."""
    features = network.encode(pictures).flatten(1).double()
    return features @ features.mT


@torch.no_grad()
def set_random_filters(network: CKN, images: Tensor, generator: torch.Generator) -> CKN:
    """Set the filters to patches of pictures drawn at random, layer by layer; black ones not.

    Args:
        network: The network.
        images: (n, c, rows, columns), bytes or floats.
        generator: Draws the patches.
    """
    for place in range(len(network.layers)):
        layer = network.layer(place)
        count = len(layer.filters)
        drawn = draw_patches(network, place, images, SPARE * count, 256, generator)
        seen = layer.seen(drawn[drawn.norm(dim=1) > 0])
        assert len(seen) >= count, "nearly all patches are black"
        # Patches are drawn in the order of their pictures: the first would be of a few.
        chosen = torch.randperm(len(seen), generator=generator)[:count]
        layer.filters.copy_(F.normalize(seen[chosen], dim=1))
    return network


@cache
def _pictures(split: str, count: int) -> Tensor:
    """Return pictures at half their size, (count, 1, 14, 14)."""
    return F.avg_pool2d(data.load("fashion-mnist", split, limit=count).floats(), 2)


def _errors(
    layers: int, case: tuple[float, float], source: str, seed: int, plan: dict[str, Any]
) -> dict[int, list[float]]:
    """Return the error and that of centred Gram matrices, by number of filters."""
    sigma, ridge = case
    train, pictures = _pictures("train", plan["train"]), _pictures("test", plan["pictures"])
    exact = exact_gram(pictures, layers, sigma)
    found = {}
    for count in counts_of(plan, layers):
        form = Form(ridge=ridge)
        network = CKN(1, (count,) * layers, SIDE, POOLING, "exp", sigma, form=form, seed=seed)
        network = network.double() if ridge < RIDGE else network
        if source == "k-means":
            network.fit_unsupervised(
                train, patches=plan["patches"][layers - 1], seed=seed, progress=False
            )
        else:
            set_random_filters(network, train, torch.Generator().manual_seed(seed))
        near = gram_of(network, pictures)
        found[count] = [_relative(near, exact), _relative(_centred(near), _centred(exact))]
    return found


def _relative(near: Tensor, exact: Tensor) -> float:
    """Return the relative Frobenius distance of two Gram matrices."""
    return float((near - exact).norm() / exact.norm())


def _centred(kernel: Tensor) -> Tensor:
    """Return the Gram matrix (n, n) of feature maps less their mean."""
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def _name(layers: int, case: tuple[float, float], source: str) -> str:
    """Return a setting in words."""
    sigma, ridge = case
    return f"{LAYERS[layers]}, sigma {sigma:g}, ridge {ridge:g}, {source}"


def _figures(
    trial: Trial, name: str, counts: list[int], runs: list[dict[int, list[float]]]
) -> None:
    """Record the error at each number of filters, and that of centred matrices at one."""
    for count in counts:
        values = [run[count][0] for run in runs]
        mean = statistics.mean(values)
        trial.figure(f"{name}, {count} filters", mean, interval=student(values))
    values = [run[AT][1] for run in runs]
    mean = statistics.mean(values)
    trial.figure(f"{name}, {AT} filters, centred", mean, interval=student(values))


def _goals(trial: Trial, layers: int, case: tuple[float, float], counts: list[int]) -> None:
    """Record whether the error falls, is small at some filters, and k-means is worth it."""
    means = {
        source: [
            trial.record.figures[f"{_name(layers, case, source)}, {count} filters"].value
            for count in counts
        ]
        for source in SOURCES
    }
    for source, values in means.items():
        worst = max(after / before for before, after in pairwise(values))
        goal = f"{_name(layers, case, source)}: largest ratio of errors when filters double"
        trial.goal(goal, "below 1", round(worst, 4), worst < 1)
    name, place = f"{_name(layers, case, SOURCES[0])}, {AT} filters", counts.index(AT)
    first, second = (values[place] for values in means.values())
    limit = ENOUGH[layers]
    trial.goal(f"{name}: error", f"below {limit:g}", round(first, 6), first < limit)
    trial.goal(
        f"{name}: error / that of {SOURCES[1]}", "1 or less", first / second, first <= second
    )


def _draw(trial: Trial, plan: dict[str, Any]) -> Any:
    """Draw the error against the number of filters."""
    from merkhet.report.figures import COLOURS, figure

    made, axes = figure(1, 2)
    for axis, layers in zip(axes, LAYERS, strict=True):
        counts = counts_of(plan, layers)
        for (case, colour), source in product(zip(CASES, COLOURS, strict=False), SOURCES):
            name = _name(layers, case, source)
            shown = [trial.record.figures[f"{name}, {count} filters"] for count in counts]
            values = [one.value for one in shown]
            ends = [one.interval or (one.value, one.value) for one in shown]
            # A wide interval of few seeds may reach below 0, which a logarithm does not show.
            lows = [max(low, value / 10) for (low, _), value in zip(ends, values, strict=True)]
            axis.fill_between(counts, lows, [high for _, high in ends], alpha=0.2, color=colour)
            style, label = "o:", None
            if source == SOURCES[0]:
                style, label = "o-", f"sigma {case[0]:g}, ridge {case[1]:g}"
            axis.plot(counts, values, style, ms=3, color=colour, label=label)
        axis.set_xscale("log", base=2)
        axis.set(yscale="log", xlabel="filters of each layer", title=LAYERS[layers])
        axis.set_ylabel("relative error (dotted: random patches)")
    axes[0].legend(frameon=False, fontsize=8)
    return made
