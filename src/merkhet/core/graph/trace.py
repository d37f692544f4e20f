"""Tracing: any module into a `Network`, by torch.export or, where that fails, by hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.core.graph.export import export_network
from merkhet.core.graph.hooks import hook_network
from merkhet.core.graph.network import Network
from merkhet.core.modes import evaluating


def trace(module: nn.Module, example_inputs: Any) -> Network:
    """Read the operations that a network runs on example inputs.

    The module is traced as it runs in evaluation mode and without gradients; its mode,
    parameters and buffers are left as found. torch.export sees every operation, with shapes
    but without computing them. Where it cannot follow the code (control flow that depends on
    data, other libraries), module hooks record one real forward pass instead, and the result
    says so in `source` and `reason`. Shapes are those of the example, batch size included.

    Args:
        module: Any network; what `torch.compile` returned is traced as the module inside.
        example_inputs: What it is called with: a tensor, a tuple of arguments, or a mapping
            of keyword arguments.

    Returns:
        The network, with module paths, shapes and parameters.

    Raises:
        InputError: The network does not run on the example inputs, or is a ScriptModule.
    """
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a ScriptModule cannot be traced: give the nn.Module it was made from")
    args, kwargs = as_call(example_inputs)
    with evaluating(module):
        try:
            return export_network(module, args, kwargs)
        except Exception as error:  # torch.export raises errors of many kinds
            return hook_network(module, args, kwargs, _first_line(error))


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as positional and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _first_line(error: Exception) -> str:
    """Return the first line of an error, with its kind."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
