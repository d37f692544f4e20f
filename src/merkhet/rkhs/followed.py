"""Networks whose spectral norms are followed through training: their operations, their vectors."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from merkhet.core import building
from merkhet.core.errors import InputError, choose
from merkhet.rkhs.operations import NORMS, Operation, operations, weighted_layers
from merkhet.rkhs.warm import WarmVectors


class Followed:
    """The operations of one network for each shape of input, and their vectors.

    The network is looked at once for each shape, by a forward pass of two examples as evaluated;
    again when a layer was replaced by another, and then all begins anew.

    Args:
        norm: "operator" or "reshaped".
        count: Vectors for each operation.
        seed: Of the first vectors.
    """

    def __init__(self, norm: str, count: int, seed: int) -> None:
        self.norm = norm
        self._count, self._seed = count, seed
        self._forget({})

    def operations(self, module: nn.Module, example: Tensor | None) -> tuple[Operation, ...]:
        """Return the operations of the network's layers for inputs of the example's shape.

        Raises:
            InputError: There is no layer with a spectral norm, or one that cannot be read.
        """
        layers = weighted_layers(module)
        if layers.keys() != self._layers.keys() or any(
            self._layers[path]() is not layer for path, layer in layers.items()
        ):
            self._forget(layers)
        key = None if example is None or self.norm == "reshaped" else example.shape[1:]
        if key not in self._operations:
            self._operations[key] = operations(module, example, self.norm)
        return self._operations[key]

    def _forget(self, layers: Mapping[str, nn.Module]) -> None:
        """Begin anew, with these layers."""
        self._layers = {path: weakref.ref(layer) for path, layer in layers.items()}
        self._operations: dict[Any, tuple[Operation, ...]] = {}
        self.vectors = WarmVectors(self._count, self._seed)


class Follower:
    """What is followed of each network, for as long as the network lives.

    A copy, pickled or not, follows nothing yet: its vectors begin anew.

    Args:
        norm: "operator" or "reshaped".
        count: Vectors for each operation.
        seed: Of the first vectors.

    Raises:
        InputError: An argument is not of these.
    """

    def __init__(self, norm: str, count: int, seed: int) -> None:
        choose("norm", norm, NORMS)
        building.check_counts(vectors=count)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed {seed!r}: give a whole number of at least 0")
        self._settings = (norm, count, seed)
        self._followed: weakref.WeakKeyDictionary[nn.Module, Followed] = weakref.WeakKeyDictionary()

    def __call__(self, module: nn.Module) -> Followed:
        """Return what is kept of a network, nothing at first."""
        if module not in self._followed:
            self._followed[module] = Followed(*self._settings)
        return self._followed[module]

    def __getstate__(self) -> tuple[str, int, int]:
        return self._settings

    def __setstate__(self, settings: tuple[str, int, int]) -> None:
        Follower.__init__(self, *settings)
