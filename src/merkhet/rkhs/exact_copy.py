"""A network in float64, evaluated, apart from the user's; and inputs that fit it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import uncompiled
from merkhet.core.outputs import main_tensor


def exact_copy(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of a network in float64, on the CPU, in evaluation mode, without gradients.

    Tensors that modules keep as plain attributes are taken along.

    Args:
        model: The network.
        inputs: (n, *shape), that it is to run on.

    Raises:
        InputError: It is no network, cannot be copied, its weights are not finite, it does not run
            in float64, or it does not answer each input.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{model!r:.60}: give a network, an nn.Module")
    found = _copied(uncompiled(model))
    for name, tensor in [
        *found.named_parameters(),
        *found.named_buffers(),
        *_widened_attributes(found),
    ]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{name} holds NaN or infinity: no bound holds; mend the weights")
    try:
        with torch.no_grad():
            output = main_tensor(found(exact_inputs(inputs[:2])))
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
    if not output.numel():
        raise InputError(f"the network returns {tuple(output.shape)}: give one with some outputs")
    return found


def exact_inputs(inputs: Tensor) -> Tensor:
    """Return a copy of inputs in float64 on the CPU, without a gradient."""
    return inputs.detach().to("cpu", torch.float64, copy=True)


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network in float64, on the CPU, evaluated, without gradients.

    Raises:
        InputError: It is compiled by torch.jit, has lazy weights, or cannot be copied.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a ScriptModule cannot be read: give the nn.Module it was made from")
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("the network has lazy weights: run it once, so that they take shape")
    try:
        found = copy.deepcopy(model).to("cpu", torch.float64)
    except Exception as error:  # whatever its attributes raise
        raise InputError(
            f"the network cannot be copied ({first_line(error)}): give one whose weights are "
            "parameters, as torch.nn.utils.parametrizations keeps them, and whose other attributes "
            "copy.deepcopy takes"
        ) from error
    return found.eval().requires_grad_(False)


def _widened_attributes(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Put plain tensor attributes on the CPU, floats in float64; return them by name."""
    found: list[tuple[str, Tensor]] = []
    for path, part in model.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                wide = value.detach().cpu()
                vars(part)[name] = wide.double() if wide.is_floating_point() else wide
                found.append((f"{path}.{name}" if path else name, vars(part)[name]))
    return found


@torch.no_grad()
def precision(model: nn.Module, inputs: Tensor) -> float:
    """Return the coarsest eps that a network rounds numbers of float64 to on its way.

    That of float64 itself, unless its code calls .float() and the like.

    Args:
        model: The network in float64, evaluated.
        inputs: (n, *shape).
    """
    casts = _Casts()
    with casts:
        model(exact_inputs(inputs[:1]))
    return casts.eps


class _Casts(TorchDispatchMode):
    """Watches operations that take numbers of float64 and answer in a narrower type."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps: float = torch.finfo(torch.float64).eps

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note the precision of its results."""
        answer = func(*args, **(kwargs or {}))
        if torch.float64 in _floats([args, kwargs]):
            self.eps = max([self.eps, *(torch.finfo(dtype).eps for dtype in _floats(answer))])
        return answer


def _floats(value: Any) -> set[torch.dtype]:
    """Return the real floating types of tensors in arguments or results."""
    leaves = _pytree.tree_leaves(value)
    tensors = (one for one in leaves if isinstance(one, Tensor))
    return {one.dtype for one in tensors if one.is_floating_point()}


@torch.no_grad()
def mixes_examples(model: nn.Module, inputs: Tensor) -> bool:
    """Tell whether a network's answer to an example depends on another one beside it.

    Args:
        model: The network in float64, evaluated.
        inputs: (n, *shape).
    """
    one = exact_inputs(inputs[:1])
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
    if inputs.dim() < 2 or not inputs.numel():
        raise InputError(f"inputs of shape {tuple(inputs.shape)}: give some examples, (n, *shape)")
    if not bool(inputs.isfinite().all()):
        raise InputError("inputs hold NaN or infinity: give finite ones")
