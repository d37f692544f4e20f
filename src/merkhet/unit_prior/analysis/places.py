"""The places of a network that an analysis looks at, and one unit of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from merkhet.core.calls import as_call, copied, described, first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.core.outputs import captured, main_tensor
from merkhet.core.undisturbed import undisturbed

MOST_PLACES = 60


@dataclass(frozen=True)
class Place:
    """A module's output, and one unit of it.

    Attributes:
        path: Of the module; "" is the network's output.
        operation: Class of the module.
        units: Entries of the output for one input.
        weighted: Whether the module has weights of its own.
        unit: The unit's place among them, flat: the first feature at the middle position.
    """

    path: str
    operation: str
    units: int
    weighted: bool
    unit: int


def first_example(x: Any) -> Any:
    """Return the first example of a batch, with a batch dimension of 1.

    Args:
        x: Inputs (batch, ...), or a tuple or mapping of such arguments.

    Raises:
        InputError: Inputs without a batch, empty ones, or such as are not finite.
    """
    tensors = [leaf for leaf in _pytree.tree_leaves(x) if isinstance(leaf, Tensor)]
    if not tensors or any(tensor.dim() == 0 or not len(tensor) for tensor in tensors):
        raise InputError(f"x is {described([x]) or x!r}: give inputs (batch, ...), one or more")
    if not all(tensor[:1].isfinite().all() for tensor in tensors):
        raise InputError("x has entries that are not finite: give finite inputs")
    return _pytree.tree_map_only(Tensor, lambda tensor: tensor[:1], x)


def places(module: nn.Module, example: Any, paths: Sequence[str] | None) -> list[Place]:
    """Return places in the order in which the network comes by them.

    Args:
        module: The network.
        example: One input, with a batch dimension of 1.
        paths: Module paths; None for modules with weights of their own, activations, and the
            output where it is another tensor than the last of these.

    Raises:
        InputError: A path does not exist, the network does not run its module, or a layer has
            no width.
    """
    asked = list(_candidates(module)) if paths is None else list(dict.fromkeys(paths))
    args, kwargs = as_call(example)
    with torch.no_grad(), evaluating(module), undisturbed(module), captured(module, asked) as seen:
        try:
            output = main_tensor(module(*copied(args), **copied(kwargs)))
        except Exception as error:  # whatever the network raises
            raise InputError(
                f"the network does not run on inputs of shape {described([args, kwargs])}: "
                f"{first_line(error)}"
            ) from error
    if paths is None:
        last = next(reversed(seen.values()), None)
        if last is None or last.shape != output.shape or not torch.equal(last, output):
            seen[""] = output
        seen = {path: one for path, one in seen.items() if _for_each_input(one)}
    for path in paths or ():
        if path not in seen:
            raise InputError(f"{path!r} is never called by the network: give another path")
    layers = dict(module.named_modules(remove_duplicate=False))
    return [_place(path, layers[path], found) for path, found in seen.items()]


def _for_each_input(output: Tensor) -> bool:
    """Tell whether an output for one input holds numbers of it along the first axis."""
    return output.is_floating_point() and output.dim() > 0 and len(output) == 1


def has_weights(module: nn.Module) -> bool:
    """Tell whether a module itself, without those inside, has weights: parameters of 2 axes."""
    return any(one.dim() >= 2 for one in module.parameters(recurse=False))


def _candidates(module: nn.Module) -> Iterator[str]:
    """Yield the paths of modules with weights of their own, and of torch.nn's activations."""
    for path, part in module.named_modules():
        leaf = next(part.children(), None) is None
        activation = leaf and type(part).__module__ == "torch.nn.modules.activation"
        if path and (activation or has_weights(part)):
            yield path


def _place(path: str, module: nn.Module, output: Tensor) -> Place:
    """Return the place of a module's output (1, ...).

    Raises:
        InputError: It has no units, or weights without entries.
    """
    shape = tuple(output.shape[1:])
    sizes = (tuple(one.shape) for one in module.parameters(recurse=False) if one.dim() >= 2)
    for size in (shape, *sizes):
        if 0 in size:
            where = repr(path) if path else "the network's output"
            raise InputError(f"{where} has a width of 0 in {size}: give widths from 1 on")
    channels_first = len(shape) > 2 or isinstance(module, nn.modules.conv._ConvNd)
    positions = shape[1:] if channels_first else shape[:-1]
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    steps = steps[1:] if channels_first else steps[:-1]
    unit = sum(size // 2 * step for size, step in zip(positions, steps, strict=True))
    weighted = has_weights(module)
    return Place(path, type(module).__name__, math.prod(shape), weighted, unit)
