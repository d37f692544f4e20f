"""Kernels by sampling: unbiased, with an honest standard error that falls as samples^(-1/2)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.kernels import Linear, ReLU, Sequential, gram
from merkhet.kernels.monte_carlo import monte_carlo_kernel

NETWORK = Sequential(Linear(weight_std=1.0), ReLU(), Linear())
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


class OneHidden(nn.Module):
    """One hidden ReLU layer in the "ntk" parameterisation: unbiased at every width."""

    def __init__(self, generator: torch.Generator, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(width, 4, generator=generator))
        self.last = nn.Parameter(torch.randn(2, width, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x @ self.first.T / 2).relu()
        return math.sqrt(2 / self.first.shape[0]) * hidden @ self.last.T


class MaxPooled(nn.Module):
    """A 1x1 convolution of one channel, and the maximum over the picture."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn((), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.weight * x, (1, x.shape[-1])).flatten(1)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_the_analytic_kernel_lies_within_the_interval(kind: str) -> None:
    found = monte_carlo_kernel(OneHidden, X, Y, kind=kind, samples=200, seed=3)
    exact = gram(NETWORK, X, Y, kind=kind, dtype=torch.float64)
    assert found.mean.shape == found.standard_error.shape == (5, 3)
    apart = (found.mean - exact) / found.standard_error
    # 15 entries that depend on each other: none beyond 4 of its errors, most within 2.
    assert apart.abs().max() < 4
    assert (apart.abs() < 2).double().mean() > 0.6
    wider = monte_carlo_kernel(lambda g: OneHidden(g, 1024), X, Y, kind="ntk", samples=8)
    ntk = gram(NETWORK, X, Y, dtype=torch.float64)
    assert ((wider.mean - ntk) / wider.standard_error).abs().max() < 6  # 7 degrees of freedom


def test_the_error_falls_as_the_root_of_the_samples_and_is_what_it_says() -> None:
    exact, counts, errors = gram(NETWORK, X, kind="nngp", dtype=torch.float64), (8, 32, 128), []
    for count in counts:
        found = [
            monte_carlo_kernel(OneHidden, X, kind="nngp", samples=count, seed=seed)
            for seed in range(12)
        ]
        off = torch.stack([one.mean - exact for one in found]).square().mean().sqrt()
        told = torch.stack([one.standard_error for one in found]).square().mean().sqrt()
        assert 0.6 < off / told < 1.6  # 12 draws of some three degrees of freedom: 12 % each
        errors.append(float(off))
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert -0.7 < slope < -0.3


def test_max_pooling_has_the_covariance_that_is_worked_out_by_hand() -> None:
    """E[max_p(w x_p) max_q(w y_q)] = (max x max y + min x min y) / 2 for normal w."""
    x, y = torch.rand(3, 1, 1, 4, generator=torch.Generator().manual_seed(0)) - 0.5, None
    found = monte_carlo_kernel(MaxPooled, x, y, kind="nngp", samples=2000)
    high, low = x.amax((1, 2, 3)).double(), x.amin((1, 2, 3)).double()
    exact = (high[:, None] * high + low[:, None] * low) / 2
    assert ((found.mean - exact) / found.standard_error).abs().max() < 4


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_it_is_symmetric_and_the_seed_decides(kind: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (
        monte_carlo_kernel(OneHidden, X, kind=kind, samples=3, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one.mean, same.mean)
    assert torch.equal(one.standard_error, same.standard_error)
    assert not torch.equal(one.mean, other.mean)
    assert torch.equal(one.mean, one.mean.T)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_that_draw_from_the_global_generator_are_seeded_too() -> None:
    def build(_generator: torch.Generator) -> nn.Module:
        return nn.Linear(4, 2)

    state = torch.get_rng_state()
    one, same = (monte_carlo_kernel(build, X, kind="nngp", samples=4) for _ in range(2))
    assert torch.equal(one.mean, same.mean)
    assert one.standard_error.min() > 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 1}, "2 samples at least"),
        ({"seed": -1}, "a seed from 0 on"),
        ({"kind": "both"}, "choose one of nngp, ntk"),
        ({"build": lambda generator: 3}, "build gave int"),
        ({"x": torch.full((2, 4), torch.inf)}, r"x\[0\] holds NaN or infinity"),
    ],
)
def test_bad_arguments_are_one_clear_line(change, words: str) -> None:
    given = {"build": OneHidden, "x": X} | change
    with pytest.raises(InputError, match=words):
        monte_carlo_kernel(given.pop("build"), given.pop("x"), **given)
