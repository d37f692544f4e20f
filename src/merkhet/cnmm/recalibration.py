"""Batch-norm statistics of one network of a mixture: measured anew, on its own states.

The running statistics that training leaves are those of the mixture's states. A single network's
states have other means and variances, so with them it computes something that nobody trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from merkhet.cnmm.copies import independent_copy
from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM
from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms as they are, in training mode too."""
    norms = batch_norms(model)
    before = [norm.momentum for norm in norms]
    counted = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, before, counted, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


@torch.no_grad()
def recalibrated(model: CNMM, gates: Sequence[Gates], batches: Iterable[Tensor]) -> CNMM:
    """Return a copy whose batch norms have the statistics of one network, or of one node set.

    Means over the batches of each batch's mean and variance, a larger batch counting for more; no
    weight changes. Batch norms alone are in training mode meanwhile: dropout is off, as it will be.
    Those that stay in evaluation mode by their own `train` keep the statistics they have.

    Args:
        model: Left as it is.
        gates: Of the network, from `model.path` or `model.subset`.
        batches: Pictures (batch, channels, height, width), as in training but without
            augmentation; a few hundred pictures are enough.

    Raises:
        InputError: There is no batch, one of fewer than two pictures, one that the mixture does
            not run on, or a part of the mixture that cannot be copied.
    """
    made = independent_copy(model)
    device = next(made.parameters()).device
    count = 0
    with in_mode(made, training=True), _measuring(made):
        for batch in batches:
            _measure(made, batch.to(device, copy=True), gates)  # a block may write into it
            count += 1
    if batch_norms(made) and not count:
        raise InputError("recalibration needs pictures: give one batch or more")
    return made


def _measure(model: CNMM, batch: Tensor, gates: Sequence[Gates]) -> None:
    """Run one batch, whose statistics the batch norms note."""
    if len(batch) < 2:
        raise InputError(f"a batch of {len(batch)} for recalibration: give two or more pictures")
    try:
        model(batch, gates)
    except RuntimeError as error:
        raise InputError(
            f"the mixture does not run on pictures of {tuple(batch.shape)}, {batch.dtype}: "
            f"{first_line(error)}"
        ) from error


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Let batch norms, which training mode reaches, and nothing else measure, from the start."""
    norms = [norm for norm in batch_norms(model) if norm.training]
    model.eval()
    before = [(norm.momentum, cast("Tensor", norm.running_mean).dtype) for norm in norms]
    hooks = [norm.register_forward_pre_hook(_Share(), with_kwargs=True) for norm in norms]
    for norm, (_, dtype) in zip(norms, before, strict=True):
        norm.train()
        norm.reset_running_stats()
        norm.to(torch.promote_types(dtype, torch.float32))  # means in 16 bits would stand still
    try:
        yield
    finally:
        for hook, norm, (momentum, dtype) in zip(hooks, norms, before, strict=True):
            hook.remove()
            norm.to(dtype)
            norm.momentum = momentum


class _Share:
    """Makes the running statistics of one norm the mean over all values that it has met."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(
        self, norm: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> None:
        """Give the coming batch its share."""
        x = given[0] if given else named["input"]
        values = x.numel() // x.shape[1]
        self.seen += values
        norm.momentum = values / self.seen  # type: ignore[assignment]


def batch_norms(model: nn.Module) -> list[_NormBase]:
    """Return the batch and instance norms that keep running statistics."""
    found = [part for part in model.modules() if isinstance(part, _NormBase)]
    return [norm for norm in found if norm.track_running_stats]
