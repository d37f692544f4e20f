"""The stretched exponential by maximum likelihood: its maximum, information, scale, limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.tails.sample import read_largest
from merkhet.unit_prior.tails.stretched import information, most_likely, scores, stretched_fit


def _weibull(n: int, theta: float, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    return scale * (-uniform.clamp(min=1e-300).log()) ** theta


def _likelihood(logs: Tensor, beta: Tensor, rate: Tensor) -> Tensor:
    """Return the log likelihood of each log y, (k,), for P(Y > y) = exp(-b (y^beta - 1))."""
    return rate.log() + beta.log() + (beta - 1) * logs - rate * torch.expm1(beta * logs)


@pytest.mark.parametrize("theta", [0.05, 0.5, 2.0])
def test_the_fit_is_the_maximum_of_the_likelihood(theta: float) -> None:
    sample = read_largest(_weibull(2000, theta))
    logs = torch.from_numpy(sample.logs[:400] - sample.logs[400])
    beta = most_likely(logs.numpy())
    assert beta is not None
    rate = 400 / float(torch.expm1(beta * logs).sum())
    best = _likelihood(logs, *_numbers(beta, rate)).sum()
    generator = np.random.default_rng(0)
    for step in (1e-4, 1e-2, 0.3):
        for turn in generator.uniform(0, 2 * math.pi, 50):
            moved = beta * math.exp(step * math.cos(turn)), rate * math.exp(step * math.sin(turn))
            assert _likelihood(logs, *_numbers(*moved)).sum() < best


def _numbers(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_scores_and_information_are_the_derivatives_of_the_likelihood() -> None:
    logs = torch.linspace(0.01, 1.5, 40, dtype=torch.float64)
    each = _numbers(0.8, 3.0)[:, None].repeat(1, 40).requires_grad_()
    (slopes,) = torch.autograd.grad(_likelihood(logs, *each).sum(), each)
    assert np.allclose(scores(logs.numpy(), 0.8, 3.0), slopes.mT.numpy(), rtol=1e-12)
    bend = torch.autograd.functional.hessian(
        lambda beta, rate: _likelihood(logs, beta, rate).sum(), tuple(_numbers(0.8, 3.0))
    )
    found = information(logs.numpy(), 0.8, 3.0)
    assert np.allclose(found, -np.array([[float(h) for h in row] for row in bend]), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 7e150])
def test_scale_is_that_of_the_law(scale: float) -> None:
    found = [stretched_fit(_weibull(4000, 0.7, scale, seed)) for seed in range(150)]
    hits = sum(
        abs(one.scale - scale) <= 1.96 * one.scale_error
        for one in found
        if one.scale is not None and one.scale_error is not None
    )
    # An error of log scale that is large and skewed: 3 deviations of 150 trials, and 4 % for that.
    assert hits >= 150 * (0.95 - 0.04) - 3 * math.sqrt(150 * 0.95 * 0.05)
    spread = np.std([math.log((one.scale or 0) / scale) for one in found])
    stated = np.median([(one.scale_error or 0) / (one.scale or 1) for one in found])
    assert stated == pytest.approx(spread, rel=0.25)


def test_an_amplitude_at_the_threshold_is_no_bias() -> None:
    # -log P = A + x^(1 / theta) above 1: Hill's estimate is off, this one is not.
    found = []
    for seed in range(60):
        height = -torch.rand(8000, generator=torch.Generator().manual_seed(seed)).double().log()
        found.append(stretched_fit((height + 0.5).clamp(min=0) ** 2).theta)
    error = float(np.std(found)) / math.sqrt(60)
    assert abs(float(np.mean(found)) - 2) < 3 * error + 0.03
    assert error < 0.03


def test_beyond_a_power_law_there_is_no_theta() -> None:
    generator = np.random.default_rng(0)
    found = stretched_fit(np.exp(generator.standard_exponential(50_000) ** 1.5))
    assert found.theta == math.inf
    assert found.interval is None
    assert math.isnan(found.effective_size)
    assert "power law, P ~ x^-" in found.notes[0]
    assert "no interval" in str(found)
    # At a power law itself the best beta is about 0, on either side of it.
    assert stretched_fit(generator.standard_t(1.5, 50_000)).theta > 5


def test_a_bounded_law_has_a_small_theta() -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    found = stretched_fit(uniform)
    assert found.theta < 0.1
    assert "may be bounded" in found.notes[-1]


def test_values_that_crowd_at_an_end_are_refused() -> None:
    two = torch.cat([torch.linspace(0.5, 1, 300), torch.linspace(2, 2 + 1e-5, 60)]).double()
    with pytest.raises(InputError, match="60 largest values end like those of a bounded variable"):
        stretched_fit(two, 60)
