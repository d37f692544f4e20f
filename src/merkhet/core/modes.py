"""Training and evaluation mode, for a while; the network that a compiler has wrapped."""

from __future__ import annotations

import sys
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


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the network that `torch.compile` wrapped, or the network itself if none did."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # slow to import, and there if needed
    if dynamo is None or not isinstance(module, dynamo.OptimizedModule):
        return module
    inner: nn.Module = module._orig_mod
    return inner


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and compute without gradients, for a while."""
    with in_mode(module, training=False), torch.no_grad():
        yield
