"""What the compiled loops need of every image: its patches, and its variances at each layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.kernels.convolution import Conv2d, pair

TAPS = 9  # length that patches are filled up to a multiple of, as `loops` takes them
Array = np.ndarray[Any, Any]
Types = tuple[Any, Any]  # of patches and of norms


@dataclass(frozen=True)
class Images:
    """Some images, made ready.

    Attributes:
        patches: (n, H, W, K) patches of unit length, or 0, float64.
        norms: (n, H, W) lengths of the patches.
        later: For each later activation (n, 2, H, W): roots of the variances there and their
            inverses, or 0.
        own: (2, n) covariance and tangent kernel of each with itself where positions end.
    """

    patches: Array
    norms: Array
    later: tuple[Array, ...] = ()
    own: Array = field(default_factory=lambda: np.empty((2, 0)))

    def one(self, place: int, types: Types) -> tuple[Array, Array]:
        """Return the patches (H, W, K) and norms (H, W) of an image as x, in their types."""
        return self.patches[place].astype(types[0]), self.norms[place].astype(types[1])

    def lanes(self, low: int, high: int, types: Types, *, by_position: bool) -> tuple[Array, Array]:
        """Return the patches and norms of some images as y, side by side, in their types.

        They are (H, K, W L) and (H, W L); `by_position` they are (H, W, K, L) and (H, W, L).
        """
        patches, norms = self.patches[low:high], side_by_side(self.norms[low:high])
        norms = norms.astype(types[1])
        if by_position:
            turned = patches.transpose(1, 2, 3, 0)
            shape = (*turned.shape[:2], high - low)
            return np.ascontiguousarray(turned, types[0]), norms.reshape(shape)
        turned = patches.transpose(1, 3, 2, 0)
        return np.ascontiguousarray(turned.reshape(*turned.shape[:2], -1), types[0]), norms

    def one_later(self, place: int) -> list[Array]:
        """Return for each later activation (2, H, W): the norms of an image and their inverses."""
        return [norms[place] for norms in self.later]

    def lanes_later(self, low: int, high: int) -> list[Array]:
        """Return for each later activation (2, H, W L): norms side by side and their inverses."""
        turned = [norms[low:high].transpose(1, 2, 3, 0) for norms in self.later]
        return [np.ascontiguousarray(one.reshape(*one.shape[:2], -1)) for one in turned]


def patches_of(layer: Conv2d, x: Tensor) -> tuple[Array, Array]:
    """Return the patches (n, H, W, K) of unit length of pictures x (n, c, h, w), and their norms.

    Products of the patches times their norms are the covariances after the first layer: weights
    are in the norms, and a bias is one more entry of the patch.
    """
    size, stride = pair("", layer.kernel_size), pair("", layer.stride)
    (top, bottom), (left, right) = layer.sides(tuple(x.shape[2:]))
    padded = F.pad(x.double(), (left, right, top, bottom))
    found = padded.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1])
    patches = found.permute(0, 2, 3, 1, 4, 5).flatten(3)
    patches = patches * (float(layer.weight_std) / patches.shape[-1] ** 0.5)
    bias = torch.full_like(patches[..., :1], float(layer.bias_std))
    whole = torch.cat([patches, bias], -1) if layer.bias_std else patches
    norms = whole.norm(dim=-1)
    unit = whole / torch.where(norms > 0, norms, torch.ones_like(norms))[..., None]
    filled = F.pad(unit, (0, -unit.shape[-1] % TAPS))
    return filled.contiguous().numpy(), norms.numpy()


def side_by_side(norms: Array) -> Array:
    """Return (n, H, W) as (H, W n), images side by side at each position."""
    turned = norms.transpose(1, 2, 0)
    return np.ascontiguousarray(turned.reshape(len(turned), -1))


def with_inverses(norms: Array, axis: int = -3) -> Array:
    """Return norms (..., H, W) and, stacked upon them (..., 2, H, W), their inverses, 0 for 0."""
    inverses = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.stack([norms, inverses], axis)
