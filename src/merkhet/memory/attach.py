"""Memories put into a network that is there: in the place of a layer, or beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError, choose
from merkhet.core.outputs import find_layer
from merkhet.memory.layer import ProductKeyMemory
from merkhet.memory.table import ValueTable

MODES = ("replace", "beside")
OPTIONS = (
    *("num_subkeys", "num_heads", "top_k", "key_dim", "value_dim", "query_norm", "values"),
    *("gated", "seed"),
)


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
        options: Those of `ProductKeyMemory`, such as num_subkeys or top_k; seeds count up from
            `seed`.

    Returns:
        The memories, in the order of the layers.

    Raises:
        InputError: No such layer, mode or option, a layer whose width is not to be seen, or a
            shared table that would change the outputs; nothing is attached then.
    """
    choose("mode", mode, MODES)
    for option in options:
        choose("option of a memory", option, OPTIONS)
    paths = _paths(model, layers)
    shared, seed = options.get("values"), options.pop("seed", 0)
    if mode == "beside" and shared is not None and bool(shared.weight.any()):
        raise InputError(
            "beside a layer, a table that is shared and not zero would change the outputs: take "
            'mode="replace", or share it before it is trained'
        )
    memories = []
    for place, path in enumerate(paths):
        layer = find_layer(model, path)
        width = dim if dim is not None else _width(layer, path)
        memory = ProductKeyMemory(width, **options, seed=seed + place)
        if mode == "beside" and shared is None:
            nn.init.zeros_(memory.values.weight)
        _suit(memory, layer, shared)
        owner, _, name = path.rpartition(".")
        inside = memory if mode == "replace" else Beside(layer, memory)
        setattr(model.get_submodule(owner), name, inside)
        memories.append(memory)
    return memories


def _paths(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Return the paths of layers, all of which are there."""
    if isinstance(layers, str):
        raise InputError(f"layers is a list of paths: write [{layers!r}]")
    paths = list(layers)
    for path in paths:
        find_layer(model, path)
        if not path:
            raise InputError("the network itself cannot be replaced: name a layer inside it")
    return paths


def _suit(memory: ProductKeyMemory, layer: nn.Module, shared: ValueTable | None) -> None:
    """Put a memory on the layer's device, in its data type and mode; a shared table stays.

    A memory that was made on the meta device stays there: its maker allocates it.
    """
    memory.train(layer.training)
    tensor = next(layer.parameters(), torch.empty(0))
    if memory.subkeys.is_meta:
        return
    values = memory.values
    del memory.values
    memory.to(tensor.device, tensor.dtype)
    memory.values = values if shared is not None else values.to(tensor.device, tensor.dtype)


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
