"""A network as a function of its input: as evaluated, whatever its mode, and left as found."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Iterable, Iterator
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


def refuse_coupled(model: nn.Module) -> None:
    """Refuse batch norm that has no running statistics: each example's logits depend on all.

    Raises:
        InputError: There is such a part.
    """
    for path, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise InputError(
                f"{path or type(part).__name__} has no running statistics, so that the logits of "
                "one example depend on the whole batch: give a network with "
                "track_running_stats=True, or with another normalisation"
            )


def depends_on_mode(model: nn.Module) -> bool:
    """Tell whether a part in training mode may compute otherwise than as evaluated.

    Such are batch norm, dropout, and every module whose own code reads `training`; it is the
    code that is looked at (methods, properties, what decorators wrap, functions that are called
    by a global name, hooks), not a list of classes. Dropout of probability 0 is not.
    """
    parts = [part for part in model.modules() if part.training and not _idle(part)]
    kinds: set[Any] = {type(part) for part in parts}
    return any(_reads_mode(kind) for kind in kinds) or any(map(_own_code_reads_mode, parts))


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
    if not torch.stack(x.detach().aminmax()).isfinite().all():  # several times faster than of all
        raise InputError("the inputs are not all finite: take out what is NaN or infinite")


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
    return _any_mentions(value for base in own for value in vars(base).values())


def _own_code_reads_mode(part: nn.Module) -> bool:
    """Tell whether code that one module alone has, hooks or a method put into it, reads it."""
    hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    forward = part.__dict__.get("forward")
    return bool(hooks or forward) and _any_mentions((*hooks, forward))


def _any_mentions(values: Iterable[Any], name: str = "training") -> bool:
    """Tell whether functions among values, or functions that they call, read an attribute."""
    left, seen = list(values), set()
    while left:
        for function in _functions(left.pop()):
            if function not in seen:
                seen.add(function)
                if _mentions(function.__code__, name):
                    return True
                left.extend(_called(function))
    return False


def _functions(value: Any) -> list[types.FunctionType]:
    """Return the functions in a value: itself, a method's, a property's."""
    if isinstance(value, property):
        return [part for part in (value.fget,) if isinstance(part, types.FunctionType)]
    value = getattr(value, "__func__", value)  # of methods, static and class methods
    return [value] if isinstance(value, types.FunctionType) else []


def _called(function: types.FunctionType) -> Iterator[Any]:
    """Yield what a function may call: what it wraps or holds, and by a global name, not torch's."""
    yield inspect.unwrap(function)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is empty yet
            yield cell.cell_contents
    names = function.__code__.co_names
    for value in map(function.__globals__.get, names):
        found = [vars(value).get(name) for name in names] if inspect.ismodule(value) else [value]
        yield from (part for part in found if not _of_torch(part))


def _of_torch(value: Any) -> bool:
    """Tell whether a function is PyTorch's own."""
    return str(getattr(value, "__module__", "")).partition(".")[0] == "torch"


def _mentions(code: types.CodeType, name: str) -> bool:
    """Tell whether code, or a function defined in it, reads an attribute of this name."""
    inner = (value for value in code.co_consts if isinstance(value, types.CodeType))
    named = name in code.co_names or name in code.co_consts
    return named or any(_mentions(value, name) for value in inner)
