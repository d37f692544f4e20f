"""The homogeneous convolution and its networks: scale, zeros, gradients, exact norms."""

import copy
import math

import mpmath
import pytest
import torch
from torch import nn

from merkhet.ckn.activation_series import (
    ACTIVATIONS,
    activation_coefficients,
    activation_norm,
    log_activation_norm,
    why_infinite,
)
from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import HomogeneousNetwork
from merkhet.core.errors import InputError

PRECISE = {
    "smooth_relu": lambda u: (
        (u + u * mpmath.erf(u) + mpmath.exp(-u * u) / mpmath.sqrt(mpmath.pi)) / 2
    ),
    "linear": lambda u: u,
    "square": lambda u: u * u,
    "sine": mpmath.sin,
    "exp": mpmath.exp,
}
KERNELS = (
    DotProductKernel("exp", 0.8),
    DotProductKernel("inverse"),
    DotProductKernel("poly"),
    DotProductKernel("relu"),
)


def slow(layer: HomogeneousConv2d, x: torch.Tensor) -> torch.Tensor:
    """Return what the layer answers, patch by patch."""
    side = layer.kernel_size
    before = (side - 1) // 2
    if layer.padding == "same":
        margin = (before, side - 1 - before)
        x = nn.functional.pad(x, margin * 2)
    rows, columns = x.shape[2] - side + 1, x.shape[3] - side + 1
    found = x.new_zeros(len(x), layer.out_channels, rows, columns)
    for i in range(rows):
        for j in range(columns):
            z = x[:, :, i : i + side, j : j + side].flatten(1)
            norm = z.norm(dim=1, keepdim=True)
            answer = norm * ACTIVATIONS[layer.activation](z @ layer.weight.flatten(1).T / norm)
            found[:, :, i, j] = torch.where(norm > 0, answer, 0)
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_coefficients_are_the_derivatives_at_zero(activation):
    with mpmath.workdps(60):
        wanted = [float(a) for a in mpmath.taylor(PRECISE[activation], 0, 15)]
    found = activation_coefficients(activation, 16)
    torch.testing.assert_close(
        found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)
    values = torch.tensor([float(PRECISE[activation](float(v))) for v in u], dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[activation](u), values, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_series_is_the_precise_sum_and_never_below(activation, kernel):
    square = 0.5
    a = activation_coefficients(activation, 120)
    b = kernel.coefficients(120)
    if any(x != 0 and y == 0 for x, y in zip(a[:20], b[:20], strict=True)):
        assert activation_norm(activation, kernel, square) == math.inf
        assert "has none" in why_infinite(activation, kernel, math.log(square))
        return
    terms = [x * x / y * square**j for j, (x, y) in enumerate(zip(a, b, strict=True)) if x and y]
    wanted = math.fsum(float(term) for term in terms)
    found = activation_norm(activation, kernel, square)
    assert wanted * (1 - 1e-14) <= found <= wanted * (1 + 1e-11)


def test_closed_forms():
    x, sigma = 1.7, 0.8
    exp = DotProductKernel("exp", sigma)
    linear = activation_norm("linear", exp, x)
    assert linear == pytest.approx(math.exp(sigma**-2) * sigma**2 * x, rel=1e-12)
    # sum of s^(2j) j! / j!^2 x^j
    whole = activation_norm("exp", exp, x)
    assert whole == pytest.approx(math.exp(sigma**-2 + sigma**2 * x), rel=1e-12)
    arc = activation_norm("smooth_relu", DotProductKernel("relu"), x)
    assert arc == pytest.approx((2 * x + math.cosh(2 * x)) / 4, rel=1e-12)
    assert activation_norm("square", DotProductKernel("poly"), x) == pytest.approx(4 * x * x)
    assert activation_norm("smooth_relu", exp, 0.0) == pytest.approx(
        math.exp(sigma**-2) / (4 * math.pi)
    )


def test_exponential_kernel_and_its_boundary():
    kernel = DotProductKernel("exp", 1.0)
    m = mpmath.mpf(1) / 2

    def precise(square):
        first = mpmath.e * (1 / (4 * mpmath.pi) + square / 4)
        # sum over j = 2m + 2 of e j! / (pi m!^2 (2m+1)^2 (2m+2)^2) x^j, a 3F2 of 4 x^2
        rest = mpmath.hyp3f2(m, m, 1, 1.5, 2, 4 * square**2) if square < 0.5 else None
        scale = mpmath.e * 2 / (4 * mpmath.pi) * square**2
        if rest is None:
            rest = mpmath.hyper([m, m, 1], [1.5, 2], 1)
        return float(first + scale * rest)

    for square in (0.1, 0.4, 0.49, 0.4999, 0.5):
        found, wanted = activation_norm("smooth_relu", kernel, square), precise(square)
        assert wanted * (1 - 1e-13) <= found <= wanted * (1 + 1e-7)
    assert activation_norm("smooth_relu", kernel, 0.5 + 1e-9) == math.inf
    assert "up to a squared norm of 0.5" in why_infinite("smooth_relu", kernel, math.log(0.6))


def test_series_grows_and_stays_in_log_scale():
    kernel = DotProductKernel("inverse")
    logs = [log_activation_norm("smooth_relu", kernel, value) for value in (-30.0, 0, 3, 7, 10)]
    assert logs == sorted(logs)
    assert logs[3] > 2000
    assert log_activation_norm("smooth_relu", kernel, 40.0) == math.inf
    with pytest.raises(InputError, match="squared norm"):
        activation_norm("linear", kernel, -1.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("padding", "side"), [("same", 3), ("same", 2), ("valid", 2)])
def test_layer_is_the_slow_form_and_keeps_scale(activation, padding, side):
    layer = HomogeneousConv2d(2, 3, side, activation, padding, seed=1).double()
    x = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    x[:, :, :3, :3] = 0
    torch.testing.assert_close(layer(x), slow(layer, x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(layer(3 * x), 3 * layer(x), rtol=1e-12, atol=1e-14)


def test_gradients_are_right_and_finite_at_zero_patches():
    layer = HomogeneousConv2d(1, 2, 2, seed=3).double()
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))
    empty = torch.zeros(1, 1, 4, 4, requires_grad=True)
    layer = layer.float()
    answer = layer(empty)
    answer.sum().backward()
    assert not answer.any()
    assert empty.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_module_behaves():
    state = torch.get_rng_state()
    layer = HomogeneousConv2d(3, 4, 3, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(layer.weight, HomogeneousConv2d(3, 4, 3, seed=5).weight)
    x = torch.randn(2, 3, 6, 6)
    other = HomogeneousConv2d(3, 4, 3, seed=6)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(copy.deepcopy(other)(x), layer(x))
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("pooled", [False, True])
def test_network_divides_by_the_norms_of_the_kernel_map(pooled):
    kernel = DotProductKernel("inverse")
    first, second = HomogeneousConv2d(1, 2, 2, "square", seed=0), HomogeneousConv2d(2, 2, 2, seed=1)
    pooling = GaussianPool2d(2) if pooled else nn.Identity()
    network = HomogeneousNetwork(first, pooling, second, kernel=kernel).double()
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    # the squared norms at the second layer by the definition: explicit patches and kernels
    patches = nn.functional.unfold(nn.functional.pad(x, (0, 1, 0, 1)), 2)[0].T
    norms = patches.norm(dim=1)
    gram = norms[:, None] * norms * kernel.value(patches @ patches.T / (norms[:, None] * norms))
    grid = torch.eye(16).double().view(16, 1, 4, 4)
    pool = pooling(grid).flatten(1).T
    side = 2 if pooled else 4
    gram = pool @ gram @ pool.T
    shifts = nn.functional.pad(torch.arange(side * side).view(side, side), (0, 1, 0, 1), value=-1)
    for place in range(side * side):
        i, j = divmod(place, side)
        inside = [int(v) for v in shifts[i : i + 2, j : j + 2].flatten() if v >= 0]
        norm = sum(gram[v, v] for v in inside).sqrt()
        maps = nn.functional.pad(pooling(first(x)), (0, 1, 0, 1))[0, :, i : i + 2, j : j + 2]
        wanted = norm * ACTIVATIONS["smooth_relu"](second.weight.flatten(1) @ maps.flatten() / norm)
        torch.testing.assert_close(network(x)[0, :, i, j], wanted, rtol=1e-12, atol=1e-13)
    flat = torch.zeros_like(x, requires_grad=True)
    network(flat).sum().backward()
    assert flat.grad.isfinite().all()


def test_network_exports_copies_and_keeps_scale():
    network = HomogeneousNetwork(
        HomogeneousConv2d(1, 2, 3),
        nn.AvgPool2d(2),
        HomogeneousConv2d(2, 2, 3, seed=1),
        nn.Flatten(),
        kernel=DotProductKernel("exp"),
    )
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(copy.deepcopy(network)(4 * x), 4 * network(x))
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
    torch.testing.assert_close(network.double()(x.double()).float(), network.float()(x))


def test_gaussian_pool_keeps_constants_and_reflections():
    pool = GaussianPool2d(2)
    torch.testing.assert_close(pool(torch.ones(1, 2, 7, 6)), torch.ones(1, 2, 4, 3))
    x = torch.randn(1, 1, 7, 7)
    torch.testing.assert_close(pool(x.flip(-1)), pool(x).flip(-1))


def test_refusals():
    layer = HomogeneousConv2d(2, 3, 3, padding="valid")
    with pytest.raises(InputError, match="give \\(pictures, 2"):
        layer(torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match="patches of side 3"):
        layer(torch.zeros(1, 2, 2, 4))
    with pytest.raises(InputError, match="no activation 'relu'"):
        HomogeneousConv2d(1, 1, 1, "relu")
    with pytest.raises(InputError, match="depend on the kernel"):
        HomogeneousNetwork(layer, nn.AvgPool2d(2), HomogeneousConv2d(3, 1, 1))
    with pytest.raises(InputError, match="ReLU between convolutions"):
        HomogeneousNetwork(layer, nn.ReLU(), HomogeneousConv2d(3, 1, 1))
