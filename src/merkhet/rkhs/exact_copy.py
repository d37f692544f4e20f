"""A network in float64, evaluated, apart from the user's; and inputs that fit it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import uncompiled
from merkhet.core.outputs import main_tensor


def exact_copy(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of a network in float64, on the CPU, in evaluation mode, without gradients.

    Args:
        model: The network.
        inputs: (n, *shape), that it is to run on.

    Raises:
        InputError: It cannot be copied, its weights are not finite, it does not run in float64, or
            it does not answer each input.
    """
    try:
        found = copy.deepcopy(uncompiled(model)).to("cpu", torch.float64)
    except RuntimeError as error:
        raise InputError(
            f"the network cannot be copied ({first_line(error)}): give one whose weights are "
            "parameters, as torch.nn.utils.parametrizations keeps them"
        ) from error
    found.eval().requires_grad_(False)
    for name, tensor in [*found.named_parameters(), *found.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{name} holds NaN or infinity: no bound holds; mend the weights")
    try:
        with torch.no_grad():
            output = main_tensor(found(inputs[:2].to("cpu", torch.float64)))
    except Exception as error:
        raise InputError(
            f"the network does not run in float64 on inputs of shape {tuple(inputs.shape)}: "
            f"{first_line(error)}"
        ) from error
    if output.shape[:1] != inputs[:2].shape[:1]:
        raise InputError(
            f"the network returns {tuple(output.shape)} for {len(inputs[:2])} inputs: give one "
            "that answers each of them"
        )
    return found


@torch.no_grad()
def mixes_examples(model: nn.Module, inputs: Tensor) -> bool:
    """Tell whether a network's answer to an example depends on another one beside it.

    Args:
        model: The network in float64, evaluated.
        inputs: (n, *shape).
    """
    one = inputs[:1].to("cpu", torch.float64)
    alone, beside = (
        main_tensor(model(torch.cat([one, other])))[0] for other in (one, 0.5 * one + 0.1)
    )
    return not torch.allclose(alone, beside, rtol=1e-9, atol=1e-12, equal_nan=True)


def check_inputs(inputs: Tensor) -> None:
    """Refuse what is no batch of finite examples.

    Raises:
        InputError: Says what to give instead.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"inputs in {kind}: give a tensor of floats, (n, *shape)")
    if inputs.dim() < 2 or not len(inputs):
        raise InputError(f"inputs of shape {tuple(inputs.shape)}: give some examples, (n, *shape)")
    if not bool(inputs.isfinite().all()):
        raise InputError("inputs hold NaN or infinity: give finite ones")
