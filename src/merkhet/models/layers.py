"""What the networks share: blocks, pooling, initialisation, checks of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from merkhet.core import building
from merkhet.core.errors import InputError, choose
from merkhet.core.layers import activation_layer, norm_layer

_POOLS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def pool_layer(kind: str) -> nn.Module:
    """Return a pooling that halves height and width: "max" or "average"."""
    return _POOLS[choose("pooling", kind, _POOLS)](2)


def convolution(
    in_channels: int, out_channels: int, size: int, *, stride: int = 1, norm: str
) -> nn.Conv2d:
    """Return a convolution that keeps the picture's size over stride.

    It has a bias only without a norm: before a norm, a bias is subtracted again.
    """
    return nn.Conv2d(
        in_channels, out_channels, size, stride, padding=size // 2, bias=norm == "none"
    )


def convolution_block(
    in_channels: int, out_channels: int, *, norm: str, activation: str
) -> list[nn.Module]:
    """Return convolution 3x3, norm and activation, in this order."""
    return [
        convolution(in_channels, out_channels, 3, norm=norm),
        norm_layer(norm, out_channels),
        activation_layer(activation),
    ]


@torch.no_grad()
def he_initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Initialise convolutions, linear layers and norms so that signals keep their size.

    Convolutions: normal of variance 2/fan-in (He et al., "Delving deep into rectifiers",
    ICCV 2015, section 2.2), for GELU as for ReLU. Linear layers, which nothing rectifies
    here: variance 1/fan-in. Biases: 0. Norms: scale 1, shift 0, fresh statistics.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
            building.draw_normal(
                module.weight, math.sqrt(gain / module.weight[0].numel()), generator
            )
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()


def scaled(channels: int, width: float) -> int:
    """Return `width` times `channels`, rounded, at least 1.

    Raises:
        InputError: `width` is not a positive number.
    """
    building.check_positive(width=width)
    return max(1, round(width * channels))


def check_pictures(pictures: Tensor, channels: int, smallest: int = 1) -> None:
    """Check that `pictures` is (batch, channels, height, width), no side below `smallest`.

    Raises:
        InputError: It is not; the message gives the shape wanted and the shape given.
    """
    shape = pictures.shape
    if len(shape) != 4 or shape[1] != channels:
        raise InputError(
            f"this network takes pictures of shape (batch, {channels}, height, width),"
            f" not {tuple(shape)}"
        )
    if shape[2] < smallest or shape[3] < smallest:
        raise InputError(
            f"pictures of {shape[2]}x{shape[3]} are too small for this network:"
            f" give {smallest}x{smallest} or larger"
        )
