"""Gradient flow against matrix exponentials, Euler's steps, and finite linear networks."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.kernels import Kernels
from merkhet.kernels.gradient_flow import gradient_flow, gradient_flow_ensemble
from merkhet.kernels.nystrom import nystrom
from merkhet.kernels.ridge import ridge_coefficients

sys.path.insert(0, str(Path(__file__).parent))
from given_kernels import given

CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # condition numbers below 1e4


def learned(kernels, time, rate=1.0):
    """Return A = T(x, X) T^-1 (1 - exp(-rate t T)) by the matrix exponential."""
    kernel = kernels.train.ntk
    decayed = torch.eye(len(kernel)).double() - torch.matrix_exp(-rate * time * kernel)
    return kernels.cross.ntk @ torch.linalg.solve(kernel, decayed)


@pytest.mark.parametrize("time", [0.0, 0.01, 1.0, 30.0])
def test_the_mean_is_that_of_the_matrix_exponential(time) -> None:
    kernels = given()
    found = gradient_flow(kernels.train.ntk, kernels.cross.ntk, kernels.targets, time, 0.5)
    torch.testing.assert_close(found, learned(kernels, time, 0.5) @ kernels.targets, **CLOSE)


def test_small_steps_of_euler_approach_it_in_first_order() -> None:
    kernels = given()
    wanted = gradient_flow(kernels.train.ntk, kernels.cross.ntk, kernels.targets, 2.0)
    errors = []
    for steps in (1000, 2000):
        on_train, on_new = torch.zeros(12, 2).double(), torch.zeros(5, 2).double()
        for _ in range(steps):
            left = (kernels.targets - on_train) * 2.0 / steps
            on_train, on_new = (
                on_train + kernels.train.ntk @ left,
                on_new + kernels.cross.ntk @ left,
            )
        errors.append(float((on_new - wanted).abs().max()))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_at_infinity_it_interpolates_and_late_times_approach_it() -> None:
    kernels = given()
    train, cross, targets = kernels.train.ntk, kernels.cross.ntk, kernels.targets
    torch.testing.assert_close(gradient_flow(train, train, targets), targets, **CLOSE)
    at_infinity = gradient_flow(train, cross, targets[:, 0])
    wanted = cross @ ridge_coefficients(train, targets[:, 0])
    torch.testing.assert_close(at_infinity, wanted, **CLOSE)
    torch.testing.assert_close(gradient_flow(train, cross, targets[:, 0], 1e9), wanted, **CLOSE)


@pytest.mark.parametrize("time", [1e3, 1e12, math.inf])
def test_equal_rows_take_the_mean_of_their_targets(time) -> None:
    """Their difference is in the null space, which never moves."""
    kernels = given()
    places = [0, 0, *range(1, 12)]
    train, cross = kernels.train.ntk[places][:, places], kernels.cross.ntk[:, places]
    targets = kernels.targets[places].clone()
    targets[0], targets[1] = 1.0, 3.0
    means = targets[1:].clone()
    means[0] = 2.0
    found = gradient_flow(train, cross, targets, math.inf)
    torch.testing.assert_close(
        found, gradient_flow(kernels.train.ntk, kernels.cross.ntk, means), **CLOSE
    )
    if time > 1e6:
        torch.testing.assert_close(gradient_flow(train, cross, targets, time), found, **CLOSE)
    on_train = gradient_flow(train, train, targets, time)
    torch.testing.assert_close(on_train[0], on_train[1], **CLOSE)


@pytest.mark.parametrize("time", [0.0, 0.5, 30.0, math.inf])
def test_the_ensembles_variance_is_the_papers_formula(time) -> None:
    kernels = given()
    moved = learned(kernels, min(time, 1e6))
    prior, between = kernels.train.nngp, kernels.cross.nngp
    wanted = kernels.new.nngp + moved @ prior @ moved.T - moved @ between.T - between @ moved.T
    own = kernels.new.nngp.diag()
    found = gradient_flow_ensemble(kernels.train, kernels.cross, own, kernels.targets, time)
    torch.testing.assert_close(found.variance, wanted.diag(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.mean, moved @ kernels.targets, rtol=1e-8, atol=1e-8)
    if time == 0:
        torch.testing.assert_close(found.variance, own, **CLOSE)


def test_the_ensemble_is_what_many_trained_linear_models_do() -> None:
    """With f = <w, phi(x)>, w normal, trained by small steps, both kernels are the features'.

    4,000 models: means within 4.5 standard errors, variances (relative sd sqrt(2 / 4000) = 2.2 %)
    within 10 %.
    """
    generator = torch.Generator().manual_seed(0)
    phi, new = (torch.randn(k, 6, generator=generator).double() / 6**0.5 for k in (4, 3))
    scale = torch.linspace(0.5, 1.5, 6).double()  # of the initial weights: the kernels differ
    targets = torch.tensor([1.0, -1.0, 0.5, 2.0]).double()
    weights = scale * torch.randn(4000, 6, generator=generator).double()
    for _ in range(2000):
        weights = weights - 0.001 * (weights @ phi.T - targets) @ phi
    train = Kernels((phi * scale**2) @ phi.T, phi @ phi.T)
    cross = Kernels((new * scale**2) @ phi.T, new @ phi.T)
    found = gradient_flow_ensemble(train, cross, (new * scale).square().sum(1), targets, 2.0)
    outputs = weights @ new.T
    off = (outputs.mean(0) - found.mean) / (found.variance / 4000).sqrt()
    assert off.abs().max() < 4.5
    torch.testing.assert_close(outputs.var(0), found.variance, rtol=0.1, atol=0)


def test_with_landmarks_it_is_the_flow_of_the_approximate_kernel() -> None:
    kernels = given()
    kernel, cross = kernels.train.ntk, kernels.cross.ntk
    basis = nystrom(kernel[:, :4], kernel[:4, :4])
    near = kernel[:, :4] @ torch.linalg.solve(kernel[:4, :4], kernel[:4])
    between = cross[:, :4] @ torch.linalg.solve(kernel[:4, :4], kernel[:4])
    found = gradient_flow(basis, cross[:, :4], kernels.targets, 3.0)
    wanted = gradient_flow((near + near.T) / 2, between, kernels.targets, 3.0)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


def test_what_does_not_fit_is_refused() -> None:
    eye, y = torch.eye(3).double(), torch.ones(3)
    for time in (-1.0, math.nan):
        with pytest.raises(InputError, match=r"time .*: give a number from 0 on"):
            gradient_flow(eye, eye, y, time)
    with pytest.raises(InputError, match="learning_rate 0"):
        gradient_flow(eye, eye, y, 1.0, 0.0)
    with pytest.raises(InputError, match=r"cross has shape"):
        gradient_flow(eye, eye[:, :2], y)
    with pytest.raises(InputError, match=r'train is Tensor: give gram.*kind="both"'):
        gradient_flow_ensemble(eye, eye, torch.ones(3), y)
