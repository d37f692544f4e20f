"""The recursion on a grid against the exact laws, and against draws where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.grid_law import GridLaw
from merkhet.unit_prior.laws.homogeneous_law import HomogeneousLaw
from merkhet.unit_prior.spec import Spec, make_spec


@pytest.mark.parametrize(("width", "layer"), [(1, 2), (3, 3), (30, 3), (100, 4)])
def test_without_bias_it_is_the_exact_law(width: int, layer: int) -> None:
    spec = make_spec((width,) * (layer - 1), "relu")
    t = np.array([1e-2, 0.3, 1.0, 3.0, 10.0, 30.0])
    exact, _ = HomogeneousLaw(spec, layer).log_survival(t)
    found, error = GridLaw(spec, layer).log_survival(t)
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
    assert (np.abs(found / exact - 1) < 1e-4).all()
    assert (error >= 0).all()


def test_moments_of_second_order_are_the_closed_recursion() -> None:
    spec = make_spec((20, 20), "relu", weight_std=(1.0, 0.4, 0.3), bias_std=0.5)
    q = 1.0 + 0.25
    for std in spec.weight_std[1:]:
        q = 0.25 + std**2 * 20 * q / 2
    value, error = GridLaw(spec, 3).log_moment(2.0)
    assert value == pytest.approx(math.log(q), abs=max(1e-6, 3 * error))


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_draws_of_the_layer_before_agree(name: str) -> None:
    spec = make_spec((10, 10), name, bias_std=0.3)
    t = np.array([0.5, 2.0, 4.0])
    values = conditional(spec, t, draws=40_000)
    found, _ = GridLaw(spec, 3).log_survival(t)
    mean, error = values.mean(0), values.std(0) / math.sqrt(len(values))
    assert (np.abs(np.exp(found) - mean) < 4 * error).all()


def conditional(spec: Spec, t: np.ndarray, draws: int) -> np.ndarray:
    """Return P(|g| > t | the layer before), (draws, m), over draws of the layers before."""
    generator = torch.Generator().manual_seed(0)
    q = torch.full((draws,), spec.weight_std[0] ** 2 * spec.input_norm**2 + spec.bias_std**2)
    q = q.double()
    for width, std in zip(spec.widths, spec.weight_std[1:], strict=True):
        z = torch.randn(draws, width, generator=generator, dtype=torch.float64)
        h = spec.activation(q.sqrt()[:, None] * z)
        q = spec.bias_std**2 + std**2 * h.square().sum(1)
    return special.erfc(t / np.sqrt(2 * q.numpy())[:, None])


def test_a_bounded_activation_leaves_a_tail_lighter_than_a_gaussian_of_its_bound() -> None:
    spec = make_spec((5,), "tanh", weight_std=1.0)
    t = np.array([500.0, 1000.0])
    found, _ = GridLaw(spec, 2).log_survival(t)
    bound = special.log_ndtr(-t / math.sqrt(5)) + math.log(2)
    assert (found < bound).all()
    slope = math.log(found[1] / found[0]) / math.log(2)
    assert slope == pytest.approx(2, abs=0.05), "theta 1/2"


def test_what_grows_faster_is_refused() -> None:
    with pytest.raises(InputError, match=r"grows as \|u\|\^2"):
        GridLaw(make_spec((5,), "square"), 2)
