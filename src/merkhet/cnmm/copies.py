"""Copies of modules that share nothing with the original."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError

Made = TypeVar("Made", bound=nn.Module)


def independent_copy(module: Made) -> Made:
    """Return a copy of a module that shares no tensor with it, and without gradients.

    Raises:
        InputError: Something in it cannot be copied, such as a weight that a hook computes.
    """
    try:
        made = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:  # what deepcopy and torch's tensors raise
        reason = first_line(error).partition(". ")[0]
        raise InputError(
            f"this {type(module).__name__} cannot be copied: {reason}. Weights that hooks compute: "
            "take torch.nn.utils.parametrizations.weight_norm or spectral_norm, "
            "and make pruning permanent by torch.nn.utils.prune.remove"
        ) from error
    for parameter in made.parameters():
        parameter.grad = None
    return made
