"""Gaussian processes against conditioning a joint Gaussian, and gradients of the likelihood."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal

from merkhet.core.errors import InputError
from merkhet.kernels import Linear, ReLU, Sequential, gram
from merkhet.kernels.eigen import decompose
from merkhet.kernels.gaussian_process import log_marginal_likelihood, posterior
from merkhet.kernels.nystrom import nystrom

sys.path.insert(0, str(Path(__file__).parent))
from given_kernels import given

CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # condition numbers below 1e4
NOISE = 0.3


def conditioned(joint, seen, count):
    """Condition a Gaussian on its first coordinates one after another: no system is solved."""
    mean = torch.zeros(len(joint), seen.shape[1]).double()
    for place in range(count):
        gain = joint[:, place] / joint[place, place]
        mean = mean + gain[:, None] * (seen[place] - mean[place])
        joint = joint - gain[:, None] * joint[place]
    return mean[count:], joint.diag()[count:]


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_the_posterior_is_a_joint_gaussian_conditioned_on_the_targets(noise) -> None:
    kernels = given()
    train, cross = kernels.train.nngp, kernels.cross.nngp
    noisy = train + noise * torch.eye(12).double()
    joint = torch.cat([torch.cat([noisy, cross.T], 1), torch.cat([cross, kernels.new.nngp], 1)])
    mean, variance = conditioned(joint, kernels.targets, 12)
    found = posterior(train, cross, kernels.new.nngp.diag(), kernels.targets, noise)
    torch.testing.assert_close(found.mean, mean, **CLOSE)
    torch.testing.assert_close(found.variance, variance, **CLOSE)


def test_without_noise_the_targets_are_known() -> None:
    kernels = given()
    train = kernels.train.nngp
    found = posterior(train, train, train.diag(), kernels.targets[:, 0])
    torch.testing.assert_close(found.mean, kernels.targets[:, 0], **CLOSE)
    assert (found.variance >= 0).all()
    assert found.variance.max() < 1e-10 * train.diag().max()


def test_the_likelihood_is_the_density_of_the_targets() -> None:
    kernels = given()
    noisy = kernels.train.nngp + NOISE * torch.eye(12).double()
    density = MultivariateNormal(torch.zeros(12).double(), noisy)
    wanted = density.log_prob(kernels.targets.T).sum()
    found = log_marginal_likelihood(kernels.train.nngp, kernels.targets, NOISE)
    torch.testing.assert_close(found, wanted, **CLOSE)
    basis = decompose(kernels.train.nngp)
    torch.testing.assert_close(
        log_marginal_likelihood(basis, kernels.targets, NOISE), wanted, **CLOSE
    )


def test_the_likelihood_with_landmarks_is_that_of_the_approximate_kernel() -> None:
    kernel, targets = given().train.nngp, given().targets
    basis = nystrom(kernel[:, :4], kernel[:4, :4])
    near = basis.vectors * basis.values @ basis.vectors.T
    wanted = log_marginal_likelihood((near + near.T) / 2, targets, NOISE)
    torch.testing.assert_close(log_marginal_likelihood(basis, targets, NOISE), wanted, **CLOSE)


def likelihood(weight_std, bias_std, noise, x, y):
    network = Sequential(Linear(weight_std=weight_std, bias_std=bias_std), ReLU(), Linear())
    kernel = gram(network, x, kind="nngp", dtype=torch.float64)
    return log_marginal_likelihood(kernel, y, noise)


def points():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 3, generator=generator).double()
    return x, (x[:, 0] + 0.3).relu() + 0.05 * torch.randn(10, generator=generator).double()


def test_its_gradients_are_finite_differences() -> None:
    """In weight_std, bias_std and noise, through the kernel; gradcheck's own tolerance."""
    numbers = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.2, 0.4, 0.1)]
    x, y = points()
    assert torch.autograd.gradcheck(lambda *given: likelihood(*given, x, y), numbers)


def test_ascending_it_tunes_a_network() -> None:
    x, y = points()
    logs = torch.zeros(3).double().requires_grad_()
    optimiser = torch.optim.Adam([logs], lr=0.1)
    reached = []
    for _ in range(30):
        loss = -likelihood(*logs.exp(), x, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        reached.append(-float(loss))
    assert reached[-1] > reached[0] + 5
    assert logs[2] < -1  # the noise was far too large


def test_what_does_not_fit_is_refused() -> None:
    eye, y = torch.eye(3).double(), torch.ones(3)
    with pytest.raises(InputError, match=r"cross has shape \(2, 2\): give \(m, 3\)"):
        posterior(eye, torch.ones(2, 2), torch.ones(2), y)
    with pytest.raises(InputError, match=r"diagonal has shape \(3,\): give \(2,\)"):
        posterior(eye, torch.ones(2, 3), torch.ones(3), y)
    with pytest.raises(InputError, match="negative or not finite"):
        posterior(eye, torch.ones(2, 3), -torch.ones(2), y)
    with pytest.raises(InputError, match="noise -1"):
        log_marginal_likelihood(eye, y, -1.0)
    with pytest.raises(InputError, match="not positive definite"):
        log_marginal_likelihood(torch.ones(3, 3), y, 0.0)
    with pytest.raises(InputError, match="rank 1 over 3"):
        posterior(torch.ones(3, 3), torch.ones(1, 3), torch.ones(1), y)
