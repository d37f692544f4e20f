"""The public object: closed forms, the paper's numbers, inverses, shapes, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.prior import UnitPrior

PAPER = tuple(range(1000, 9, -10))


def test_the_papers_hundred_layers() -> None:
    prior = UnitPrior(PAPER)
    kurtoses = {1: 3, 2: 3.015, 3: 3.030, 10: 3.14, 100: 22.65}
    tails = {1: 0.56, 2: 0.58, 3: 0.59, 10: 0.67, 100: 2.05}
    for layer, kurtosis in kurtoses.items():
        exact = 3 * math.prod(1 + 5 / width for width in PAPER[: layer - 1])
        assert float(prior.kurtosis(layer)) == pytest.approx(exact, rel=1e-9)
        assert float(prior.kurtosis(layer)) == pytest.approx(kurtosis, abs=4e-3)
        assert round(float(prior.effective_tail(1e-5, layer)), 2) == tails[layer]
        assert float(prior.std(layer)) == pytest.approx(1)
        assert prior.tail_parameter(layer) == layer / 2


@pytest.mark.parametrize(("width", "powers"), [(10, (-9, -43, -78)), (100, (-273, -688, -1117))])
def test_where_the_theorem_comes_into_sight(width: int, powers: tuple[int, ...]) -> None:
    # p* of the reference: the local index is 0.9 of l/2 there, and is not at 1e3 times p*.
    prior = UnitPrior((width,) * 3)
    for layer, power in zip((2, 3, 4), powers, strict=True):
        log_p = np.log(10.0) * np.array([power - 1.5, power + 1.5])
        near = prior.effective_tail(None, layer, log_p=log_p).value.numpy() / (layer / 2)
        assert near[0] > 0.9 > near[1]


def test_the_correlation_of_squares() -> None:
    prior = UnitPrior((10, 20, 5))
    for layer in (2, 3, 4):
        r = math.prod(1 + 5 / width for width in (10, 20, 5)[: layer - 1])
        assert float(prior.square_correlation(layer)) == pytest.approx((r - 1) / (3 * r - 1))
    assert float(prior.square_correlation(1)) == 0


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.1)", "linear", "abs"])
@pytest.mark.parametrize("post", [False, True])
def test_quantiles_are_the_inverse_of_the_survival(activation: str, post: bool) -> None:
    prior = UnitPrior((8, 12), activation)
    p = torch.tensor([[1e-300, 1e-20, 1e-3], [0.1, 0.3, 0.49]], dtype=torch.float64)
    found = prior.quantile(p, 2, post=post)
    assert found.value.shape == p.shape
    back = prior.survival(found.value, 2, post=post)
    assert torch.allclose(back.value, p, rtol=1e-9, atol=0)
    far = prior.quantile(None, 2, log_p=-1e5, post=post)
    assert float(prior.log_survival(far.value, 2, post=post)) == pytest.approx(-1e5, rel=1e-10)
    ends = prior.quantile([0.0, 1.0], 2, post=post).value.tolist()
    assert ends == [math.inf, 0.0]


def test_scale_moves_with_the_input_and_the_weights() -> None:
    base = UnitPrior((6, 4), "leaky_relu(0.2)", [1.0, 0.5, 0.25])
    scaled = UnitPrior((6, 4), "leaky_relu(0.2)", [2.0, 0.5, 0.5], input_norm=3.0)
    t = torch.logspace(-3, 3, 20, dtype=torch.float64)
    left, right = base.log_survival(t, 3), scaled.log_survival(12 * t, 3)
    assert bool(((left.value - right.value).abs() <= left.error + right.error).all())
    assert float(scaled.std(3)) == pytest.approx(12 * float(base.std(3)))
    assert float(scaled.kurtosis(3)) == pytest.approx(float(base.kurtosis(3)))


def test_after_the_activation() -> None:
    prior = UnitPrior((8, 12), "relu")
    dead = 1 - (1 - 2.0**-8)
    assert float(prior.zero_mass(2)) == pytest.approx(dead)
    assert float(prior.zero_mass(2, post=True)) == pytest.approx(0.5 + dead / 2)
    t = [0.0, 0.5, math.inf]
    before, after = prior.survival(t, 2), prior.survival(t, 2, post=True)
    assert torch.allclose(after.value, before.value / 2)
    assert float(prior.moment(2, 2, post=True)) == pytest.approx(float(prior.moment(2, 2)) / 2)
    density = prior.density([-1.0, 1.0], 2, post=True).value
    assert density[0] == 0
    assert float(density[1]) == pytest.approx(float(prior.density(1.0, 2)), rel=1e-12)


def test_moments_after_the_activation_agree_with_draws_of_a_gaussian() -> None:
    prior = UnitPrior((8,), "leaky_relu(0.3)", input_norm=2.0)
    z = 2 * torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = torch.where(z < 0, 0.3 * z, z)
    std, kurtosis = prior.std(1, post=True), prior.kurtosis(1, post=True)
    assert float(u.std()) == pytest.approx(float(std), rel=0.01)
    central = u - u.mean()
    assert float(central.pow(4).mean() / u.var() ** 2) == pytest.approx(float(kurtosis), rel=0.03)
    # ReLU of a standard Gaussian: mean 1/sqrt(2 pi), second moment 1/2.
    relu = UnitPrior((8,), "relu")
    assert float(relu.std(1, post=True)) == pytest.approx(math.sqrt(0.5 - 0.5 / math.pi))


def test_moments_and_those_that_are_infinite() -> None:
    prior = UnitPrior((5,), "linear")
    assert float(prior.moment(0, 2)) == 1
    assert float(prior.moment(4, 2)) == pytest.approx(3 * (1 + 2 / 5) * 4)  # he: E g^2 = 2
    assert float(prior.log_moment(2000, 2)) > 5000
    assert float(prior.moment(2000, 2)) == math.inf
    assert float(prior.moment(-0.5, 2)) > 0
    with pytest.raises(InputError, match="infinite"):
        prior.moment(-1, 2)
    with pytest.raises(InputError, match="infinite"):
        UnitPrior((5,)).moment(-0.5, 2)
    with pytest.raises(InputError, match="order"):
        prior.moment(math.nan, 2)


def test_the_joint_density() -> None:
    prior = UnitPrior((5, 6))
    points = torch.tensor([[0.6, 0.8], [1.0, 0.0], [-0.8, 0.6]])
    found = prior.joint(points, 2).value
    assert torch.allclose(found, found[:1].expand(3), rtol=1e-6)  # spheres, in float32
    one = prior.joint(torch.tensor([[0.3], [-2.0]], dtype=torch.float64), 2).value
    assert torch.allclose(one, prior.log_density([0.3, -2.0], 2).value, rtol=1e-12)
    assert float(prior.joint([0.0, 0.0], 2)) == math.inf
    gaussian = prior.joint([[1.0, 2.0, 2.0]], 1).value
    assert float(gaussian[0]) == pytest.approx(-4.5 - 1.5 * math.log(2 * math.pi))
    for bad in (1.0, torch.zeros(2, 0), torch.zeros(2, 7)):
        with pytest.raises(InputError, match="points"):
            prior.joint(bad, 2)


def test_points_of_any_kind() -> None:
    prior = UnitPrior((5, 6))
    wanted = prior.log_survival(torch.tensor([[0.5, 1.0], [2.0, 3.0]], dtype=torch.float64), 2)
    for given in (
        [[0.5, 1], [2, 3]],
        np.array([[0.5, 2.0], [1.0, 3.0]]).T,
        torch.tensor([[0.5, 2.0], [1.0, 3.0]], dtype=torch.float32).T,
        torch.tensor([[0.5, 1.0], [2.0, 3.0]], requires_grad=True),
    ):
        found = prior.log_survival(given, 2).value
        assert torch.allclose(found, wanted.value, rtol=1e-12, atol=0)
    assert prior.log_survival(1, 2).value.shape == ()
    assert prior.log_survival([], 2).value.shape == (0,)
    assert prior.quantile([], 2).value.shape == (0,)
    assert prior.density(torch.zeros(0, 3), 2).value.shape == (0, 3)
    assert wanted.value.dtype == wanted.error.dtype == torch.float64


def test_bad_input() -> None:
    prior = UnitPrior((5, 6))
    for t in (-1.0, math.nan, [1.0, -math.inf], "a", None, [[1.0], [1.0, 2.0]], 1j):
        with pytest.raises(InputError):
            prior.survival(t, 2)
    for layer in (0, 4, True, 1.0):
        with pytest.raises(InputError, match="layer"):
            prior.survival(1.0, layer)
    with pytest.raises(InputError, match="layer"):
        prior.survival(1.0, 3, post=True)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError):
            prior.quantile(p, 2)
    with pytest.raises(InputError, match="log_p"):
        prior.quantile(None, 2)
    with pytest.raises(InputError, match="log_p"):
        prior.quantile(0.1, 2, log_p=-3)
    for p in (0.0, 1.0, 0.995):
        with pytest.raises(InputError, match="not 0"):
            prior.effective_tail(p, 2)
    with pytest.raises(InputError, match="width"):
        UnitPrior((0,))
    with pytest.raises(InputError, match="input_norm"):
        UnitPrior((3,), input_norm=0)


def test_density_is_even_and_the_survival_falls() -> None:
    prior = UnitPrior((4, 7), "leaky_relu(0.5)")
    u = torch.linspace(-5, 5, 21, dtype=torch.float64)
    density = prior.density(u, 3).value
    assert torch.allclose(density, density.flip(0), rtol=1e-12, atol=0)
    t = torch.logspace(-6, 4, 200, dtype=torch.float64)
    logs = prior.log_survival(t, 3).value
    assert bool((logs.diff() < 0).all())


def test_growth_decides_the_tail_parameter() -> None:
    assert UnitPrior((4, 4), "square").tail_parameter(3) == 0.5 + 2 * (0.5 + 2 * 0.5)
    assert UnitPrior((4, 4), "tanh").tail_parameter(3) == 0.5
    assert UnitPrior((4, 4), "tanh").tail_parameter(2, post=True) == 0
    assert UnitPrior((4, 4), "gelu").tail_parameter(2, post=True) == 1


def test_it_says_what_it_is() -> None:
    prior = UnitPrior((4, 4), "leaky_relu(0.1)", 0.5, input_norm=2)
    assert "leaky_relu(0.1)" in repr(prior)
    again = UnitPrior.from_spec(prior.spec)
    assert again.law(3) is again.law(3)
    assert float(again.std(3)) == float(prior.std(3))
    assert "Mellin transform" in repr(prior.kurtosis(3))
    assert "Mellin inversion" in repr(prior.quantile(0.1, 3))
    assert "closed form" in repr(prior.survival(1.0, 1))


def test_draws_agree_with_the_law() -> None:
    prior, n = UnitPrior((6, 3)), 20_000
    drawn = prior.sample(n, 3, 0).abs()
    assert drawn.shape == (n,)
    for t in (0.1, 1.0, 4.0):
        exact = float(prior.survival(t, 3))
        spread = math.sqrt(exact * (1 - exact) / n)
        assert abs(float((drawn > t).double().mean()) - exact) < 4 * spread


def test_numbers_that_are_no_float64() -> None:
    large, small = (UnitPrior((3, 3, 3), weight_std=10.0**power) for power in (150, -150))
    assert float(large.quantile(0.1, 4)) == float(large.std(4)) == math.inf
    assert float(small.quantile(0.1, 4)) == 0
    assert float(large.kurtosis(4)) == pytest.approx(float(UnitPrior((3, 3, 3)).kurtosis(4)))
    assert float(large.kurtosis(3, post=True)) == pytest.approx(46.88624664, rel=1e-8)
    for scaled in (large, small):
        with pytest.raises(InputError, match="no float64"):
            scaled.effective_tail(0.1, 4)
    steep = UnitPrior((3, 3), "leaky_relu(1e-200)").log_survival(1e200, 2, post=True)
    assert -1e201 < float(steep) < -1e199
    half = torch.tensor([1.0], dtype=torch.bfloat16)
    assert float(large.survival(half, 1)) == 1.0
    for call in (large.survival, large.moment):
        with pytest.raises(InputError):
            call(10**400, 2)
    with pytest.raises(InputError, match=r"above -0\.5"):
        UnitPrior((10,), "square").moment(-0.7, 1, post=True)


def test_a_probability_is_at_most_one_after_an_activation() -> None:
    prior = UnitPrior((20, 20), "tanh", bias_std=0.1)
    for layer in (1, 2):
        found = prior.log_survival([1e-12, 1e-9, 1e-3], layer, post=True).value
        assert bool((found <= 0).all())


def test_torchs_gelu_is_the_named_one() -> None:
    given = Activation("gelu", torch.nn.functional.gelu)
    assert UnitPrior((3,), given).spec.activation == UnitPrior((3,), "gelu").spec.activation
    mine = Activation("gelu", lambda u: u.sigmoid() * u)
    assert UnitPrior((3,), mine).spec.activation is mine
    with pytest.raises(InputError, match="named activations alone"):
        UnitPrior((3,), mine).moment(-0.1, 1, post=True)
