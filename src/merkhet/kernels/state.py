"""What the rules of layers carry forward: covariances of a network's units, and a tangent kernel.

A position is a pixel of a feature map. Batch axes broadcast: (n, m) for all against all, where `x`
has (n, 1) and `y` (1, m), or (n,) for pairs.

n, m inputs; d features; c channels; (h, w) positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class State:
    """Covariances between the units that two inputs excite, at some layer.

    Attributes:
        cross: Between x and y: (*batch) for vectors; (*batch, h, w) between equal positions of
            feature maps; (*batch, h, w, h, w) between all positions of x and all of y.
        x: Of x with itself, of the same kind.
        y: Of y with itself.
        tangent: The tangent kernel between x and y, like `cross`; None where it is not wanted.
        axes: How many groups of (h, w) there are: 0, 1 or 2.
        centred: Whether the units are Gaussian with mean zero given the layer before, as after a
            layer with weights.
    """

    cross: Tensor
    x: Tensor
    y: Tensor
    tangent: Tensor | None
    axes: int
    centred: bool = False

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of the feature map, () for vectors."""
        return tuple(self.cross.shape[-2:]) if self.axes else ()

    def map(self, of: Map) -> State:
        """Return the state with every covariance and the tangent kernel mapped linearly."""
        tangent = None if self.tangent is None else of(self.tangent)
        cross, x, y = apply_each(of, self.cross, self.x, self.y)
        return replace(self, cross=cross, x=x, y=y, tangent=tangent)


def apply_each(of: Map, *given: Tensor) -> tuple[Tensor, ...]:
    """Return `of` of each tensor; of one that is given twice only once, and twice the same."""
    found = {id(tensor): of(tensor) for tensor in {id(one): one for one in given}.values()}
    return tuple(found[id(tensor)] for tensor in given)


def start_all(x: Tensor, y: Tensor, *, positions: str, tangent: bool) -> State:
    """Return the state of raw inputs, all against all: inner products by features or channels.

    Args:
        x: (n, d), or pictures (n, c, h, w).
        y: (m, d), or pictures (m, c, h, w).
        positions: "equal" or "all": which pairs of positions of pictures a network needs.
        tangent: Whether the tangent kernel is wanted.
    """
    pictures = {"equal": "nchw,mchw->nmhw", "all": "nchw,mcij->nmhwij"}
    cross = _products(pictures[positions] if x.dim() == 4 else "nd,md->nm", x, y)
    own = [start_same(one, one, positions=positions, tangent=False).cross for one in (x, y)]
    zero = torch.zeros_like(cross) if tangent else None
    return State(cross, own[0][:, None], own[1][None], zero, _axes(x, positions))


def start_same(x: Tensor, y: Tensor, *, positions: str, tangent: bool) -> State:
    """Return the state of raw inputs, each x (n, ...) with its own y (n, ...), as `start_all`."""
    pictures = {"equal": "nchw,nchw->nhw", "all": "nchw,ncij->nhwij"}
    formula = pictures[positions] if x.dim() == 4 else "nd,nd->n"
    of_x = _products(formula, x, x)
    of_y = of_x if y is x else _products(formula, y, y)
    cross = of_x if y is x else _products(formula, x, y)
    zero = torch.zeros_like(cross) if tangent else None
    return State(cross, of_x, of_y, zero, _axes(x, positions))


def _products(formula: str, x: Tensor, y: Tensor) -> Tensor:
    """Return inner products divided by the features or channels."""
    found: Tensor = torch.einsum(formula, x, y)
    return found / x.shape[1]


def _axes(x: Tensor, positions: str) -> int:
    """Return how many groups of (h, w) a covariance has."""
    return 0 if x.dim() == 2 else {"equal": 1, "all": 2}[positions]


def variances(own: Tensor, axes: int) -> Tensor:
    """Return the variance at each position, (*batch) or (*batch, h, w), of a covariance."""
    if axes < 2:
        return own
    height, width = own.shape[-2:]
    flat = own.flatten(-4, -3).flatten(-2)
    return flat.diagonal(dim1=-2, dim2=-1).reshape(*flat.shape[:-2], height, width)


def against(one: Tensor, other: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Return the variances of two inputs so that they broadcast to the covariance between them."""
    if axes < 2:
        return one, other
    return one[..., None, None], other[..., None, None, :, :]
