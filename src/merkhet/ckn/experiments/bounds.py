"""Small CNNs trained at several noises and decays: gaps, bounds of norms, spectral complexity."""

from __future__ import annotations

import itertools
import math
import statistics
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.ckn import DotProductKernel
from merkhet.ckn.cnn_norm import cnn_norm_bound
from merkhet.ckn.experiments.gaps import (
    CLASSES,
    ORDER,
    Pair,
    Run,
    gap,
    labelled,
    middle_margin,
    record_mean,
    record_order,
)
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import HomogeneousNetwork
from merkhet.ckn.spectral import spectral_complexity
from merkhet.core.building import draw_normal
from merkhet.report import Trial
from merkhet.training import Optimisation, Running, TrainingConfig, fit

SHARES, DECAYS = (0.0, 0.5, 1.0), (1.0, 3.0, 10.0)
RATE, BATCH, SIDE = 1e-2, 50, 14
KERNEL = DotProductKernel("inverse")
FORMS = ("layerwise", "spectral", "gram")
BOUNDS = {"homogeneous": FORMS, "ReLU": ("spectral complexity",)}


def train_all(
    trial: Trial, plan: dict[str, Any], family: str, pool: Pair, test: Pair
) -> dict[tuple[float, float], list[Run]]:
    """Return what each seed found of each share of random labels and weight decay.

    Args:
        trial: Whose seeds are taken, and which keeps the steps.
        plan: Labels, steps and channels.
        family: A key of `BOUNDS`.
        pool: Pictures (n, 1, 28, 28) and labels to draw from.
        test: Those to measure the gap on.
    """
    small, tested = (F.avg_pool2d(images, 2) for images, _ in (pool, test))
    # Patches of pictures between 0 and 1 are nearly parallel, and hard to learn from.
    middle, spread = small.mean(), small.std()
    small, tested = (small - middle) / spread, (tested - middle) / spread
    found: dict[tuple[float, float], list[Run]] = {}
    for share, decay, seed in itertools.product(SHARES, DECAYS, trial.record.seeds):
        drawn, labels = labelled(pool[1], plan["labels"], share, seed)
        pairs = (small[drawn], labels), (tested, test[1])
        one = trial.step(
            f"{family} CNN, {share:.0%} random, decay {decay:g}, seed {seed}",
            partial(_trained, family, plan, decay, seed, pairs, share),
        )
        found.setdefault((share, decay), []).append(one)
    return found


def _trained(
    family: str,
    plan: dict[str, int],
    decay: float,
    seed: int,
    pairs: tuple[Pair, Pair],
    share: float,
) -> Run:
    """Return a CNN's gap after training, its log margin, and the logarithms of its bounds.

    Args:
        family: A key of `BOUNDS`.
        plan: Steps and channels.
        decay: Of the weights.
        seed: Of weights and batches.
        pairs: Pictures and labels to learn from, and to measure the gap on.
        share: Of random labels.
    """
    train, test = pairs
    network = _network(family, plan["channels"], seed)
    config = TrainingConfig(
        plan["steps"],
        min(BATCH, len(train[0])),
        seed=seed,
        optimisation=Optimisation(RATE, weight_decay=decay),
        running=Running(cpu=True, progress=False),
    )
    fit(network, TensorDataset(*train), _loss, config)
    with torch.no_grad():
        own, other = network(train[0]), network(test[0])
    truth = train[1][:, None]
    margins = own.gather(1, truth) - own.scatter(1, truth, -math.inf)
    margin = middle_margin(margins.amin(1))
    return {
        "gap": gap((own, train[1]), (other, test[1]), share),
        "log margin": math.log(margin) if margin > 0 else -math.inf,
        **_log_bounds(family, network),
    }


def _network(family: str, channels: int, seed: int) -> nn.Sequential:
    """Return a CNN for pictures of 14x14; weights have variance 1 / fan-in in both families."""
    sizes = ((1, channels), (channels, channels))
    last = (nn.AvgPool2d(2), nn.Flatten(), nn.utils.skip_init(nn.Linear, 25 * channels, CLASSES))
    network: nn.Sequential
    if family == "homogeneous":
        layers = [HomogeneousConv2d(*size, 3, padding="valid") for size in sizes]
        network = HomogeneousNetwork(*layers, *last, kernel=KERNEL)
    else:
        one, other = (nn.utils.skip_init(nn.Conv2d, *size, 3) for size in sizes)
        network = nn.Sequential(one, nn.ReLU(), other, nn.ReLU(), *last)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            draw_normal(parameter, parameter[0].numel() ** -0.5, generator)
        else:
            nn.init.zeros_(parameter)
    return network


def _loss(module: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of a batch."""
    return F.cross_entropy(module(batch[0]), batch[1])


def _log_bounds(family: str, network: nn.Sequential) -> Run:
    """Return the logarithm of each bound of |f_i - f_j|, median over pairs, or the complexity's."""
    shape = (1, SIDE, SIDE)
    if family == "ReLU":
        return {"spectral complexity": math.log(spectral_complexity(network, shape))}
    found = cnn_norm_bound(network, shape, KERNEL, differences=True)
    rows, columns = torch.triu_indices(CLASSES, CLASSES, 1)
    logs = (found.log_layerwise, found.log_spectral, found.log_gram)
    return {
        form: float(log[rows, columns].median()) / 2 for form, log in zip(FORMS, logs, strict=True)
    }


def record_networks(trial: Trial, family: str, found: dict[tuple[float, float], list[Run]]) -> None:
    """Record gaps and bounds, and which bounds order the networks as the gap does.

    Args:
        trial: The trial.
        family: A key of `BOUNDS`.
        found: From `train_all`.
    """
    for (share, decay), runs in found.items():
        end = f"{family} CNN, {share:.0%} random, decay {decay:g}"
        record_mean(trial, f"gap, {end}", [run["gap"] for run in runs])
        for bound in BOUNDS[family]:
            middle = statistics.median(_over_margin(bound, run) for run in runs) / math.log(10)
            if math.isfinite(middle):
                trial.figure(f"log10 of {bound} / margin, {end}", middle)
    name = f"1 / margin, {family} CNN"
    record_order(trial, name, found, lambda _, run: -run["log margin"])
    for bound in BOUNDS[family]:
        _record_bound(trial, family, bound, found)


def _record_bound(
    trial: Trial, family: str, bound: str, found: dict[tuple[float, float], list[Run]]
) -> None:
    """Record how often a bound is finite, and how it orders the networks."""
    finite = statistics.mean(math.isfinite(run[bound]) for runs in found.values() for run in runs)
    trial.figure(f"share of networks with a finite bound, {bound}, {family} CNN", finite)
    record_order(trial, f"{bound}, {family} CNN", found, lambda _, run: run[bound])
    name = f"{bound} / margin, {family} CNN"
    value, (low, _) = record_order(trial, name, found, lambda _, run: _over_margin(bound, run))
    goal = f"{ORDER}, {name}"
    trial.goal(goal, "above 0, its interval too", round(value, 3), low > 0)


def _over_margin(bound: str, run: Run) -> float:
    """Return the logarithm of a bound over the margin."""
    return run[bound] - run["log margin"]
