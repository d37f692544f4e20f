"""Inputs in the data type that a network's weights have, where it takes no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.modes import evaluating
from merkhet.core.undisturbed import undisturbed

Preprocess = Callable[[Any], Any]


def fitted(module: nn.Module, preprocess: Preprocess | None, inputs: Tensor) -> Preprocess:
    """Return the preparation, with a cast to the weights' data type where the network needs it.

    Pictures are read in float32. A network in float64 or half precision refuses them; what it
    takes is tried, not guessed.

    Args:
        module: The network.
        preprocess: Prepares inputs, or None.
        inputs: (count, ...) a few raw inputs.
    """
    prepare = preprocess or _unchanged
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    prepared = prepare(inputs.clone())
    if not isinstance(prepared, Tensor) or not prepared.is_floating_point():
        return prepare
    if dtype in (None, prepared.dtype) or _runs(module, prepared):
        return prepare
    given = prepared.dtype

    def cast(raw: Tensor) -> Any:
        """Return prepared inputs as the weights are; others, of a copy in float64, as they are."""
        ready = prepare(raw)
        return ready.to(dtype) if ready.dtype == given else ready

    return cast


def _runs(module: nn.Module, prepared: Tensor) -> bool:
    """Tell whether a network takes inputs as they are."""
    if any(torch.nn.parameter.is_lazy(tensor) for tensor in module.parameters()):
        return True  # what is not made yet takes the inputs' type
    with evaluating(module), undisturbed(module):
        try:
            module(prepared.clone())
        except Exception:  # whatever it is, `trace` meets it again and says it
            return False
    return True


def _unchanged(inputs: Any) -> Any:
    """Return inputs as they are."""
    return inputs
