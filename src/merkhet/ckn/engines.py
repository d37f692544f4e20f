"""A layer's forward pass, and where its form is picked: compiled loops, or plain torch.

Products of patches with filters are convolutions. What follows, from products and norms to pooled
kernel values, is `plain.pooled`, or on processors `cpu.pooled`: the same in one sweep.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merkhet.ckn import plain
from merkhet.core.transforms import transforming

if TYPE_CHECKING:
    from merkhet.ckn.layer import CKNLayer

CACHE = 2**20  # products at once where nothing is kept for gradients: they stay in the cache


def forward(layer: CKNLayer, maps: Tensor) -> Tensor:
    """Return the maps of a layer, (N, [elements,] filters, *size').

    Args:
        layer: The layer.
        maps: (N, [elements,] channels, *size).
    """
    root = (layer.root() / math.sqrt(layer.patches.positions)).to(maps.dtype)
    if _whole(layer, maps):
        return _batch(layer, maps, root)
    step = max(1, CACHE // (len(layer.filters) * math.prod(maps.shape[-layer.form.dims :])))
    return torch.cat([_batch(layer, part, root) for part in maps.split(step)])


def _batch(layer: CKNLayer, maps: Tensor, root: Tensor) -> Tensor:
    """Return the maps of a few pictures."""
    pooled = _pooling(layer, maps)
    frames = []
    for element in layer.patches.elements:
        values = pooled(layer, *layer.readings(maps, element))
        # Channels last, as the compiled loops leave them and the next convolution likes them.
        frames.append((values.movedim(1, -1).to(root.dtype) @ root.mT).movedim(-1, 1))
    return frames[0] if layer.group is None else torch.stack(frames, 1)


def _pooling(layer: CKNLayer, maps: Tensor) -> plain.Pooled:
    """Return what takes products and norms to pooled kernel values.

    The loops of `cpu` take float32 pictures on processors, and the kernels that they know; all else
    is for `plain`. A path for GPUs would be picked here.
    """
    floats = maps.dtype == layer.filters.dtype == torch.float32
    here = maps.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    known = layer.form.dims == 2 and layer.kernel.kind != "relu"
    if floats and here and known and not traced():
        from merkhet.ckn import cpu

        return cpu.pooled
    return plain.pooled


def _whole(layer: CKNLayer, maps: Tensor) -> bool:
    """Tell whether a batch is better not cut: where gradients are kept, on accelerators, traced."""
    kept = torch.is_grad_enabled() and (maps.requires_grad or layer.filters.requires_grad)
    return kept or maps.device.type != "cpu" or traced()


def traced() -> bool:
    """Tell whether a compiler or a transform is looking, which follow plain torch alone."""
    compiling = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return compiling or forward_mode or transforming()
