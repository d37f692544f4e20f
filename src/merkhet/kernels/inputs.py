"""What may go into a kernel: vectors or pictures, finite, alike in all but their number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.kernels.layers import Layer

KINDS = ("both", "nngp", "ntk")


def as_inputs(name: str, given: Any) -> Tensor:
    """Return inputs as a tensor of floats, (n, d) or (n, channels, height, width).

    Args:
        name: "x" or "y", for the messages.
        given: A tensor, or what `torch.as_tensor` takes.

    Raises:
        InputError: They have another shape, none are there, or one is NaN or infinite; says which.
    """
    try:
        x = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {type(given).__name__}: give a tensor or an array") from error
    if x.dim() not in (2, 4) or 0 in x.shape:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}: give vectors (n, d) or pictures "
            "(n, channels, height, width), none of them 0"
        )
    if not x.dtype.is_floating_point:
        raise InputError(f"{name} holds {x.dtype}: give floats, as x.float() / 255 for pictures")
    bad = (~x.detach().isfinite()).flatten(1).any(1).nonzero()
    if len(bad):
        raise InputError(f"{name}[{int(bad[0])}] holds NaN or infinity: clean the data first")
    return x


def check_alike(x: Tensor, y: Tensor) -> None:
    """Refuse inputs that differ in more than their number.

    Raises:
        InputError: Says in what they differ.
    """
    if x.dim() != y.dim():
        raise InputError(f"x is {tuple(x.shape)} and y {tuple(y.shape)}: give both alike")
    names = ("channels", "height", "width") if x.dim() == 4 else ("features",)
    for name, one, other in zip(names, x.shape[1:], y.shape[1:], strict=True):
        if one != other:
            raise InputError(f"x has {name} {one} and y {other}: they must be the same")
    if x.device != y.device:
        raise InputError(f"x is on {x.device} and y on {y.device}: move one of them")


def check_request(network: Layer, kind: str, dtype: torch.dtype) -> None:
    """Refuse what is no network, no kind of kernel, or no type for an answer.

    Raises:
        InputError: Says what is allowed.
    """
    if not isinstance(network, Layer):
        raise InputError(
            f"the network is a {type(network).__name__}: give layers of merkhet.kernels, or "
            "from_module(network, example, weight_std=...) of a torch network"
        )
    choose("kind of kernel", kind, KINDS)
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"dtype {dtype}: give torch.float32 or torch.float64")
