"""The law of one unit: what every way to compute it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from merkhet.unit_prior.spec import Spec

if TYPE_CHECKING:
    from merkhet.unit_prior.laws.smallness import Tail

Floats = NDArray[np.float64]
WithError = tuple[Floats, Floats]  # values and their absolute errors


class Law(Protocol):
    """The law of a pre-activation g of one layer, which is symmetric about 0.

    Arrays are float64 of any shape; t is above 0 (P(|g| > 0) is 1 - zero_mass).
    """

    method: str
    zero_mass: float  # P(g = 0), all units before being dead

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|g| > t), finite far below 1e-300."""

    def log_density(self, t: Floats) -> WithError:
        """Return log of the density of g (signed) at t > 0, its part off 0."""

    def log_joint_density(self, radius: Floats, units: int) -> WithError:
        """Return log of the joint density of some units of the layer at a point that far off 0."""

    def log_moment(self, order: float) -> tuple[float, float]:
        """Return log E[|g|^order, g not 0] and its error; order above -index."""

    def index(self) -> float:
        """Return k where P(0 < |g| <= t) falls as t^k when t falls to 0, at most 1."""

    def tail(self) -> Tail:
        """Return how P(|g| > t) falls as t grows."""


def law_of(spec: Spec, layer: int) -> Law:
    """Return the law of a unit of a layer, 1 ... L + 1, exact where it can be.

    Exact in layer 1, which is Gaussian, and for homogeneous activations without bias (Mellin
    transforms); on a grid otherwise.
    """
    if spec.exact or layer == 1:
        from merkhet.unit_prior.laws.homogeneous_law import HomogeneousLaw

        return HomogeneousLaw(spec if spec.exact else spec.first_layer(), layer)
    from merkhet.unit_prior.laws.grid_law import GridLaw

    return GridLaw(spec, layer)
