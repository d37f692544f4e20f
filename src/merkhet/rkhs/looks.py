"""A network as a function of its input: as evaluated, whatever its mode, and left as found."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DataParallel, DistributedDataParallel

from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode, uncompiled
from merkhet.core.outputs import main_tensor


def bare(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of torch.compile and of data parallelism."""
    inner = uncompiled(model)
    if isinstance(inner, DataParallel | DistributedDataParallel):
        return bare(inner.module)
    return inner


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a network with compiled parts, whose gradients cannot be differentiated again.

    Raises:
        InputError: There is such a part; a network compiled as a whole is not refused, because
            its original is at hand.
    """
    for path, part in uncompiled(model).named_modules():
        if uncompiled(part) is not part or getattr(part, "_compiled_call_impl", None):
            raise InputError(
                f"{path or type(part).__name__} is compiled, and gradients of compiled parts "
                "cannot be differentiated again: give the network before it is compiled, or "
                "torch.compile(network) as a whole, whose original is then used"
            )


def depends_on_mode(model: nn.Module) -> bool:
    """Tell whether a part in training mode may compute otherwise than as evaluated.

    Such are batch norm, dropout, and every module whose own code reads `self.training`; it is
    the code that is looked at, not a list of classes. Dropout of probability 0 is not.
    """
    kinds: set[Any] = {type(part) for part in model.modules() if part.training and not _idle(part)}
    return any(_reads_mode(kind) for kind in kinds)


@contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """Compute with the network as evaluated; modes and buffers are then as they were.

    Attention is computed without a fused kernel, whose gradient has no derivative.

    Args:
        model: What `bare` returned.
    """
    kept = [
        (part, name, buffer, buffer.detach().clone(), buffer._version)
        for part in model.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        with in_mode(model, training=False), differentiable_twice():
            yield
    finally:
        for part, name, buffer, value, version in kept:
            part._buffers[name] = buffer
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Compute attention without fused kernels."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Leave autocast for a while: what is differentiated keeps the types it was computed in."""
    with torch.autocast(device.type, enabled=False):
        yield


def look(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (n, K) of a network as evaluated; see `as_logits`.

    Args:
        model: What `bare` returned; it is left as found.
        x: (n, *in) inputs; never written into.

    Raises:
        InputError: The logits are not such, or not finite.
    """
    return as_logits(answer(model, x), len(x))


def answer(model: nn.Module, x: Tensor) -> Tensor:
    """Return what a network as evaluated returns, as it is: its main tensor.

    Args:
        model: What `bare` returned; it is left as found.
        x: (n, *in) inputs; never written into.
    """
    with as_evaluated(model):
        return main_tensor(model(x.clone()))


def as_logits(output: Tensor, count: int) -> Tensor:
    """Return a network's output as logits (n, K), in float32 or wider.

    Args:
        output: (n, K), or (n,) for a single function.
        count: How many examples there were, n.

    Raises:
        InputError: It has another shape, is not of floats, or is not finite.
    """
    if output.dim() not in (1, 2) or len(output) != count or not output.is_floating_point():
        raise InputError(
            f"the network returned {tuple(output.shape)} {output.dtype} for {count} examples: "
            f"give one with logits ({count}, classes), or ({count},) for one function"
        )
    logits = widened(output.reshape(count, -1))
    finite = logits.detach().isfinite().all(1)
    if not finite.all():
        first = int(finite.int().argmin())
        raise InputError(
            f"the network returned values that are not finite for example {first} of the batch: "
            "look at its weights and at that input"
        )
    return logits


def check_inputs(x: Tensor) -> None:
    """Refuse what is no batch of inputs that a network could be differentiated at.

    Raises:
        InputError: It is no tensor, is empty, is not of floats, or is not finite.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        given = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"the inputs are {given}: give floats (n, ...), such as pictures scaled to [0, 1]; "
            "of a network on tokens take the part after the embedding"
        )
    if not x.numel():
        raise InputError(f"the batch is empty, {tuple(x.shape)}: give one example or more")


def widened(values: Tensor) -> Tensor:
    """Return floats in float32 or wider, any shape."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _idle(part: nn.Module) -> bool:
    """Tell whether a part is a dropout that drops nothing."""
    return isinstance(part, nn.modules.dropout._DropoutNd) and part.p == 0


@functools.cache
def _reads_mode(kind: Any) -> bool:
    """Tell whether the code of a class of modules, below `nn.Module` itself, reads `training`."""
    own = [base for base in kind.__mro__ if base not in nn.Module.__mro__]
    functions = [value for base in own for value in vars(base).values()]
    codes = [value.__code__ for value in functions if isinstance(value, types.FunctionType)]
    return any(_mentions(code, "training") for code in codes)


def _mentions(code: types.CodeType, name: str) -> bool:
    """Tell whether code, or a function defined in it, reads an attribute of this name."""
    inner = (value for value in code.co_consts if isinstance(value, types.CodeType))
    return name in code.co_names or any(_mentions(value, name) for value in inner)
