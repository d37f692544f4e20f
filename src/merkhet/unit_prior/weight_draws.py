"""Standard draws of the families of weights: float64, on the generator's device.

Each takes an empty tensor, the family's shape parameter and a generator, and returns draws of
standard deviation 1, or of scale parameter 1 where that is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Standard deviations of a weight by (fan_in, fan_out).
SCALES: dict[str, Callable[[int, int], float]] = {
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "lecun": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
}


def _gaussian(empty: Tensor, _: float, generator: torch.Generator) -> Tensor:
    """Draw N(0, 1)."""
    return empty.normal_(generator=generator)


def _laplace(empty: Tensor, _: float, generator: torch.Generator) -> Tensor:
    """Draw the difference of two exponentials, scaled to variance 1."""
    other = torch.empty_like(empty).exponential_(generator=generator)
    return empty.exponential_(generator=generator).sub_(other).div_(math.sqrt(2))


def _generalised_normal(empty: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """Draw a G^(1/beta) with a random sign, G ~ Gamma(1/beta), a for variance 1."""
    log_size = (math.lgamma(1 / beta) - math.lgamma(3 / beta)) / 2
    # Gamma(k) = Gamma(k + 1) U^(1/k) keeps the power off underflow where beta is large.
    gamma = torch._standard_gamma(torch.full_like(empty, 1 / beta + 1), generator=generator)
    uniform = torch.empty_like(empty).uniform_(generator=generator).neg_().add_(1)
    sign = empty.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    return gamma.log_().div_(beta).add_(uniform.log_()).add_(log_size).exp_().mul_(sign)


def _student(empty: Tensor, df: float, generator: torch.Generator) -> Tensor:
    """Draw z / sqrt(chi^2_df / df), scaled to variance 1 where there is one."""
    chi2 = torch._standard_gamma(torch.full_like(empty, df / 2), generator=generator).mul_(2)
    spread = math.sqrt((df - 2) / df) if df > 2 else 1.0
    return empty.normal_(generator=generator).div_(chi2.div_(df).sqrt_()).mul_(spread)


def _cauchy(empty: Tensor, _: float, generator: torch.Generator) -> Tensor:
    """Draw a Cauchy of scale 1."""
    return empty.cauchy_(generator=generator)


def _uniform(empty: Tensor, _: float, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers of variance 1, on +-sqrt(3)."""
    return empty.uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)


DRAWS: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "generalised_normal": _generalised_normal,
    "student": _student,
    "cauchy": _cauchy,
    "uniform": _uniform,
}
