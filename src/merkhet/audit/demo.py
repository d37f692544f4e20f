"""The demo: a small network on real pictures, from scratch to report."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from merkhet import data as datasets
from merkhet import models
from merkhet.audit.run import Report, audit
from merkhet.core.errors import InputError
from merkhet.training import Optimisation, TrainingConfig, fit

PREFERRED = ("mnist", "fashion-mnist", "digits")
STEPS = 400
RATE = 5e-3


def run_demo(data: str | None, *, seed: int, tell: Callable[[str], None]) -> Report:
    """Train a small network on real pictures and audit it.

    Args:
        data: Name or path of a data set with labels; by default MNIST or Fashion-MNIST where
            they are found, otherwise scikit-learn's digits, which always are.
        seed: Seed of weights, order and audit.
        tell: Called with each line of progress.
    """
    train = datasets.load(data or _best_found(), split="train", limit=20_000, seed=seed)
    test = datasets.load(train.name if data is None else data, split="test", seed=seed)
    if train.labels is None:
        raise InputError(f"the demo trains a classifier, and {train.name} has no labels")
    tell(f"training a small network on {len(train):,} pictures of {train.name}")
    network = models.SmallCNN(train.images.shape[1], len(train.classes), seed=seed)
    config = TrainingConfig(
        steps=STEPS, batch_size=64, seed=seed, optimisation=Optimisation(learning_rate=RATE)
    )
    fit(network, train, cross_entropy, config)
    tell("auditing it")
    return audit(network, test, name=f"a small CNN, trained on {train.name}", seed=seed)


def cross_entropy(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the classification loss of a batch of pictures and labels."""
    images, labels = batch
    return torch.nn.functional.cross_entropy(module(images), labels)


def _best_found() -> str:
    """Return the name of the first preferred data set that is on this machine."""
    for name in PREFERRED:
        try:
            datasets.find(name)
        except InputError:
            continue
        return name
    return PREFERRED[-1]
