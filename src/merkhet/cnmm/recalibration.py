"""Batch-norm statistics of one network of a mixture: measured anew, on its own states.

The running statistics that training leaves are those of the mixture's states. A single network's
states have other means and variances, so with them it computes something that nobody trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM
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

    Means over the batches of each batch's mean and variance; no weight changes.

    Args:
        model: Left as it is.
        gates: Of the network, from `model.path` or `model.subset`.
        batches: Pictures (batch, channels, height, width), as in training but without
            augmentation; a few hundred pictures are enough.

    Raises:
        InputError: There is no batch, or one of fewer than two pictures.
    """
    made = copy.deepcopy(model)
    norms = batch_norms(made)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    device = next(made.parameters()).device
    count = 0
    with in_mode(made, training=True):
        for batch in batches:
            if len(batch) < 2:
                raise InputError("recalibration on one picture: give batches of two or more")
            made(batch.to(device), gates)
            count += 1
    if norms and not count:
        raise InputError("recalibration needs pictures: give one batch or more")
    for norm, original in zip(norms, batch_norms(model), strict=True):
        norm.momentum = original.momentum
    return made


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics."""
    found = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    return cast("list[_BatchNorm]", [norm for norm in found if norm.track_running_stats])
