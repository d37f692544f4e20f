"""Layers that networks choose by name: norms and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from merkhet.core.errors import choose

GROUPS = 32  # Wu & He, "Group normalization", ECCV 2018, section 3


def _group_norm(channels: int) -> nn.Module:
    """Return group norm in 32 groups, or in as many as divide both 32 and `channels`."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def _no_norm(channels: int) -> nn.Module:
    """Return the identity, whatever the number of channels."""
    return nn.Identity()


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": _group_norm,
    "none": _no_norm,
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Return a norm over pictures of `channels` channels.

    Args:
        kind: "batch", "group" (32 groups where they divide the channels) or "none".
        channels: Channels of the pictures.
    """
    return _NORMS[choose("norm", kind, _NORMS)](channels)


def activation_layer(kind: str) -> nn.Module:
    """Return a fresh activation: "relu" or "gelu" (never in place, so that hooks see it)."""
    return _ACTIVATIONS[choose("activation", kind, _ACTIVATIONS)]()
