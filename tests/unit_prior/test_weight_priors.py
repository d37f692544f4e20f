"""Priors on weights: their moments and tails as drawn, their scales, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from scipy import stats

from merkhet.core.errors import InputError
from merkhet.unit_prior.weight_priors import (
    Cauchy,
    Gaussian,
    GeneralisedNormal,
    Laplace,
    StudentT,
    TorchInit,
    Uniform,
    WeightPrior,
    weight_prior,
)

N = 200_000
# Each family at standard deviation 1 (scale parameter 1 where that is infinite), by scipy.
LAWS = {
    "gaussian": stats.norm(),
    "laplace": stats.laplace(scale=math.sqrt(0.5)),
    "generalised_normal(0.5)": stats.gennorm(0.5, scale=math.sqrt(math.gamma(2) / math.gamma(6))),
    "generalised_normal(40)": stats.gennorm(
        40, scale=math.sqrt(math.gamma(1 / 40) / math.gamma(3 / 40))
    ),
    "student(5)": stats.t(5, scale=math.sqrt(3 / 5)),
    "student(2)": stats.t(2),
    "student(0.7)": stats.t(0.7),
    "cauchy": stats.cauchy(),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_law_of_their_family(name: str, generator: torch.Generator) -> None:
    prior = dataclasses.replace(weight_prior(name), scale=2.0)
    drawn = prior.draw((N,), 1, 1, generator)
    # Kolmogorov's distance exceeds 2.2 / sqrt(n) with a probability of 2 exp(-2 2.2^2) = 1e-4.
    distance = stats.kstest(drawn.numpy() / 2, LAWS[name].cdf).statistic
    assert distance < 2.2 / math.sqrt(N)


@pytest.mark.parametrize("name", LAWS)
def test_biases_come_from_the_same_family(name: str, generator: torch.Generator) -> None:
    prior = dataclasses.replace(weight_prior(name), bias=0.5)
    drawn = prior.draw_bias((N,), generator).numpy() / 0.5
    assert stats.kstest(drawn, LAWS[name].cdf).statistic < 2.2 / math.sqrt(N)
    none = dataclasses.replace(prior, bias=0.0).draw_bias((3,), generator)
    assert torch.equal(none, torch.zeros(3, dtype=torch.float64))


def test_a_wide_exponent_is_nearly_uniform_and_never_nan(generator: torch.Generator) -> None:
    drawn = GeneralisedNormal(1e6, scale=1.0).draw((N,), 1, 1, generator)
    assert drawn.isfinite().all()
    assert drawn.abs().max() < math.sqrt(3) * (1 + 1e-4)


@pytest.mark.parametrize(
    ("name", "tail", "index"),
    [
        ("gaussian", 0.5, None),
        ("laplace", 1.0, None),
        ("generalised_normal(0.25)", 4.0, None),
        ("student(3)", math.inf, 3.0),
        ("cauchy", math.inf, 1.0),
        ("uniform", 0.0, None),
        ("init", 0.0, None),
    ],
)
def test_tails(name: str, tail: float, index: float | None) -> None:
    prior = weight_prior(name)
    assert (prior.tail, prior.index) == (tail, index)
    assert str(prior) == name


@pytest.mark.parametrize("name", ["gaussian", "laplace", "generalised_normal(0.5)"])
def test_moments_grow_like_the_tail(name: str) -> None:
    """Log |w|_k has slope theta_w in log k: by the closed moments of exp(-|w|^beta)."""
    beta = 1 / weight_prior(name).tail
    logs = [(math.lgamma((k + 1) / beta) - math.lgamma(1 / beta)) / k for k in (2**14, 2**15)]
    assert (logs[1] - logs[0]) / math.log(2) == pytest.approx(1 / beta, rel=2e-3)


def test_scales_by_fan() -> None:
    assert Gaussian().std(8, 2) == 0.5
    assert Laplace("xavier").std(6, 2) == 0.5
    assert Uniform("lecun").std(4, 9) == 0.5
    assert Cauchy(0.3).std(4, 9) == 0.3


def test_a_seed_gives_the_same_weights_in_every_type() -> None:
    draws = [
        StudentT(3).draw((5, 2), 4, 4, torch.Generator().manual_seed(1), dtype)
        for dtype in (torch.float64, torch.float32)
    ]
    assert draws[1].dtype == torch.float32
    torch.testing.assert_close(draws[0].float(), draws[1])
    state = torch.random.get_rng_state()
    Laplace().draw((3,), 1, 1, torch.Generator())
    assert torch.equal(state, torch.random.get_rng_state())


def test_empty_and_single_draws(generator: torch.Generator) -> None:
    for name in LAWS:
        assert weight_prior(name).draw((0, 3), 1, 1, generator).shape == (0, 3)
        assert weight_prior(name).draw((), 1, 1, generator).dim() == 0


def test_names_and_constructors_are_the_same() -> None:
    same = {
        "gaussian": Gaussian(),
        "laplace": Laplace(),
        "generalised_normal(0.5)": GeneralisedNormal(0.5),
        "student(3)": StudentT(3.0),
        "cauchy": Cauchy(),
        "uniform": Uniform(),
        "init": TorchInit(),
    }
    for name, prior in same.items():
        assert weight_prior(name) == prior
        assert weight_prior(prior) is prior
        assert pickle.loads(pickle.dumps(prior)) == prior
        assert hash(prior) == hash(weight_prior(name.upper()))


WRONG: list[tuple[Any, str]] = [
    ("gausian", "Did you mean 'gaussian'"),
    ("student", "degrees of freedom"),
    ("gaussian(3)", "takes no number"),
    ("student(-1)", "positive"),
    ("student(1e)", "write a name"),
    ("student(nan)", "write a name"),
    ("", "write a name"),
    (3, "write a name"),
    (None, "write a name"),
]


@pytest.mark.parametrize(("given", "told"), WRONG)
def test_a_wrong_name_is_told_what_to_write(given: Any, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        weight_prior(given)


def test_wrong_scales_are_refused(generator: torch.Generator) -> None:
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="scale"):
            Gaussian(scale)
    with pytest.raises(InputError, match="Did you mean 'he'"):
        Gaussian("hee")
    with pytest.raises(InputError, match="bias"):
        Gaussian(bias=-1.0)
    with pytest.raises(InputError, match="own scales"):
        WeightPrior("init", scale=0.1)
    for call in (lambda: TorchInit().std(1, 1), lambda: TorchInit().draw((1,), 1, 1, generator)):
        with pytest.raises(InputError, match="reset_parameters"):
            call()
