"""The law of a unit for any activation and bias: a scalar Markov chain, backward on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.grid.nodes import flat_parts
from merkhet.unit_prior.grid.payoffs import Dead, Density, Moment, Payoff, Survival
from merkhet.unit_prior.grid.recursion import Recursion, log_first_variance
from merkhet.unit_prior.grid.step import Resolution, Steps
from merkhet.unit_prior.grid.table import from_few
from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.laws.smallness import Tail, index_before, index_of_scale, tail_of
from merkhet.unit_prior.spec import Spec

COST, LOWER = 94.0, 25.0  # -log of the rarest events looked at first, in the two tails
GROW, LEVELS = 8.0, 5  # each level looks that much further
CLOSE = 40.0  # an answer nearer than that to the rarest event is asked of the next level
LOWEST = 400.0  # most that is asked of the lower tail
# How far above the infinite moment's an order is told: where units near 0 decide, and where those
# far below it do, whose squares lie too wide apart.
NEARLY, FADED = 0.08, 0.5
NEARBY = 0.6  # ratio of t
UNTOLD = 1e-8  # relative: two resolutions may agree by chance, not all along below it
FINE, COARSE = (0.1, 0.35, 14), (0.15, 0.55, 10)  # log q spacing, lattice fineness, panel nodes


class GridLaw:
    """The law of a pre-activation for any activation and bias, by a recursion over its variance.

    Given the layers before, a unit is Gaussian with variance q_l; q_(l+1) = s_b^2 + s_(l+1)^2 A,
    A = sum over the H_l units of phi(sqrt(q_l) z_i)^2: a scalar Markov chain. Any expectation over
    q_l goes backward, F_j(q) = E F_(j+1)(s_b^2 + s_(j+1)^2 A(q)), with log F kept on a grid of
    log q. The law of A(q) is an exact convolution on a lattice, under the exponential tilt that
    fits the tail asked for, so that nothing loses relative accuracy however small it is.

    The error is the difference between two resolutions, of which the finer one is given: an
    estimate, not a bound.

    Args:
        spec: The chain.
        layer: 1 ... L + 1.

    Raises:
        InputError: There is no such layer, or phi grows faster than linearly.

    Example:
        >>> from merkhet.unit_prior.spec import make_spec
        >>> law = GridLaw(make_spec((50, 50), "tanh", bias_std=0.1), 3)
        >>> value, error = law.log_survival(np.array([1.0, 30.0]))
        >>> bool((error < 1e-6 * abs(value)).all())
        True
    """

    def __init__(self, spec: Spec, layer: int) -> None:
        spec.check_layer(layer)
        if spec.activation.growth > 1 and layer > 1:
            raise InputError(
                f"activation {spec.activation.name!r} grows as |u|^{spec.activation.growth:g}: the "
                "grid needs one that grows at most linearly; take samples with sample_units"
            )
        self.spec = spec
        self.layer = layer
        self.method = "closed form" if layer == 1 else "grid recursion"
        self._steps: dict[tuple[tuple[float, float, int], float], Steps] = {}
        self._recursions: dict[tuple[Steps, float], Recursion] = {}
        self.zero_mass = self._zero_mass()

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|g| > t) and the error, of t's shape; t above 0."""
        return from_few(lambda some: self._deep(some, Survival), t)

    def log_density(self, t: Floats) -> WithError:
        """Return log of the density of g at t and the error, of t's shape; t above 0."""
        return self.log_joint_density(t, 1)

    def log_joint_density(self, radius: Floats, units: int) -> WithError:
        """Return log of the density of `units` units at points that far from 0, and the error.

        Args:
            radius: l2 norms, above 0.
            units: Of the layer, from 1.
        """
        return from_few(lambda some: self._density(some, units), radius)

    def log_density_at_zero(self, units: int = 1) -> tuple[float, float]:
        """Return the log density of units at 0, E (2 pi q)^(-units / 2), and the error.

        It is inf where small variances are too likely. Without a bias that is known for named
        activations alone.
        """
        index = index_of_scale(self.spec, self.layer)
        if index <= units:
            return math.inf, 0.0
        small = self._smallness(np.zeros(1)) if self.spec.bias_std else math.inf
        lower = self._lower(float(units), small, self._checked_index(-float(units)))
        value, error = self._value(Density(np.zeros(1), units), 0, lower)
        return float(value[0]), float(error[0])

    def log_moment(self, order: float) -> tuple[float, float]:
        """Return log E[|g|^order, g not 0] and the error; order above -index.

        Raises:
            InputError: An order below 0 whose moment is all but infinite.
        """
        index = self._checked_index(order) if order < 0 else math.inf
        need = 0.5 * abs(order) * self.layer + 2 * CLOSE
        level = 0
        while level < LEVELS - 1 and COST * GROW**level < need:
            level += 1
        value, error = self._value(
            Moment(float(order)), level, self._lower(-order, math.inf, index)
        )
        return float(value[0]), float(error[0])

    def _checked_index(self, order: float) -> float:
        """Return the index of the scale; refuse an order that too small a scale decides."""
        index, least = index_of_scale(self.spec, self.layer), min(self.spec.widths, default=1)
        margin = FADED if least > 1 and index < least else NEARLY
        if order + index < margin:
            raise InputError(
                f"E|g|^{order:g} is finite, but the grid does not tell the small variances that "
                f"decide it: give an order from {min(margin - index, 0):g} on"
            )
        return index

    def index(self) -> float:
        """Return k where P(0 < |g| <= t) falls as t^k when t falls to 0, at most 1."""
        return index_before(self.spec, self.layer)

    def tail(self) -> Tail:
        """Return how P(|g| > t) falls as t grows."""
        return tail_of(self.spec, self.layer)

    def _density(self, radius: Floats, units: int) -> WithError:
        """Return log joint densities at flat radii, and the errors."""
        lower = self._lower(float(units), self._smallness(radius))
        return self._deep(radius, lambda some: Density(some, units), units, lower)

    def _deep(
        self, t: Floats, payoff: Callable[[Floats], Payoff], units: int = 0, lower: float = LOWER
    ) -> WithError:
        """Return answers at t (m,), each from the first level that reaches far enough."""
        value, error = np.empty(t.shape), np.empty(t.shape)
        left = np.arange(len(t))
        for level in range(LEVELS):
            if not len(left):
                break
            value[left], error[left] = self._about(payoff, t[left], level, lower)
            # Densities have units: what is rare is told against one of size 1 / t.
            scaled = value[left] + units * np.log(t[left])
            left = left[scaled < CLOSE - COST * GROW**level]
        if len(left) and self.layer > 1:
            rarest = COST * GROW ** (LEVELS - 1)
            raise InputError(
                f"t = {t[left].min():g} has a probability below e^-{rarest:.0f}, which the grid "
                "does not reach: ask nearer to 0"
            )
        return value, error

    def _about(
        self, payoff: Callable[[Floats], Payoff], t: Floats, level: int, lower: float
    ) -> WithError:
        """Return answers at t (m,) and errors that two resolutions show there or nearby.

        Their difference changes sign here and there, where it tells nothing.
        """
        near = np.concatenate([t, t * NEARBY])
        value, error = (one.reshape(2, -1) for one in self._value(payoff(near), level, lower))
        beside = np.where(np.isfinite(error[1]), error[1], 0.0)
        return value[0], np.maximum(error[0], beside / 2)

    def _smallness(self, t: Floats) -> float:
        """Return how far, in logs, the smallest t or the bias lies below a unit's size."""
        least = max(float(t.min()), self.spec.bias_std)
        return max(0.0, 0.5 * log_first_variance(self.spec) - math.log(least))

    def _lower(self, power: float, smallness: float, index: float = math.inf) -> float:
        """Return how rare a small variance may be to matter to q^(-power / 2), rounded up.

        P(q) falls as q^(H / 2) or faster, H the least width, so that e^-c of it counts as
        e^(-c (1 - power / H)); or as q^(index / 2), if that is slower, and e^(-c index / H) is
        what a ladder's cost of c reaches. q below t^2, or below the bias's, does not count.
        """
        width = min(self.spec.widths[: self.layer - 1], default=1)
        slower = min(width, index)
        by_width = LOWER * width / (slower - power) if power < slower else math.inf
        by_size = LOWER + width * smallness + power * smallness
        return min(LOWEST, 25.0 * math.ceil(max(LOWER, min(by_width, by_size)) / 25))

    def _value(self, payoff: Payoff, level: int, lower: float) -> WithError:
        """Return log E payoff(q_layer) at two resolutions: the finer and their difference."""
        if self.layer == 1:
            start = np.array([log_first_variance(self.spec)])
            exact = payoff(start, np.arange(len(payoff)))[0]
            return exact, 1e-15 * (1 + np.abs(exact))
        fine, coarse = (
            self._recursion(how, level, lower).log_mean(payoff) for how in (FINE, COARSE)
        )
        with np.errstate(invalid="ignore"):
            apart = np.where(fine == coarse, 0.0, np.abs(fine - coarse))
        return fine, apart + UNTOLD * (1 + np.abs(fine))

    def _recursion(self, how: tuple[float, float, int], level: int, lower: float) -> Recursion:
        """Return the recursion of a resolution, made once; they share the laws of steps."""
        key = (how, COST * GROW**level)
        if key not in self._steps:
            resolution = Resolution(*how, key[1])
            bias = self.spec.bias_std > 0
            self._steps[key] = Steps(self.spec.activation, resolution, bias=bias)
        steps = self._steps[key]
        if (steps, lower) not in self._recursions:
            self._recursions[steps, lower] = Recursion(self.spec, self.layer, steps, lower)
        return self._recursions[steps, lower]

    def _zero_mass(self) -> float:
        """Return P(g = 0), 0 where phi has no flat part at 0 or there is a bias."""
        flat = flat_parts(self.spec.activation)
        if self.layer == 1 or self.spec.bias_std > 0 or not flat:
            return 0.0
        if all((low, high) in ((-math.inf, 0.0), (0.0, math.inf)) for low, high in flat):
            alive = [math.log1p(-(0.5**width)) for width in self.spec.widths[: self.layer - 1]]
            return -math.expm1(sum(alive))
        return math.exp(self._recursion(FINE, 0, LOWER).log_mean(Dead())[0])
