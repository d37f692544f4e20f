"""The law of a unit after an activation that is not linear on each side of 0."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.laws.bent_moments import BentMoments
from merkhet.unit_prior.laws.exceedance import exceedances
from merkhet.unit_prior.laws.law import Floats, Law, WithError
from merkhet.unit_prior.laws.smallness import VANISHING, index_after
from merkhet.unit_prior.laws.unit_laws import PlainLaw, log_survival_from_zero
from merkhet.unit_prior.mellin.radii import EPS, LOG_2


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
        self._at_zero = abs(float(activation(torch.zeros(1, dtype=torch.float64))))
        self._log_atom = math.log(law.zero_mass) if law.zero_mass else -math.inf
        moments = BentMoments(law, activation)
        self.log_moment, self.spread = moments.log_moment, moments.spread

    @functools.cached_property
    def zero_mass(self) -> float:
        """P(phi(g) = 0); where phi fades it is 0 in floating point alone, and that does not count.

        For a function of one's own it does: it is taken as it is computed.
        """
        if self.activation.name in VANISHING:
            return 0.0 if self._at_zero else self.law.zero_mass
        alive, _ = self.log_survival(np.zeros(1))
        return max(0.0, -math.expm1(float(alive[0])))

    def least_order(self) -> float:
        """Return the order at and below which moments are infinite."""
        return -index_after(self.activation, self.law.tail(), self.law.index())

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
        total = np.minimum(np.logaddexp.reduceat(values, starts), 0.0)
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

    def _between(self, ends: Floats) -> WithError:
        """Return log P(low < |g| <= high, g of one sign), (n,) of ends (n, 2), and its error."""
        logs, errors = log_survival_from_zero(PlainLaw(self.law), ends)
        (low, high), (off, away) = logs.T, errors.T
        rest = np.exp(np.where(np.isneginf(high), -np.inf, high - low))
        with np.errstate(divide="ignore"):
            value = low + np.log1p(-rest) - LOG_2
        return value, (off + rest * away) / np.maximum(1 - rest, EPS)
