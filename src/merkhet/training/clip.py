"""Clipping by the global norm, of dense and sparse gradients alike."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.sparse import coalesced


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients so that their global Euclidean norm is at most `max_norm`.

    Does to dense gradients what `torch.nn.utils.clip_grad_norm_` does, and to sparse ones
    (COO) what that would do to their dense form: entries of one place are summed before the
    norm is taken. Nothing waits for the device.

    Args:
        parameters: Those without a gradient are passed over.
        max_norm: The largest norm allowed, above 0.

    Returns:
        The norm before clipping, shape `()`; 0 where there is no gradient. If it is not
        finite, the gradients are left as they are: look at it before you step.

    Raises:
        InputError: `max_norm` is not above 0.
    """
    if not max_norm > 0:
        raise InputError(f"max_norm = {max_norm!r}: give a number above 0")
    entries = [_entries(parameter) for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(entries)
    # torch's own margin against rounding, so that both give the same bits.
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    scale = torch.where(norm.isfinite(), scale, torch.ones_like(scale))
    for values in entries:
        values.mul_(scale.to(values.device))
    return norm


def _entries(parameter: Tensor) -> Tensor:
    """Return the gradient's entries as a dense tensor that shares its memory."""
    gradient = parameter.grad
    assert gradient is not None, "the caller passes over parameters without a gradient"
    if gradient.layout == torch.sparse_coo:
        gradient = coalesced(gradient)
        parameter.grad = gradient
        return gradient.values()
    return gradient
