"""Bounds that fall through training, as in the paper's public code."""

from __future__ import annotations

import math
from dataclasses import dataclass

from merkhet.core import building


@dataclass(frozen=True)
class Decaying:
    """The bound tau (1 + 4 exp(-epoch / kappa)): wide at first, tau in the end.

    Attributes:
        tau: The bound in the end.
        kappa: Epochs in which what is above tau falls by e.
        steps_per_epoch: Steps in one epoch, the first of which is epoch 0.
    """

    tau: float
    kappa: float
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        """Return the bound after `step` steps, counted from 1."""
        epoch = max(step - 1, 0) // self.steps_per_epoch
        return self.tau * (1 + 4 * math.exp(-epoch / self.kappa))


def decaying(tau: float, kappa: float, steps_per_epoch: int) -> Decaying:
    """Return the schedule of the paper's code, tau (1 + 4 exp(-epoch / kappa)).

    Args:
        tau: The bound in the end.
        kappa: Epochs in which what is above tau falls by e; 2 in the paper's code, 50 for
            robustness.
        steps_per_epoch: Steps of training in one epoch.

    Raises:
        InputError: A number is not positive.
    """
    building.check_positive(tau=tau, kappa=kappa)
    building.check_counts(steps_per_epoch=steps_per_epoch)
    return Decaying(float(tau), float(kappa), steps_per_epoch)
