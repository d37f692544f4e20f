"""What a network is called with and gives back: arguments, and the tensors nested in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as positional and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested tuples, mappings and dataclasses, names joined by dots.

    Args:
        value: Arguments or results.
        name: What the whole is called; a tensor alone goes by it.
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping | type):
        value = vars(value)
    if isinstance(value, Mapping):
        parts: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, tuple | list):
        parts = iter(enumerate(value))
    else:
        return
    for key, part in parts:
        yield from named_tensors(part, f"{name}.{key}" if name else str(key))


def copied(value: Any) -> Any:
    """Return arguments with copies of their tensors, for a network may write into its inputs."""
    return _pytree.tree_map_only(Tensor, Tensor.clone, value)


def described(value: Any) -> str:
    """Return shapes and data types of the tensors in arguments, for messages."""
    return ", ".join(
        f"({', '.join(map(str, tensor.shape))}) {str(tensor.dtype).removeprefix('torch.')}"
        for _, tensor in named_tensors(value)
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
