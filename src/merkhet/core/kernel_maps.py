"""What a network tells of itself that computes a kernel map, or lies in a kernel's RKHS.

`merkhet.rkhs` bounds norms of any network that fulfils one of these, and imports none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@runtime_checkable
class KernelMap(Protocol):
    """A network whose representation Phi is a kernel map: K(x, x') = Phi(x) . Phi(x')."""

    def kernel_map_lipschitz(self, input_shape: Shape) -> float:
        """Return an upper bound of Phi's Lipschitz constant, l2 to l2; inf where none is known.

        Args:
            input_shape: Of one input, without the batch.
        """
        ...


@runtime_checkable
class NormBounded(Protocol):
    """A part of a network by which the RKHS norms of the whole network's outputs are bounded."""

    def kernel_map_lipschitz(self, input_shape: Shape) -> float:
        """Return an upper bound of the Lipschitz constant of the kernel map, l2 to l2."""
        ...

    def rkhs_norm_upper(self, network: nn.Module, input_shape: Shape) -> tuple[Tensor, str]:
        """Return upper bounds (outputs,) of the norms, and why one is infinite, or "".

        Args:
            network: The whole network, of which this is a part or all.
            input_shape: Of one input, without the batch.
        """
        ...


def averaging_norm(average: Callable[[Tensor], Tensor], shape: Shape) -> float:
    """Return an upper bound of the norm of a linear map whose weights are not negative.

    It is Schur's: the root of the largest sum of a row times the largest sum of a column.

    Args:
        average: The map, of (1, *shape).
        shape: Of its input.
    """
    with torch.enable_grad():
        ones = torch.ones(1, *shape, dtype=torch.float64, device="cpu", requires_grad=True)
        rows = average(ones)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    return math.sqrt(float(rows.detach().max()) * float(columns.max())) * (1 + 1e-12)
