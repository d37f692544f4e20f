"""Smoothness of kernel maps: bounds that are met, limits where they are reached, constants."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from merkhet.core.errors import InputError
from merkhet.kernels import GELU, Erf, Linear, ReLU, Sequential, Sine, diagonal, gram
from merkhet.kernels.smoothness import (
    arc_cosine_distance,
    norm_bound,
    smoothness,
    step_bounds,
    tangent_bound,
)

F64 = torch.float64


def vectors(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)


def units(count: int, dim: int, seed: int) -> Tensor:
    found = vectors(count, dim, seed)
    return found / found.norm(dim=1, keepdim=True)


def apart(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors of the plane with given angles."""
    x = torch.stack([torch.ones_like(theta), torch.zeros_like(theta)], -1)
    return x, torch.stack([theta.cos(), theta.sin()], -1)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_closed_form_is_the_distance_of_gram(kind: str) -> None:
    x, y = vectors(40, 5, 0), vectors(40, 5, 1)
    network = Sequential(Linear(weight_std=1.0), ReLU(), Linear())
    both = 5 * gram(network, torch.cat([x, y]), kind=kind, dtype=F64)
    own, cross = both.diag(), both[:40, 40:].diag()
    expected = (own[:40] + own[40:] - 2 * cross).sqrt()
    torch.testing.assert_close(arc_cosine_distance(x, y, kind), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_closed_form_stays_accurate_for_nearly_equal_inputs(size: float) -> None:
    """Against forty digits: the relative error is a few roundings over the angle."""
    x = vectors(5, 4, 2)
    y = x + size * vectors(5, 4, 3)
    for kind in ("ntk", "nngp", "step"):
        found = arc_cosine_distance(x, y, kind)
        for i in range(5):
            wanted = exact(x[i].tolist(), y[i].tolist(), kind)
            assert float(found[i]) == pytest.approx(wanted, rel=max(1e-13, 4e-15 / size))


def exact(x: list[float], y: list[float], kind: str) -> float:
    """Return the distance of one hidden layer's map by the kernel itself, in forty digits."""
    with mpmath.workdps(40):

        def kernel(a: list[float], b: list[float]) -> mpmath.mpf:
            norm = mpmath.sqrt(mpmath.fdot(a, a) * mpmath.fdot(b, b))
            u = min(mpmath.fdot(a, b) / norm, mpmath.mpf(1))
            step = 1 - mpmath.acos(u) / mpmath.pi
            ramp = u * step + mpmath.sqrt(1 - u**2) / mpmath.pi
            return {"step": step, "nngp": norm * ramp, "ntk": norm * (u * step + ramp)}[kind]

        return float(mpmath.sqrt(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)))


def test_a_zero_input_is_as_far_as_the_other_is_long() -> None:
    x = vectors(3, 4, 4)
    zero = torch.zeros_like(x)
    found = arc_cosine_distance(x, zero)
    torch.testing.assert_close(found, norm_bound(x, 1), rtol=1e-14, atol=0)
    assert arc_cosine_distance(zero, zero).tolist() == [0, 0, 0]
    assert arc_cosine_distance(x, x).tolist() == [0, 0, 0]


def test_the_step_map_lies_between_its_bounds_and_reaches_both() -> None:
    x, y = units(500, 3, 5), units(500, 3, 6)
    low, high = step_bounds(x, y)
    moved = arc_cosine_distance(x, y, "step")
    assert (moved >= low * (1 - 1e-12)).all()
    assert (moved <= high * (1 + 1e-12)).all()
    x, y = apart(torch.tensor([1e-4, math.pi], dtype=F64))
    low, high = step_bounds(x, y)
    moved = arc_cosine_distance(x, y, "step")
    # The ratio is theta / (pi sin(theta / 2)): 2/pi (1 + theta^2 / 24) for small angles.
    assert float(moved[0] / low[0]) == pytest.approx(1, abs=1e-9)
    assert float(moved[1] / high[1]) == pytest.approx(1, abs=1e-12)


def test_the_tangent_map_meets_its_bound_and_is_not_lipschitz() -> None:
    for scale in (1e-6, 1e-3, 1.0, 30.0):
        x = vectors(300, 6, 7)
        y = x + scale * vectors(300, 6, 8)
        assert (arc_cosine_distance(x, y) <= tangent_bound(x, y)).all()
    theta = torch.tensor([1e-4, 1e-6], dtype=F64)
    x, y = apart(theta)
    moved = arc_cosine_distance(x, y)
    # |Phi(x) - Phi(y)|^2 = 2 theta / pi + O(theta^2): a square root, and no Lipschitz constant.
    torch.testing.assert_close(moved**2, 2 * theta / math.pi, rtol=1e-3, atol=0)
    assert float(moved[1] / theta[1]) > 700
    # The NNGP map is 1-Lipschitz.
    x, y = vectors(300, 6, 9), vectors(300, 6, 10)
    assert (arc_cosine_distance(x, y, "nngp") <= (x - y).norm(dim=1)).all()


@pytest.mark.parametrize("hidden", [1, 2, 5])
def test_norms_of_relu_networks_reach_their_bound(hidden: int) -> None:
    network = Sequential(Linear(weight_std=1.0), *[ReLU(), Linear()] * hidden)
    x = vectors(20, 8, 11)
    found = (8 * diagonal(network, x)).sqrt()
    torch.testing.assert_close(found, norm_bound(x, hidden), rtol=1e-13, atol=0)


def test_softplus_has_the_papers_constants() -> None:
    found = smoothness(F.softplus)
    assert found.moments.tolist() == pytest.approx([0.921, 0.293, 0.045], abs=5e-4)
    assert found.constant == pytest.approx(1.10, abs=5e-3)
    assert found.errors.max() < 1e-12


def test_moments_of_polynomials_and_waves_in_closed_form() -> None:
    """Of z^2: E[z^4] = 3, E[4 z^2] = 4, 4; of sin: (1 -+ exp(-2)) / 2."""
    assert smoothness(torch.square).moments.tolist() == pytest.approx([3, 4, 4], rel=1e-12)
    odd, even = (1 - math.exp(-2)) / 2, (1 + math.exp(-2)) / 2
    found = smoothness(torch.sin)
    assert found.moments.tolist() == pytest.approx([odd, even, odd], rel=1e-12)
    linear = smoothness(lambda z: z)
    assert linear.moments.tolist() == pytest.approx([1, 1, 0], abs=1e-13)
    assert linear.constant == pytest.approx(math.sqrt(2))


def test_errors_cover_what_slow_quadrature_misses() -> None:
    found = smoothness(torch.tanh)
    of = (
        mpmath.tanh,
        lambda z: mpmath.sech(z) ** 2,
        lambda z: -2 * mpmath.tanh(z) / mpmath.cosh(z) ** 2,
    )
    for f, value, error in zip(of, found.moments.tolist(), found.errors.tolist(), strict=True):

        def part(z: mpmath.mpf, f: object = f) -> mpmath.mpf:
            return f(z) ** 2 * mpmath.npdf(z)  # type: ignore[operator]

        truth = float(mpmath.quad(part, [-12, -4, 0, 4, 12]))
        assert abs(value - truth) <= error


@pytest.mark.parametrize(
    ("activation", "function"), [(GELU(), F.gelu), (Erf(), torch.erf), (Sine(), torch.sin)]
)
def test_smooth_maps_are_lipschitz_with_the_constant(activation: object, function: object) -> None:
    """On the sphere where units have variance 1; nearly reached by near inputs."""
    dim = 5
    network = Sequential(Linear(weight_std=1.0), activation, Linear(weight_std=1.0))  # type: ignore[arg-type]
    constant = smoothness(function).constant  # type: ignore[arg-type]
    x = units(60, dim, 12)
    near = x + 1e-2 * vectors(60, dim, 13)
    both = math.sqrt(dim) * torch.cat([x, near / near.norm(dim=1, keepdim=True)])
    kernel = gram(network, both, dtype=F64)
    squared = kernel.diag()[:, None] + kernel.diag() - 2 * kernel
    moved = squared.clamp(min=0).sqrt()
    length = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(dim)
    other = ~torch.eye(120, dtype=torch.bool)
    ratio = moved[other] / (constant * length[other])
    assert ratio.max() <= 1 + 1e-9
    # On the sphere the slope is kappa'(1); where kappa(1) is larger, the constant is about lengths.
    _, first, second = smoothness(function).moments.tolist()  # type: ignore[arg-type]
    assert float(ratio.max()) == pytest.approx(math.sqrt(2 * first + second) / constant, rel=1e-3)


def test_the_constant_is_that_of_the_homogeneous_map() -> None:
    """Where g0 + g1 exceeds 2 g1 + g2 it is reached along a ray: softplus."""
    found = smoothness(F.softplus)
    value, first, second = found.moments.tolist()
    assert value + first > 2 * first + second
    assert found.constant == pytest.approx(math.sqrt(value + first))


@pytest.mark.parametrize("kinked", [F.relu, torch.abs, torch.sign, F.hardtanh, F.leaky_relu])
def test_kinks_are_refused(kinked: object) -> None:
    with pytest.raises(InputError, match="kink"):
        smoothness(kinked)  # type: ignore[arg-type]


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="kind of kernel"):
        arc_cosine_distance(torch.ones(1, 2), torch.ones(1, 2), "both")
