"""Memories put into a network that is there: in the place of a layer, or beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError, choose
from merkhet.core.outputs import find_layer
from merkhet.memory.layer import ProductKeyMemory

MODES = ("replace", "beside")


class Beside(nn.Module):
    """A layer with a memory beside it: the sum of what both return.

    Args:
        layer: From (..., dim) to (..., dim).
        memory: The memory.

    Shapes:
        (..., dim) -> (..., dim).
    """

    def __init__(self, layer: nn.Module, memory: ProductKeyMemory) -> None:
        super().__init__()
        self.layer = layer
        self.memory = memory

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's result plus the memory's, of its shape."""
        result: Tensor = self.layer(x, *args, **kwargs) + self.memory(x)
        return result


def attach(
    model: nn.Module,
    layers: Iterable[str],
    mode: str = "beside",
    *,
    dim: int | None = None,
    **options: Any,
) -> list[ProductKeyMemory]:
    """Put memories into a network, in place.

    Beside a layer the values start at 0, so that the network's outputs do not change before it
    is trained on; in its place they start at random, and the layer is gone.

    Args:
        model: Any network.
        layers: Paths of layers from (..., dim) to (..., dim), such as a transformer's
            feed-forward layers, as named by `named_modules()`.
        mode: "beside" or "replace".
        dim: Width of the tokens; by default that of the layer's first matrix.
        options: Those of `ProductKeyMemory`; seeds count up from `seed`.

    Returns:
        The memories, in the order of the layers.

    Raises:
        InputError: No such layer or mode, or a layer whose width is not to be seen.
    """
    choose("mode", mode, MODES)
    seed = options.pop("seed", 0)
    memories = []
    for place, path in enumerate(layers):
        layer = find_layer(model, path)
        if not path:
            raise InputError("the network itself cannot be replaced: name a layer inside it")
        width = dim if dim is not None else _width(layer, path)
        memory = ProductKeyMemory(width, **options, seed=seed + place)
        tensor = next(layer.parameters(), torch.empty(0))
        memory.to(tensor.device, tensor.dtype).train(layer.training)
        if mode == "beside":
            nn.init.zeros_(memory.values.weight)
        owner, _, name = path.rpartition(".")
        inside = memory if mode == "replace" else Beside(layer, memory)
        setattr(model.get_submodule(owner), name, inside)
        memories.append(memory)
    return memories


def _width(layer: nn.Module, path: str) -> int:
    """Return the width of a layer's input: that of its first matrix."""
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
        if type(part).__name__ == "Conv1D":  # of transformers: (in, out)
            weight = part.weight
            assert isinstance(weight, Tensor)
            return int(weight.shape[0])
    raise InputError(f"{path} has no matrix that tells its width: give dim=")
