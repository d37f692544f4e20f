"""Running one operation of a network by itself: on constants, and on marks at entries."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Network, Node, Ref

LARGEST = 2**22  # entries of constants that are computed
FILLED = {"zeros": 0.0, "ones": 1.0}


class MissingError(LookupError):
    """An argument whose value is not known."""


def replayed(
    network: Network, node: Node, known: Mapping[str, Tensor], given: Mapping[str, Any]
) -> Any:
    """Return what an operation computes, None where that cannot be told.

    Args:
        network: Its graph.
        node: The operation.
        known: Values of nodes that are constants, by name.
        given: Arguments by name, which take the place of the node's; those in lists as
            "tensors.0", ...
    """
    alone = [name for name in node.parameters if "." not in name]  # others are in lists
    arguments = {**node.arguments, **dict.fromkeys(alone)}
    try:
        found = {
            "self" if name == "input" else name: _value(network, name, value, known, given)
            for name, value in arguments.items()
            if name in _taken(node.op)  # modules that hooks saw have others beside
        }
        first = (found.pop("self"),) if "self" in found else ()
        with torch.no_grad():
            return getattr(torch.ops.aten, node.op)(*first, **found)
    except (MissingError, RuntimeError, TypeError, AttributeError, IndexError, ValueError):
        return None  # places that depend on data, or an operation of another library


@functools.cache
def _taken(op: str) -> frozenset[str]:
    """Return the names of the arguments that an operation takes, "input" for ATen's self."""
    packet = getattr(torch.ops.aten, op)
    schemas = [getattr(packet, kind)._schema for kind in packet.overloads()]
    names = {argument.name for schema in schemas for argument in schema.arguments}
    return frozenset({"input" if name == "self" else name for name in names} | {"self"})


def _value(
    network: Network, name: str, value: Any, known: Mapping[str, Tensor], given: Mapping[str, Any]
) -> Any:
    """Return the value of an argument."""
    if name in given:
        return given[name]
    if isinstance(value, list | tuple):
        places = enumerate(value)
        return [_value(network, f"{name}.{n}", part, known, given) for n, part in places]
    if not isinstance(value, Ref):
        return value
    if value.name in known:
        return known[value.name]
    shape = network.node(value.name).shape
    if math.prod(shape) == 0:
        return torch.zeros(shape)
    raise MissingError(name)


def folded(
    network: Network, node: Node, known: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> Tensor | None:
    """Return the value of a result that no input and no weight has a part in, if it is small.

    Args:
        network: Its graph.
        node: The operation.
        known: Values of nodes before it, by name.
        stored: Values of the parameters and buffers it uses, by argument.
    """
    word = node.op.removeprefix("new_").removesuffix("_like")
    if len(node.shapes) != 1 or node.size > LARGEST or node.op == "input":
        return None
    if word in FILLED:
        return torch.tensor(FILLED[word]).expand(node.shape)
    if node.op == "literal":
        value = node.arguments.get("value", stored.get("input"))
    else:
        value = replayed(network, node, known, stored)
    whole = isinstance(value, Tensor) and tuple(value.shape) == node.shape
    if not isinstance(value, Tensor) or not whole or value.is_complex():
        return None
    return value.detach().cpu()


def moved_axes(found: Tensor) -> frozenset[int]:
    """Return the axes along which places differ."""
    return frozenset(
        axis
        for axis, size in enumerate(found.shape)
        if size > 1 and bool((found.diff(dim=axis) != 0).any())
    )


def places(shape: tuple[int, ...], axes: frozenset[int]) -> Tensor:
    """Return a number for each place along some axes, (*shape), the same along all others."""
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    return torch.arange(math.prod(sizes), dtype=torch.float64).view(sizes).expand(shape)
