"""A kernel's eigendecomposition over the training inputs, once; what is learned is read off it.

n training inputs; r eigenvalues; c centres, which new inputs are compared with: the training inputs
themselves, or landmarks among them; k outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from merkhet.core.available import refuse_too_large
from merkhet.core.errors import InputError

COPIES = 5  # float64 matrices of n x n alive at once: the kernel, and what LAPACK takes
ASYMMETRY = 1024  # in roundings of the largest entry: sums over features lose some
DOUBLE = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A kernel V diag(values) V^T over n training inputs, and the way of new inputs into it.

    Attributes:
        values: (r,), from 0 on, ascending.
        vectors: (n, r), orthonormal columns; where r < n the other eigenvalues are 0.
        inward: (c, r): kernels (m, c) of new inputs with the centres, times this, are their kernels
            with the training inputs times V. V itself where the centres are the training inputs.
        rounding: Eigenvalues up to this one cannot be told from 0.
    """

    values: Tensor
    vectors: Tensor
    inward: Tensor
    rounding: float

    @property
    def whole(self) -> bool:
        """Whether there is an eigenvector for each input."""
        return self.vectors.shape[0] == self.vectors.shape[1]

    def project(self, targets: Tensor) -> Tensor:
        """Return V^T y, (r, k), of targets y (n, k)."""
        return self.vectors.mT @ targets

    def coordinates(self, cross: Tensor) -> Tensor:
        """Return the kernels of new inputs with the training inputs times V, (m, r).

        Args:
            cross: (m, c), kernels of new inputs with the centres.

        Raises:
            InputError: It is no such matrix.
        """
        return as_cross(cross, len(self.inward)) @ self.inward

    def check_ridge(self, ridge: float) -> None:
        """Refuse a ridge with which kernel + ridge cannot be inverted.

        Raises:
            InputError: Says why, and what to give instead.
        """
        if not math.isfinite(ridge) or ridge < 0:
            raise InputError(f"ridge {ridge:g}: give a finite number from 0 on")
        top = float(self.values[-1])
        floor = len(self.vectors) * DOUBLE * top if ridge else self.rounding
        least = float(self.values[0]) if self.whole else 0.0
        if least + ridge <= floor:
            rank = int((self.values > self.rounding).sum())
            raise InputError(
                f"ridge {ridge:g} and a kernel of rank {rank} over {len(self.vectors)} inputs "
                f"(equal rows?): give a ridge above {floor:.1g}, or take gradient flow to "
                "time=math.inf, the fit of least norm"
            )


def decompose(kernel: Tensor | Decomposition) -> Decomposition:
    """Return the eigendecomposition of a kernel in float64.

    Eigenvalues are negative only by rounding: the tangent kernel has a square root where inputs
    are equal, so that an entry there is right to the root of its data type's rounding. Those
    within that much of 0 are set to 0.

    Args:
        kernel: (n, n), symmetric, as `gram(network, x)` gives it; a decomposition is given back.

    Raises:
        InputError: It is not square, finite, symmetric or positive, or memory has no room.
    """
    if isinstance(kernel, Decomposition):
        return kernel
    given = as_kernel(kernel)
    refuse_large(len(given))
    rounding = rounding_of(given)
    values, vectors = torch.linalg.eigh(given.double())
    rounding = max(rounding, len(given) * DOUBLE * float(values[-1]))
    if values[0] < -rounding:
        raise InputError(
            f"the kernel has an eigenvalue of {float(values[0]):.3g}: it is not positive "
            "semidefinite; give one of gram(network, x)"
        )
    return Decomposition(values.clamp(min=0), vectors, vectors, rounding)


def rounding_of(kernel: Tensor) -> float:
    """Return up to which eigenvalue a kernel, (n, n) of its own data type, is only rounding."""
    return 2 * math.sqrt(torch.finfo(kernel.dtype).eps) * float(kernel.detach().abs().max())


def refuse_large(count: int) -> None:
    """Refuse to decompose a kernel over more inputs than memory has room for.

    Raises:
        InputError: Names the way round.
    """
    needed = 8 * COPIES * count**2
    refuse_too_large(f"a kernel over {count:,} inputs", needed, "take landmarks (Nystrom)")


def as_kernel(given: Any) -> Tensor:
    """Return a kernel (n, n), checked.

    Raises:
        InputError: It is not square, finite, or symmetric.
    """
    kernel = torch.as_tensor(given)
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.numel():
        raise InputError(
            f"the kernel has shape {tuple(kernel.shape)}: give a square one, as gram(network, x)"
        )
    kernel = _floats("the kernel", kernel)
    off = (kernel - kernel.mT).detach().abs().max()
    if off > ASYMMETRY * torch.finfo(kernel.dtype).eps * kernel.detach().abs().max():
        raise InputError(
            f"the kernel is not symmetric (off by {float(off):.2g}): give (kernel + kernel.T) / 2"
        )
    return kernel


def as_cross(given: Any, centres: int) -> Tensor:
    """Return kernels (m, c) of new inputs with c centres, checked, in float64.

    Raises:
        InputError: They have another shape or are not finite.
    """
    cross = torch.as_tensor(given)
    if cross.dim() != 2 or cross.shape[1] != centres:
        raise InputError(
            f"cross has shape {tuple(cross.shape)}: give (m, {centres}), new inputs against those "
            "that were learned from, as gram(network, new, x)"
        )
    return _floats("cross", cross).double()


def as_targets(given: Any, count: int) -> Tensor:
    """Return targets (n,) or (n, k), checked, in float64.

    Raises:
        InputError: They have another shape or are not finite.
    """
    targets = torch.as_tensor(given)
    if targets.dim() not in (1, 2) or len(targets) != count or not targets.numel():
        raise InputError(
            f"targets have shape {tuple(targets.shape)}: give ({count},) or ({count}, outputs), "
            "one for each input"
        )
    return _floats("targets", targets.double()).double()


def as_ridges(given: Iterable[float] | float) -> list[float]:
    """Return ridges as a list, one or more.

    Raises:
        InputError: None is there.
    """
    numbers = torch.as_tensor(given, dtype=torch.float64).flatten().tolist()
    if not numbers:
        raise InputError("no ridge to choose from: give one number or more")
    return numbers


def _floats(name: str, given: Tensor) -> Tensor:
    """Return what holds floats, all of them finite."""
    if given.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name}: {given.dtype}; give torch.float32 or torch.float64")
    bad = (~given.detach().isfinite()).reshape(len(given), -1).any(1).nonzero()
    if len(bad):
        raise InputError(f"{name}: row {int(bad[0])} holds NaN or infinity; clean the data first")
    return given
