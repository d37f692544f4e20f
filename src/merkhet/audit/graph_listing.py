"""`merkhet audit --graph`: a network's operations as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merkhet.audit.case import Case
from merkhet.core.costs import costs
from merkhet.core.errors import InputError
from merkhet.core.graph import trace
from merkhet.core.options import numbers
from merkhet.data import load_inputs

if TYPE_CHECKING:
    from merkhet.models import Target


def graph_listing(case: Case, shape: str | None) -> str:
    """Return the graph's listing, traced on data or on zeros of a given shape.

    Args:
        case: Names the network, and data where no shape is given.
        shape: Of one input, as in "3x32x32" or "64:int64"; or None.
    """
    target = case.target()
    example = _zeros(shape) if shape is not None else _first(case, target)
    network = trace(target.module, example)
    counted = costs(network)
    return (
        f"{network}\n{len(network.nodes)} operations, {counted.parameters:,} parameters, "
        f"{counted.multiply_adds:,.0f} multiply-adds an example"
    )


def _first(case: Case, target: Target) -> Tensor:
    """Return one input of the case's data, with a batch dimension of 1."""
    found = load_inputs(
        case.data or target.data, samples=2, size=case.size, tokenizer=target.tokenizer
    )
    return (found if isinstance(found, Tensor) else found.floats())[:1]


def _zeros(shape: str) -> Tensor:
    """Return one input of zeros, of the shape and data type that an option names."""
    sizes, _, kind = shape.partition(":")
    lengths = numbers(sizes, "--shape", "x", int)
    dtype = getattr(torch, kind or "float32", None)
    if min(lengths) < 1 or not isinstance(dtype, torch.dtype):
        raise InputError(f"--shape takes lengths from 1 on, as in 3x32x32, not {shape!r}")
    return torch.zeros(1, *lengths, dtype=dtype)
