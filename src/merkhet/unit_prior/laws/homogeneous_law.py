"""The exact law of a unit where it is a product of independent factors: no bias, phi homogeneous.

|g_l| = s_1 ... s_l |x| R_1 ... R_(l-1) |z|, z ~ N(0, 1), R_j = |phi(z_j)|, z_j ~ N(0, I_(H_j)):
its Mellin transform is the product of theirs, and its law an integral along a vertical line.
"""

from __future__ import annotations

import math

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws import gaussian_law
from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.laws.smallness import Tail, index_before, tail_of
from merkhet.unit_prior.mellin.contour_sides import DENSITY, LOWER, UPPER, Side
from merkhet.unit_prior.mellin.contours import Contours
from merkhet.unit_prior.mellin.parts import RadialParts
from merkhet.unit_prior.mellin.radii import EPS
from merkhet.unit_prior.mellin.transform import Transform
from merkhet.unit_prior.spec import Spec


class HomogeneousLaw:
    """A pre-activation's law by Mellin inversion; every error is a bound.

    Contours are kept: the first point costs milliseconds, points near it microseconds.

    Args:
        spec: The chain; `spec.exact`.
        layer: 1 ... L + 1; layer 1 is Gaussian.

    Raises:
        InputError: The activation is 0 everywhere.
    """

    def __init__(self, spec: Spec, layer: int) -> None:
        assert spec.exact
        assert spec.activation.slopes is not None
        self.spec, self.layer = spec, layer
        self.widths = spec.widths[: layer - 1]
        self.method = "Mellin inversion" if self.widths else "closed form"
        self.moment_method = "Mellin transform" if self.widths else "closed form"
        gentle, steep = sorted(map(abs, spec.activation.slopes))
        if steep == 0 and self.widths:
            raise InputError(
                f"activation {spec.activation.name!r} is 0 everywhere, and so is every unit: give "
                "it a slope other than 0"
            )
        self.ratio = gentle / steep if self.widths else 1.0
        factors = (*spec.weight_std[:layer], spec.input_norm, *[steep] * len(self.widths))
        self.log_scale = math.fsum(map(math.log, factors))
        dead = (0.5**width for width in self.widths if self.ratio == 0)
        self.log_alive = math.fsum(math.log1p(-one) for one in dead)
        self.zero_mass = abs(math.expm1(self.log_alive))
        self._contours: dict[tuple[Side, int], Contours] = {}
        self._parts: dict[int, RadialParts] = {}

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|g| > t), t > 0 of any shape, and a bound of its error."""
        y = self._y(t)
        if not self.widths:
            return gaussian_law.log_survival(y)
        flat = y.reshape(-1)
        value, error = np.empty_like(flat), np.empty_like(flat)
        above = flat > self._by(UPPER).middle
        value[above], error[above] = self._by(UPPER).log_at(flat[above])
        value[~above], error[~above] = self._from_below(flat[~above])
        return value.reshape(y.shape), error.reshape(y.shape)

    def log_density(self, t: Floats) -> WithError:
        """Return the log density of g at t > 0 of any shape, and a bound of its error."""
        return self.log_joint_density(t, 1)

    def log_joint_density(self, radius: Floats, units: int) -> WithError:
        """Return the log joint density of units of the layer, and a bound of its error.

        Given the layers before, they are independent with one variance: the density depends on
        the length of their vector alone.

        Args:
            radius: Lengths above 0, of any shape.
            units: How many.
        """
        y = self._y(radius)
        if not self.widths:
            return gaussian_law.log_joint_density(y, self.log_scale, units)
        value, error = self._radial(units).log_at(y.reshape(-1))
        sphere = math.log(2) + units / 2 * math.log(math.pi) - math.lgamma(units / 2)
        lengths = units * np.log(np.asarray(radius, np.float64))
        error = error.reshape(y.shape) + 4 * EPS * (np.abs(lengths) + abs(sphere) + 1)
        return value.reshape(y.shape) - sphere - lengths, error

    def log_density_at_zero(self, units: int = 1) -> tuple[float, float]:
        """Return the log density of units at 0, inf where it has none, and its error."""
        constant = -units * (self.log_scale + gaussian_law.HALF_LOG_2PI)
        rounding = 8 * EPS * units * (1 + abs(self.log_scale))
        if not self.widths:
            return constant, rounding
        scale = Transform(self.widths, self.ratio, units).scale_at(-units)
        if scale is None:
            return math.inf, 0.0
        return constant + scale[0], rounding + scale[1]

    def log_moment(self, order: float) -> tuple[float, float]:
        """Return log E[|g|^order, g not 0] and a bound of its error; order above -1."""
        line = self._by(UPPER).transform.at(order)
        rounding = 4 * EPS * (abs(order * self.log_scale) + abs(line.log))
        return line.log + order * self.log_scale, line.slack + rounding

    def index(self) -> float:
        """Return k where P(0 < |g| <= t) falls as t^k when t falls to 0, at most 1."""
        return index_before(self.spec, self.layer)

    def tail(self) -> Tail:
        """Return how P(|g| > t) falls as t grows."""
        return tail_of(self.spec, self.layer)

    def _from_below(self, y: Floats) -> WithError:
        """Return log P(|g| > t) from P(0 < |g| <= t), which is the smaller."""
        log_below, spread = self._by(LOWER).log_at(y)
        share = np.minimum(np.exp(log_below - self.log_alive), 1 - EPS)
        value = np.log1p(-share) + self.log_alive
        error = share * np.expm1(spread) / (1 - share)
        return value, error + 4 * EPS * np.abs(value)

    def _radial(self, units: int) -> Contours | RadialParts:
        """Return what gives the density of the length of some units.

        One unit's line is to the right of its own pole at -1, and needs no parts.
        """
        if self.ratio > 0 or units == 1 or min(self.widths) == 1:
            return self._by(DENSITY, units)
        if units not in self._parts:
            self._parts[units] = RadialParts(self.widths, units, self.log_alive)
        return self._parts[units]

    def _by(self, side: Side, units: int = 1) -> Contours:
        """Return the contours of an integral, for the length of some units."""
        if (side, units) not in self._contours:
            mates = [one for (_, m), one in self._contours.items() if m == units]
            made = mates[0].transform if mates else Transform(self.widths, self.ratio, units)
            self._contours[side, units] = Contours(made, side, self.log_alive)
        return self._contours[side, units]

    def _y(self, t: Floats) -> Floats:
        """Return log t less the log of the scale."""
        found: Floats = np.log(np.asarray(t, np.float64)) - self.log_scale
        return found
