"""The kernels of a layer: functions of the cosine between patches, with their Taylor series.

A layer's kernel between patches is K(z, z') = |z| |z'| k(cos(z, z')), with k(1) = 1.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.building import check_positive
from merkhet.core.errors import choose
from merkhet.core.kernel_functions import arc_cosine_1

KINDS = ("exp", "inverse", "poly", "relu")


@dataclass(frozen=True)
class DotProductKernel:
    """A kernel of unit vectors, as a function k of their cosine u.

    - "exp": exp((u - 1) / sigma^2)
    - "inverse": 1 / (2 - u)
    - "poly": ((1 + u) / 2)^2
    - "relu": the arc-cosine kernel of order 1, that of ReLU networks of infinite width

    Attributes:
        kind: Which.
        sigma: Width of "exp"; the others have none.

    Raises:
        InputError: No such kind, or sigma is not positive.
    """

    kind: str = "exp"
    sigma: float = 0.6

    def __post_init__(self) -> None:
        choose("kernel", self.kind, KINDS)
        check_positive(sigma=self.sigma)

    def value(self, u: Tensor) -> Tensor:
        """Return k at cosines of any shape, those beyond [-1, 1] by rounding taken as its ends.

        Derivatives there are those at the ends, not 0.
        """
        if self.kind == "relu":
            return arc_cosine_1(u)
        inside = u + (u.clamp(-1, 1) - u).detach()
        if self.kind == "exp":
            return ((inside - 1) / self.sigma**2).exp()
        return 1 / (2 - inside) if self.kind == "inverse" else ((1 + inside) / 2).square()

    def coefficients(self, count: int) -> Tensor:
        """Return the Taylor coefficients b_0, b_1, ... of k in u, (count,), all >= 0, float64."""
        return torch.tensor([self._coefficient(j) for j in range(count)], dtype=torch.float64)

    @property
    def lipschitz(self) -> float:
        """The Lipschitz constant of the kernel map, max(1, sqrt(k'(1)))."""
        slopes = {"exp": self.sigma**-2, "inverse": 1.0, "poly": 1.0, "relu": 1.0}
        return max(1.0, math.sqrt(slopes[self.kind]))

    def _coefficient(self, j: int) -> float:
        """Return b_j."""
        if self.kind == "exp":
            return math.exp(-(self.sigma**-2) - 2 * j * math.log(self.sigma) - math.lgamma(j + 1))
        if self.kind == "inverse":
            return 2.0 ** -(j + 1)
        if self.kind == "poly":
            return (0.25, 0.5, 0.25)[j] if j < 3 else 0.0
        return _arc_cosine_coefficient(j)


def _arc_cosine_coefficient(j: int) -> float:
    """Return the j-th coefficient of k1, whose second derivative is 1 / (pi sqrt(1 - u^2))."""
    if j < 2:
        return (1 / math.pi, 0.5)[j]
    if j % 2:
        return 0.0
    m = j // 2 - 1
    # (1 - u^2)^(-1/2) = sum of binom(2m, m) / 4^m u^(2m)
    logarithm = math.lgamma(2 * m + 1) - 2 * math.lgamma(m + 1) - m * math.log(4)
    return math.exp(logarithm) / (math.pi * j * (j - 1))
