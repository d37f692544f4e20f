"""Training and evaluation mode, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put `module` into one mode, and every part of it back into its own, whatever happens.

    Both ways go through `train`, which networks override to do more than set a flag (adapters
    that merge themselves into the weights they adapt, norms that stay frozen).
    """
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():  # the outer ones first: `train` sets all inside
            if part.training != mode:
                part.train(mode)
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and compute without gradients, for a while."""
    with in_mode(module, training=False), torch.no_grad():
        yield
