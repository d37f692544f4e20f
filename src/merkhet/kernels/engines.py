"""What computes blocks of Gram matrices; picked here, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.layers import Flatten, Layer, Sequential
from merkhet.kernels.plain import all_pairs, kinds_of, positions, same_pairs
from merkhet.kernels.plan import conv_plan, dense_plan

PLAIN_BYTES = 2**29  # of covariances alive at once in the plain form
ALIVE = 6  # covariances between all positions that it holds at once


class Engine(Protocol):
    """Computes the kernels of one network between inputs.

    Attributes:
        side: Rows and columns of the blocks that suit it.
    """

    side: int

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Return the kernels (kinds, rows, columns) between some x and some y.

        Where x and y are the same and the block lies on the diagonal, what is below it may be
        left out.
        """

    def diagonal(self) -> Tensor:
        """Return the kernels (kinds, n) of each x with itself, exact to rounding."""


@dataclass
class Plain:
    """The plain form in float64, on any device.

    Args:
        network: The network.
        x: (n, ...).
        y: (m, ...); `x` itself where the Gram matrix is symmetric.
        kind: "nngp", "ntk" or "both".
    """

    network: Layer
    x: Tensor
    y: Tensor
    kind: str

    def __post_init__(self) -> None:
        shape = self.x.shape[1:]
        pictures = len(shape) == 3
        places = math.prod(shape[1:]) if pictures else 1
        each = places**2 if positions(self.network) == "all" else places
        self.side = max(1, math.isqrt(PLAIN_BYTES // (8 * ALIVE * each)))

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Return the kernels (kinds, rows, columns) between some x and some y."""
        x, y = _exact(self.x[rows]), _exact(self.y[columns])
        return kinds_of(all_pairs(self.network, x, y, tangent=self.kind != "nngp"), self.kind)

    def diagonal(self) -> Tensor:
        """Return the kernels (kinds, n) of each x with itself."""
        parts = self.x.split(max(1, self.side**2))
        return torch.cat([self._own(_exact(part)) for part in parts], -1)

    def _own(self, x: Tensor) -> Tensor:
        """Return the kernels (kinds, n) of some x with themselves."""
        return kinds_of(same_pairs(self.network, x, x, tangent=self.kind != "nngp"), self.kind)


def engine(network: Layer, x: Tensor, y: Tensor, kind: str, dtype: torch.dtype) -> Engine:
    """Return what computes a Gram matrix best.

    Args:
        network: The network.
        x: (n, ...) as the user gave them.
        y: (m, ...); `x` itself where the Gram matrix is symmetric.
        kind: "nngp", "ntk" or "both".
        dtype: Of the answer; float32 allows the fast paths, which are float32 within 2e-6.
    """
    if x.device.type == "cpu":
        found = _compiled(network, x, y, kind, dtype)
        if found is not None:
            return found
    return Plain(network, x, y, kind)


def _compiled(network: Layer, x: Tensor, y: Tensor, kind: str, dtype: torch.dtype) -> Engine | None:
    """Return compiled loops that take a network, None where there are none.

    They are imported here: numba is slow to load. A path for GPUs would stand beside this one.
    """
    dense = dense_plan(network) if _vectors(network, x) else None
    if dense is not None:
        from merkhet.kernels.dense import Dense

        return Dense(dense, x, y, kind)
    if x.dim() == 2 or dtype != torch.float32:
        return None
    convolutional = conv_plan(network, tuple(x.shape[2:]))
    if convolutional is None:
        return None
    from merkhet.kernels.cpu import Convolutional

    return Convolutional(convolutional, x, y, kind)


def _vectors(network: Layer, x: Tensor) -> bool:
    """Tell whether the first layer takes vectors, as which pictures may be flattened."""
    first = next((one for one in network.layers() if not isinstance(one, Sequential)), None)
    return x.dim() == 2 or isinstance(first, Flatten)


def _exact(x: Tensor) -> Tensor:
    """Return inputs in float64, in which the plain form computes.

    Raises:
        InputError: Their device has no float64.
    """
    try:
        return x.double()
    except TypeError as error:
        raise InputError(f"{x.device.type} has no float64: move the inputs to the CPU") from error
