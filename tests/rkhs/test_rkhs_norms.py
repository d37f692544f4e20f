"""RKHS norms between lower bounds and what is known: kernel machines, CKNs, homogeneous CNNs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from merkhet.ckn import CKN, GaussianPool2d, HomogeneousConv2d, HomogeneousNetwork
from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.form import Form
from merkhet.core.errors import InputError
from merkhet.models import SmallCNN
from merkhet.rkhs.bracket import lipschitz
from merkhet.rkhs.rkhs_norm import interpolation_norm, rkhs_norm


def _gaussian(x: Tensor, z: Tensor) -> Tensor:
    return (-torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist").square() / 2).exp()


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_gaussian_kernel_machine_is_found_from_its_values() -> None:
    centres, a = 3 * _random(12, 4), _random(12, 2, seed=1)
    gram = _gaussian(centres, centres)
    squared = (a * (gram @ a)).sum(0)
    found = interpolation_norm(gram @ a, gram)
    assert torch.allclose(found.square(), squared, rtol=1e-8)
    assert bool((found.square() <= squared * (1 + 1e-12)).all())
    # From other points it is a lower bound that grows with more of them.
    others = 3 * _random(40, 4, seed=2)
    bounds = [
        interpolation_norm(_gaussian(others[:n], centres) @ a, _gaussian(others[:n], others[:n]))
        for n in (5, 20, 40)
    ]
    assert bool((bounds[0] <= bounds[1] + 1e-9).all() and (bounds[1] <= bounds[2] + 1e-9).all())
    assert bool((bounds[2].square() <= squared).all())


def test_near_copies_of_points_do_not_lift_the_bound_above_the_norm() -> None:
    centres = _random(6, 3)
    x = torch.cat([centres + 10.0**-k * _random(6, 3, seed=k) for k in range(1, 12)])
    a = _random(6, 1, seed=1)
    squared = float((a * (_gaussian(centres, centres) @ a)).sum())
    found = interpolation_norm(_gaussian(x, centres) @ a, _gaussian(x, x))
    assert float(found) ** 2 <= squared * (1 + 1e-9)


def test_a_difference_quotient_of_the_kernel_map_is_found_whole() -> None:
    # f = (Phi(z + e) - Phi(z)) / eps: the functional u = f itself has <f, u> / |u| = |f|.
    z, eps = _random(1, 3), 1e-2
    ends = torch.cat([z, z + eps * torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)])
    quotient = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) / eps
    gram = _gaussian(ends, ends)
    norm = float((quotient * (gram @ quotient)).sum().sqrt())
    values = quotient.mT @ (gram @ quotient)
    found = float(interpolation_norm(values, quotient.mT @ gram @ quotient))
    assert found / norm == pytest.approx(1.0, abs=1e-9)
    assert norm == pytest.approx(1.0, abs=1e-4)  # kappa'(1) = 1: the map is an isometry at 0


def test_degenerate_grams_and_bad_shapes() -> None:
    assert float(interpolation_norm(torch.zeros(3), torch.zeros(3, 3))) == 0
    one = interpolation_norm(torch.ones(4).double(), torch.ones(4, 4).double())
    assert float(one) == pytest.approx(1, rel=1e-6)
    with pytest.raises(InputError, match="gram"):
        interpolation_norm(torch.ones(3), torch.ones(2, 2))
    with pytest.raises(InputError, match="NaN"):
        interpolation_norm(torch.ones(2) * math.nan, torch.eye(2))


CKNS = [
    lambda: CKN(1, (8,), pooling=2),
    lambda: CKN(1, (6, 8), pooling=(2, 2), kernel="inverse"),
    lambda: CKN(1, (8, 6), pooling=2, sigma=0.4, form=Form(patches="centred", padding="valid")),
    lambda: CKN(1, (8,), pooling=(2,), kernel="relu"),
    lambda: CKN(1, (4, 4), pooling=2, group="c4"),
    lambda: CKN(1, (4, 4), pooling=2, group="d4", form=(Form(), Form(across=True))),
]


@pytest.mark.parametrize("build", CKNS)
def test_of_a_ckn_with_a_linear_head_lower_is_at_most_the_heads_norm(build: object) -> None:
    assert callable(build)
    network = build()
    features = math.prod(network.output_shape(12, 12))
    head = nn.Linear(features, 3)
    model = nn.Sequential(network, nn.Flatten(), head)
    x = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.weight.copy_(_random(3, features))
    found = rkhs_norm(model, x)
    assert torch.allclose(found.upper, head.weight.detach().double().norm(dim=1))
    assert bool((found.lower > 0).all() and (found.lower <= found.upper).all())
    assert found.reasons == ()


def test_a_head_in_the_span_of_the_examples_is_found_whole() -> None:
    network = CKN(1, (8,), pooling=4)
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    head = nn.Linear(32, 2)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, 6) @ network(x[:6]).flatten(1))
    found = rkhs_norm(nn.Sequential(network, nn.Flatten(), head).double(), x.double())
    assert torch.allclose(found.lower, found.upper, rtol=1e-5)


@pytest.mark.parametrize("build", CKNS)
def test_no_ratio_of_a_kernel_map_is_above_its_lipschitz_constant(build: object) -> None:
    assert callable(build)
    network = build().double().eval()
    limit = network.kernel_map_lipschitz((1, 12, 12))
    found = lipschitz(network, torch.rand(3, 1, 12, 12).double(), ascents=2, steps=10)
    assert found.upper == pytest.approx(limit, rel=1e-9)
    assert [part.how for part in found.parts] == ["declared"]
    assert 0 < found.lower <= limit


def test_a_kernel_map_that_is_an_isometry_reaches_its_constant() -> None:
    # Patches of one positive number have one direction: the map is x, but for the ridge.
    network = CKN(1, (1,), 1, 1, "inverse", form=Form(ridge=1e-9)).double()
    with torch.no_grad():
        network.layer(0).filters.fill_(1.0)
    found = lipschitz(network, torch.rand(3, 1, 4, 4) + 1, ascents=0)
    assert found.lower == pytest.approx(1, rel=1e-6)
    assert found.upper == pytest.approx(1, rel=1e-6)


def test_a_group_that_interpolates_has_no_bound_of_its_map() -> None:
    assert CKN(1, (4,), pooling=2, group="c8").kernel_map_lipschitz((1, 8, 8)) == math.inf


def test_homogeneous_networks_are_bounded_above_in_the_rkhs_of_their_kernel() -> None:
    kernel = DotProductKernel("inverse")
    inner = HomogeneousNetwork(
        HomogeneousConv2d(1, 2, 3, "sine"),
        GaussianPool2d(2),
        HomogeneousConv2d(2, 2, 3, "sine", seed=1),
        kernel=kernel,
    )
    model = nn.Sequential(inner, nn.Flatten(), nn.Linear(2 * 16, 2))
    with torch.no_grad():
        for layer in (inner[0], inner[2]):
            layer.weight.mul_(0.2)
    x = torch.rand(4, 1, 8, 8)
    found = rkhs_norm(model, x)
    assert bool((found.lower > 0).all() and (found.lower <= found.upper).all())
    assert bool(found.upper.isfinite().all())
    assert 0 < found.map_lipschitz < 2
    without = nn.Sequential(
        HomogeneousNetwork(HomogeneousConv2d(1, 2, 3)), nn.Flatten(), nn.Linear(128, 2)
    )
    with pytest.raises(InputError, match="kernel="):
        rkhs_norm(without, x)


def test_of_relu_networks_nothing_is_known_from_above() -> None:
    model = SmallCNN(1, 3, (4,)).eval()
    x = torch.rand(4, 1, 8, 8)
    found = rkhs_norm(model, x)
    assert bool((found.upper == math.inf).all())
    assert "ReLU" in str(found)
    assert bool((found.lower > 0).all())
    assert float(found.lower.max()) <= lipschitz(model, x, ascents=0).upper


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_interpolation_norm_of_rounded_values_stays_below_the_norm(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 2, generator=generator, dtype=torch.float64)
    for width in (0.1, 1.0, 5.0):
        gram = torch.exp(-torch.cdist(x, x).square() / (2 * width**2))
        a = torch.randn(50, generator=generator, dtype=torch.float64)
        norm = float((a @ gram @ a).sqrt())
        assert float(interpolation_norm((gram @ a).to(dtype), gram.to(dtype))) <= norm


@pytest.mark.parametrize("values", [[1.0], torch.ones(1, dtype=torch.complex64)])
def test_values_that_are_no_real_tensor_are_refused(values: object) -> None:
    with pytest.raises(InputError, match="real"):
        interpolation_norm(values, torch.eye(1))  # type: ignore[arg-type]
