"""Tracing: any module into a `Network`, by torch.export or, where that fails, by hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from merkhet.core.calls import as_call, copied, described, first_line, named_tensors
from merkhet.core.errors import InputError
from merkhet.core.graph.export import export_network
from merkhet.core.graph.hooks import hook_network
from merkhet.core.graph.network import Network
from merkhet.core.modes import evaluating, uncompiled
from merkhet.core.undisturbed import undisturbed


def trace(module: nn.Module, example_inputs: Any) -> Network:
    """Read the operations that a network runs on example inputs.

    The module is traced as it runs in evaluation mode and without gradients; its mode,
    parameters, buffers and other attributes are left as found (lazy ones are initialised). It
    runs once, so that what it makes at its first call is there; then torch.export sees every
    operation, with shapes but without computing them. Where export cannot follow the code
    (control flow that depends on data, other libraries), module hooks record another forward
    pass instead, and the result says so in `source` and `reason`. Shapes are those of the
    example, batch size included.

    Args:
        module: Any network; what `torch.compile` returned is traced as the module inside.
        example_inputs: What it is called with: a tensor, a tuple of arguments, or a mapping
            of keyword arguments.

    Returns:
        The network, with module paths, shapes and parameters.

    Raises:
        InputError: The network does not run on the example inputs, returns no tensor, or is a
            ScriptModule.
    """
    module = uncompiled(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a ScriptModule cannot be traced: give the nn.Module it was made from")
    args, kwargs = as_call(example_inputs)
    with evaluating(module):
        if any(is_lazy(tensor) for tensor in [*module.parameters(), *module.buffers()]):
            _run(module, args, kwargs)  # and stays initialised
    with evaluating(module), undisturbed(module):
        _run(module, args, kwargs)
        try:
            return export_network(module, args, kwargs)
        except Exception as error:  # torch.export raises errors of many kinds
            return hook_network(module, copied(args), copied(kwargs), _why(error))


def _why(error: Exception) -> str:
    """Say why torch.export could not trace a network, without a full stop."""
    if "DataDependent" in type(error).__name__:
        return "its control flow depends on data"
    return f"{type(error).__name__}: {first_line(error)}".rstrip(".")


def _run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the network once on copies of its inputs.

    Raises:
        InputError: It does not run on them, or returns no tensor.
    """
    try:
        output = module(*copied(args), **copied(kwargs))
    except Exception as error:
        raise InputError(
            f"the network does not run on inputs of shape {described([args, kwargs])}: "
            f"{first_line(error)}"
        ) from error
    if not any(True for _ in named_tensors(output)):
        raise InputError(f"the network returns {type(output).__name__} without a tensor in it")
