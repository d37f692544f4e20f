"""How far the kernels' maps move on real pictures, against the paper's bounds."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from merkhet import data
from merkhet.core.intervals import bootstrap
from merkhet.kernels import GELU, Linear, ReLU, Sequential, distance
from merkhet.kernels.smoothness import (
    arc_cosine_distance,
    step_bounds,
    tangent_bound,
)
from merkhet.kernels.smoothness import smoothness as constants
from merkhet.report import Trial, experiment

DATA = ("fashion-mnist", "mnist")
COUNTS = {"small": 400, "full": 4000}
SIZES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of noise, relative to the picture's length
SMALL = 4  # sizes that exponents are fitted to
WITHIN = 0.02
NETWORKS = {
    "NTK, ReLU": (Sequential(Linear(weight_std=1.0), ReLU(), Linear()), "ntk"),
    "NNGP, ReLU": (Sequential(Linear(weight_std=1.0), ReLU(), Linear()), "nngp"),
    "NTK, GELU": (Sequential(Linear(weight_std=1.0), GELU(), Linear(weight_std=1.0)), "ntk"),
}
EXPONENTS = {"NTK, ReLU": 0.5, "NNGP, ReLU": 1.0, "NTK, GELU": 1.0}


@experiment
def smoothness(trial: Trial) -> None:
    """The tangent map of ReLU networks is Hoelder 1/2 on real pictures; no bound is exceeded."""
    trial.record.seeds = [0]
    trial.record.settings = {"data": list(DATA), "pictures": COUNTS[trial.size]}
    trial.record.settings["noise"] = list(SIZES)
    for name in DATA:
        found = trial.step(f"bounds on {name}", partial(_bounds, name, COUNTS[trial.size]))
        for what, value in found.items():
            trial.figure(f"{what}, {name}", value)
            if what.startswith("largest"):
                trial.goal(f"{what}, {name}", "at most 1", value, value <= 1 + 1e-9)
    moved = trial.step("growth", partial(_growth, DATA[0], COUNTS[trial.size] // 4))
    _exponents(trial, moved)
    _constants(trial, moved)
    trial.record.notes = (
        "Pairs: all pictures against all, and pictures with noise. Growth and constants: pictures "
        "on the unit sphere, turned towards a random direction by chords of these sizes. "
        "Intervals are bootstrap over pictures. The paper's scale, in which |Phi(x)| is sqrt(2) "
        "|x| for the NTK of one hidden layer."
    )
    trial.picture(_draw(moved))


def _pictures(name: str, count: int) -> Tensor:
    """Return pictures as vectors (n, d), float64."""
    return data.load(name, limit=count).floats().flatten(1).double()


def _bounds(name: str, count: int) -> dict[str, float]:
    """Return how near the distances come to their bounds."""
    x = _pictures(name, count)
    rows, columns = torch.triu_indices(count, count, 1)
    noise = _noise(x)
    found = {}
    cases = {
        "pairs": (x[rows], x[columns]),
        "noise": (torch.cat([x] * len(SIZES)), torch.cat([x + size * noise for size in SIZES])),
    }
    for case, (one, other) in cases.items():
        tangent = arc_cosine_distance(one, other, "ntk") / tangent_bound(one, other)
        found[f"largest NTK distance / bound, {case}"] = float(tangent.max())
        found[f"median NTK distance / bound, {case}"] = float(tangent.median())
        one, other = (v / v.norm(dim=1, keepdim=True) for v in (one, other))
        step, (low, high) = arc_cosine_distance(one, other, "step"), step_bounds(one, other)
        found[f"largest k0 distance / upper bound, {case}"] = float((step / high).max())
        found[f"largest lower bound / k0 distance, {case}"] = float((low / step).max())
    return found


def _noise(x: Tensor) -> Tensor:
    """Return a random direction for each picture, of the picture's length."""
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    noise: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * x.norm(dim=1, keepdim=True)
    return noise


def _growth(name: str, count: int) -> dict[str, list[list[float]]]:
    """Return, by kernel, how far pictures of length 1 move when turned by each chord."""
    x = _pictures(name, count)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(x.shape[1])  # |x|^2 / d = 1
    across = _noise(x)
    across = across - (across * x).sum(1, keepdim=True) / x.shape[1] * x
    across = across / across.norm(dim=1, keepdim=True) * math.sqrt(x.shape[1])
    angles = [2 * math.asin(size / 2) for size in SIZES]
    turned = [math.cos(angle) * x + math.sin(angle) * across for angle in angles]
    return {
        kernel: [distance(network, x, other, kind, pairs="each").tolist() for other in turned]
        for kernel, (network, kind) in NETWORKS.items()
    }


def _exponents(trial: Trial, moved: dict[str, list[list[float]]]) -> None:
    """Record how distances grow with small noise."""
    steps = torch.tensor(SIZES[:SMALL], dtype=torch.float64).log()
    centred = steps - steps.mean()
    for kernel, distances in moved.items():
        logs = torch.tensor(distances[:SMALL], dtype=torch.float64).log()
        slopes = centred @ logs / centred.square().sum()
        power = float(slopes.mean())
        trial.figure(f"exponent of growth, {kernel}", power, interval=bootstrap(slopes))
        wanted = EXPONENTS[kernel]
        met = abs(power - wanted) <= WITHIN
        trial.goal(f"exponent of growth, {kernel}", f"{wanted:g} within {WITHIN}", power, met)


def _constants(trial: Trial, moved: dict[str, list[list[float]]]) -> None:
    """Record the Lipschitz constant of a smooth activation against what was measured."""
    bound = constants(torch.nn.functional.gelu)
    trial.figure("Lipschitz constant, GELU", bound.constant)
    trial.figure("Lipschitz constant, softplus", constants(torch.nn.functional.softplus).constant)
    ratios = [max(d) / size for d, size in zip(moved["NTK, GELU"], SIZES, strict=True)]
    share = max(ratios) / bound.constant
    trial.figure("largest NTK distance / (constant |x - y|), GELU", share)
    met = share <= 1 + 1e-6
    trial.goal("largest NTK distance / (constant |x - y|), GELU", "at most 1", share, met)


def _draw(moved: dict[str, list[list[float]]]) -> Any:
    """Draw how distances grow."""
    from merkhet.report.figures import figure

    made, (axis,) = figure()
    for kernel, distances in moved.items():
        means = [sum(one) / len(one) for one in distances]
        axis.plot(SIZES, means, marker="o", markersize=3, label=kernel)
    axis.set(xscale="log", yscale="log", xlabel="noise, relative", ylabel="distance of the maps")
    axis.legend(frameon=False, fontsize=8)
    return made
