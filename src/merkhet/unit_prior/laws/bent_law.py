"""The law of a unit after an activation that is not linear on each side of 0."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.laws.exceedance import exceedances
from merkhet.unit_prior.laws.law import Floats, Law, WithError
from merkhet.unit_prior.laws.quantiles import quantile
from merkhet.unit_prior.laws.unit_laws import (
    Number,
    PlainLaw,
    central_moments,
    log_survival_from_zero,
)
from merkhet.unit_prior.mellin.radii import EPS, LOG_2

NODES = 4097  # of the integral over log|g|
FAR = -80.0  # log of the probability beyond which nothing is integrated
NEAR = 46.0  # how far in log|g| below the median it starts, for moments from 0 on


class BentLaw:
    """The law of phi(g), g symmetric with an atom at 0 at most.

    Args:
        law: Of g.
        activation: phi.
    """

    smooth = False

    def __init__(self, law: Law, activation: Activation) -> None:
        self.law, self.activation = law, activation
        self.method = f"{law.method}, {activation.name} of it"
        self.moment_method = f"{self.method}, integrated"
        self._at_zero = abs(float(self._phi(np.zeros(1))[0]))
        self._log_atom = math.log(law.zero_mass) if law.zero_mass else -math.inf
        self._made: dict[float, tuple[Floats, Floats, Floats]] = {}

    @functools.cached_property
    def zero_mass(self) -> float:
        """P(phi(g) = 0)."""
        alive, _ = self.log_survival(np.zeros(1))
        return max(0.0, -math.expm1(float(alive[0])))

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|phi(g)| > t), t from 0 on, of any shape, and its error."""
        flat = np.asarray(t, np.float64).reshape(-1)
        if not flat.size:
            return np.empty(np.shape(t)), np.empty(np.shape(t))
        pieces = [
            [pair for side in exceedances(self.activation, one) for pair in side]
            for one in flat.tolist()
        ]
        counts = np.array([len(piece) for piece in pieces], np.int64)
        ends = np.array([pair for piece in pieces for pair in piece]).reshape(-1, 2)
        masses, errors = self._between(ends)
        starts = np.concatenate([[0], np.cumsum(counts + 1)[:-1]])
        atoms = np.where(self._at_zero > flat, self._log_atom, -np.inf)
        values = np.insert(masses, starts - np.arange(len(flat)), atoms)
        spread = np.insert(errors, starts - np.arange(len(flat)), 0.0)
        total = np.logaddexp.reduceat(values, starts)
        level = np.where(np.isneginf(total), 0.0, total)
        shares = np.exp(values - np.repeat(level, counts + 1))
        error = np.add.reduceat(shares * spread, starts)
        return total.reshape(np.shape(t)), error.reshape(np.shape(t))

    def log_density(self, u: Floats) -> WithError:
        """Refuse.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"density after {self.activation.name}: it is computed before the activation, and "
            "after one that is linear on each side of 0; survival and quantile are there"
        )

    def log_moment(self, order: float) -> Number:
        """Return log E[|phi(g)|^order, phi(g) not 0] and an estimate of its error."""

        def power(u: Floats) -> Floats:
            size = np.abs(u)
            return np.where(size > 0, np.where(size > 0, size, 1.0) ** order, 0.0)

        value, error = self._mean(power, min(1.0, 1 + order))
        return math.log(value), error / value

    def spread(self) -> tuple[Number, Number]:
        """Return the standard deviation and the kurtosis, with estimates of their errors."""
        scale = math.exp(self.log_moment(2.0)[0] / 2)
        found = [self._mean(functools.partial(_power, scale, k)) for k in range(1, 5)]
        relative = max(error for _, error in found)
        return central_moments([value for value, _ in found], relative, math.log(scale))

    def _between(self, ends: Floats) -> WithError:
        """Return log P(low < |g| <= high, g of one sign), (n,) of ends (n, 2), and its error."""
        logs, errors = log_survival_from_zero(PlainLaw(self.law), ends)
        (low, high), (off, away) = logs.T, errors.T
        rest = np.exp(np.where(np.isneginf(high), -np.inf, high - low))
        with np.errstate(divide="ignore"):
            value = low + np.log1p(-rest) - LOG_2
        return value, (off + rest * away) / np.maximum(1 - rest, EPS)

    def _mean(self, function: Callable[[Floats], Floats], fall: float = 1.0) -> Number:
        """Return E function(phi(g)) by the trapezoidal rule in log|g|, and how it moved."""
        t, weights, spread = self._nodes(fall)
        above, below = function(self._phi(t)), function(self._phi(-t))
        terms = weights * (above + below)
        terms[[0, -1]] /= 2
        atom = self.law.zero_mass * float(function(self._phi(np.zeros(1)))[0])
        value, coarse = float(terms.sum()), 2 * float(terms[::2].sum())
        own = float(np.abs(terms) @ spread)
        return value + atom, abs(value - coarse) + own + 8 * EPS * float(np.abs(terms).sum())

    def _nodes(self, fall: float) -> tuple[Floats, Floats, Floats]:
        """Return |g|, its weights on either side, and the errors of their logs; made once."""
        if fall not in self._made:
            ends, _ = quantile(self.law, np.array([math.log1p(-self.law.zero_mass) - LOG_2, FAR]))
            first = max(math.log(max(ends[0], 1e-300)) - NEAR / fall, -700.0)
            x = np.linspace(first, math.log(ends[1]), NODES)
            t = np.exp(x)
            log_density, spread = self.law.log_density(t)
            self._made[fall] = t, t * np.exp(log_density) * (x[1] - x[0]), spread
        return self._made[fall]

    def _phi(self, u: Floats) -> Floats:
        """Return phi(u)."""
        found: Floats = self.activation(torch.from_numpy(u)).numpy()
        return found


def _power(scale: float, k: int, u: Floats) -> Floats:
    """Return (u / scale)^k."""
    found: Floats = (u / scale) ** k
    return found
