"""Bounds of a CNN's norm against exact kernels of several layers, computed the slow way."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_gegenbauer, roots_gegenbauer
from torch import nn

from merkhet.ckn.activation_series import activation_norm, smooth_relu
from merkhet.ckn.cnn_norm import cnn_norm_bound
from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import HomogeneousNetwork
from merkhet.core.errors import InputError

INVERSE = DotProductKernel("inverse")
EXP = DotProductKernel("exp", 0.7)
ARC = DotProductKernel("relu")


def slow_gram(network, images, kernel):
    """Return K(x, x') of all pairs of images, (n, n): the kernel map's Gram, layer by layer.

    All pairs of positions of all images are kept: rows of `gram` are (image, position).
    """
    n, _, rows, columns = images.shape
    points = images.flatten(2).mT.flatten(0, 1)
    gram = points @ points.T
    for layer in network.modules():
        if isinstance(layer, HomogeneousConv2d):
            reads, rows, columns = patch_matrices(layer, rows, columns)
            gram = sum(on_both(gram, read, n) for read in reads) / layer.kernel_size**2
            norms = gram.diagonal().sqrt()
            scale = norms[:, None] * norms
            gram = torch.where(scale > 0, scale * kernel.value(gram / scale), 0)
        elif isinstance(layer, GaussianPool2d | nn.AvgPool2d):
            units = torch.eye(rows * columns).double().view(-1, 1, rows, columns)
            pooled = layer(units)
            rows, columns = pooled.shape[2:]
            gram = on_both(gram, pooled.flatten(1).T, n)
    return torch.einsum("iaja->ij", gram.view(n, rows * columns, n, rows * columns))


def on_both(gram, matrix, n):
    """Apply a matrix of positions to both sides of every pair of images."""
    old = matrix.shape[1]
    blocks = gram.view(n, old, n, old)
    return torch.einsum("pa,iajb,qb->ipjq", matrix, blocks, matrix).reshape(n * len(matrix), -1)


def patch_matrices(layer, rows, columns):
    """Return, for each offset of the patch, the matrix that reads positions there."""
    side = layer.kernel_size
    before = (side - 1) // 2 if layer.padding == "same" else 0
    lost = 0 if layer.padding == "same" else side - 1
    new_rows, new_columns = rows - lost, columns - lost
    reads = []
    for i in range(side):
        for j in range(side):
            read = torch.zeros(new_rows, new_columns, rows, columns).double()
            for r in range(new_rows):
                for c in range(new_columns):
                    y, x = r + i - before, c + j - before
                    if 0 <= y < rows and 0 <= x < columns:
                        read[r, c, y, x] = 1
            reads.append(read.view(new_rows * new_columns, -1))
    return reads, new_rows, new_columns


def pictures(n, channels=1, side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, side, side, generator=generator).double()


def norm_on(gram, values, ridge=1e-9):
    """Return f^T (K + ridge)^(-1) f of each column: at most the squared norm of f."""
    eye = torch.eye(len(gram)).double() * gram.diagonal().mean()
    return (values * torch.linalg.solve(gram + ridge * eye, values)).sum(0)


def conv(*numbers, scale=1.0, **options):
    layer = HomogeneousConv2d(*numbers, **options)
    layer.weight.data *= scale
    return layer


def linear(inputs, outputs, bias=False, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs, bias=bias)


NETWORKS = {
    "one layer, same": lambda: (
        nn.Sequential(conv(1, 3, 3, seed=1), nn.Flatten(), linear(48, 2)),
        INVERSE,
    ),
    "valid, then pooled, exp": lambda: (
        nn.Sequential(
            conv(1, 3, 2, padding="valid", seed=1, scale=0.7),
            GaussianPool2d(2),
            nn.Flatten(),
            linear(12, 2),
        ),
        EXP,
    ),
    "two layers, relu kernel": lambda: (
        HomogeneousNetwork(
            conv(1, 2, 2, seed=1, scale=0.6),
            conv(2, 2, 2, seed=2, scale=0.6),
            nn.Flatten(),
            linear(32, 2),
        ),
        ARC,
    ),
    "pooling between, squares": lambda: (
        HomogeneousNetwork(
            conv(1, 2, 2, activation="square", seed=1),
            nn.AvgPool2d(2),
            conv(2, 3, 2, activation="sine", seed=2),
            nn.Flatten(),
            linear(12, 2),
            kernel=INVERSE,
        ),
        INVERSE,
    ),
    "three layers, linear": lambda: (
        HomogeneousNetwork(
            conv(1, 2, 2, activation="linear", seed=1),
            conv(2, 2, 2, activation="linear", padding="valid", seed=2),
            conv(2, 2, 2, activation="linear", padding="valid", seed=3),
            nn.Flatten(),
            linear(8, 2),
        ),
        DotProductKernel("poly"),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_hold_for_the_exact_kernel(name):
    network, kernel = NETWORKS[name]()
    network.double()
    images = pictures(60)
    gram = slow_gram(network, images, kernel)
    values = network(images).detach()
    bound = cnn_norm_bound(network, (1, 4, 4), kernel)
    found = norm_on(gram, values)
    for logs in (bound.log_layerwise, bound.log_spectral, bound.log_gram):
        assert logs.isfinite().all()
        assert (found <= logs.exp()).all(), found / logs.exp()
    assert (bound.log_gram <= bound.log_layerwise + 1e-9).all()
    assert (bound.norm**2 <= bound.log_gram.exp() * (1 + 1e-9)).all()
    # values and differences against those of the kernel map
    assert (values.abs() <= bound.norm * gram.diagonal().sqrt()[:, None]).all()
    moved = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    gaps = (values[:, None] - values[None]).abs()
    assert (gaps <= bound.norm * moved.clamp(min=0).sqrt()[..., None] + 1e-12).all()
    pair = cnn_norm_bound(network, (1, 4, 4), kernel, differences=True)
    between = norm_on(gram, values[:, :1] - values[:, 1:])
    assert between <= pair.norm[0, 1] ** 2
    assert pair.log_gram[0, 1] == pytest.approx(float(pair.log_gram[1, 0]))
    assert pair.log_layerwise.diagonal().max() == -math.inf


@pytest.mark.parametrize("layers", [1, 2])
def test_patch_normalisation_is_needed(layers):
    """Without the factor |S| of a single layer the figure would be below the norm."""
    convolutions = [
        conv(1, 1, 2, activation="linear", padding="valid", seed=place + 3)
        for place in range(layers)
    ]
    network = HomogeneousNetwork(*convolutions, nn.Flatten(), linear(1, 1)).double()
    kernel = DotProductKernel("exp", 1.5)
    side = layers + 1
    images = pictures(300, side=side)
    found = norm_on(slow_gram(network, images, kernel), network(images).detach(), 1e-11)
    bound = cnn_norm_bound(network, (1, side, side), kernel).norm ** 2
    assert bound / 4 < found < bound


def exact_squared_norm(activation, kernel, length, dims):
    """Return the squared norm of z -> |z| s(<g, z> / |z|) in R^dims, by Funk and Hecke.

    On the sphere both s(<g, .>) and k are series of the same zonal polynomials P_l, and the norm
    is the sum of N(l) s_l^2 / k_l over the degrees l that are not lost in rounding.
    """
    alpha = dims / 2 - 1
    nodes, weights = roots_gegenbauer(80, alpha)  # the sphere's measure of a coordinate
    t = torch.from_numpy(nodes)

    def part(values, degree):
        zonal = eval_gegenbauer(degree, alpha, nodes) / eval_gegenbauer(degree, alpha, 1.0)
        return float((values.numpy() * zonal * weights).sum() / weights.sum())

    total = 0.0
    for degree in range(7):
        of_s, of_k = part(activation(length * t), degree), part(kernel.value(t), degree)
        count = math.comb(dims + degree - 1, degree)
        count -= math.comb(dims + degree - 3, degree - 2) if degree > 1 else 0
        total += count * of_s**2 / of_k
    return total


def test_series_is_the_norm_of_a_neuron_in_many_dimensions():
    series = activation_norm("smooth_relu", INVERSE, 0.8**2)
    gaps = [series - exact_squared_norm(smooth_relu, INVERSE, 0.8, d) for d in (16, 64, 256)]
    assert min(gaps) > 0
    # the zonal parts of u^j differ from u^j by terms of order 1 / d
    assert np.all(np.array(gaps[1:]) < 0.35 * np.array(gaps[:-1]))
    network = nn.Sequential(conv(5, 1, 1), nn.Flatten(), linear(1, 1)).double()
    network[2].weight.data.fill_(1.0)
    network[0].weight.data *= 0.8 / network[0].weight.norm()
    bound = cnn_norm_bound(network, (5, 1, 1), INVERSE)
    wanted = math.log(series)
    for logs in (bound.log_layerwise, bound.log_spectral, bound.log_gram):
        assert float(logs) == pytest.approx(wanted, abs=1e-8)
        assert float(logs) >= wanted


def test_bounds_are_the_formulas():
    """With s = exp and the kernel exp((u - 1) / sigma^2), C^2(x) = exp(1 / sigma^2 + sigma^2 x)."""
    options = {"activation": "exp", "scale": 0.4}
    first, second = conv(2, 3, 2, seed=1, **options), conv(3, 2, 3, seed=2, **options)
    network = HomogeneousNetwork(first, second, nn.Flatten(), linear(18, 2)).double()

    def series(x):
        return torch.exp(0.7**-2 + 0.7**2 * x)

    w1, w2 = first.weight.detach(), second.weight.detach()
    head = network[3].weight.detach().view(2, 2, 9)
    inner = series(w1.square().sum((1, 2, 3)))
    outer = series(3 * (w2.square().sum((2, 3)) @ inner))
    layerwise = 2 * head.square().sum(2) @ outer
    # the constant term is that of every filter
    total = series(w1.square().sum()) + 2 * series(torch.zeros(()).double())
    sizes = sum(
        torch.linalg.matrix_norm(w2[:, :, i, j], 2) ** 2 for i in (0, 1, 2) for j in (0, 1, 2)
    )
    spectral = series(sizes * total) + series(torch.zeros(()).double())
    spectral = head.square().sum((1, 2)) * spectral
    g1 = series(w1.flatten(1) @ w1.flatten(1).T)
    g2 = series(torch.einsum("ijab,jk,lkab->il", w2, g1, w2))
    gram = torch.einsum("oiu,ij,oju->o", head, g2, head)
    bound = cnn_norm_bound(network, (2, 3, 3), EXP)
    for logs, wanted, slack in (
        (bound.log_layerwise, layerwise, 1e-9),
        (bound.log_spectral, spectral, 1e-9),
        (bound.log_gram, gram, 1e-7),
    ):
        excess = logs - (4 * 9 * wanted).log()
        assert (excess >= 0).all()
        assert (excess < slack).all()


def test_inner_products_are_used():
    """Two filters that answer alike and are subtracted leave nothing but the Gram form knows."""
    network = nn.Sequential(conv(1, 2, 2), nn.Flatten(), linear(32, 1)).double()
    network[0].weight.data[1] = network[0].weight.data[0]
    network[2].weight.data[0, 16:] = -network[2].weight.data[0, :16]
    bound = cnn_norm_bound(network, (1, 4, 4), INVERSE)
    assert bound.log_gram < bound.log_layerwise - 15


def test_layers_that_divide_by_their_own_norms_leave_the_space():
    """|<w, x>| of two such layers has no finite norm: it passes what the formula would say."""
    first, second = conv(2, 1, 1, activation="linear"), conv(1, 1, 1, activation="square")
    own = nn.Sequential(first, second, nn.Flatten(), linear(1, 1)).double()
    shared = HomogeneousNetwork(*own)
    turns = torch.arange(40).double() * (2 * math.pi / 40)
    images = torch.stack([turns.cos(), turns.sin()], 1)[..., None, None]
    gram = slow_gram(own, images, INVERSE)
    bound = cnn_norm_bound(shared, (2, 1, 1), INVERSE).norm ** 2
    assert norm_on(gram, shared(images).detach(), 1e-13) <= bound
    assert norm_on(gram, own(images).detach(), 1e-13) > 10 * bound
    with pytest.raises(InputError, match="use HomogeneousNetwork"):
        cnn_norm_bound(own, (2, 1, 1), INVERSE)


def test_spectral_form_counts_the_constant_of_every_filter():
    """With filters of norm 0 each f^i is |z| s(0): p of them, which one constant would miss."""
    network = nn.Sequential(conv(1, 8, 1), nn.Flatten(), linear(8, 1)).double()
    network[0].weight.data.zero_()
    network[2].weight.data.fill_(1.0)
    bound = cnn_norm_bound(network, (1, 1, 1), INVERSE)
    truth = 64 * activation_norm("smooth_relu", INVERSE, 0.0)
    for logs in (bound.log_layerwise, bound.log_spectral, bound.log_gram):
        assert float(logs) == pytest.approx(math.log(truth), abs=1e-8)


def test_infinite_bounds_say_why():
    network = nn.Sequential(conv(1, 2, 3, scale=3.0), nn.Flatten(), linear(32, 2)).double()
    bound = cnn_norm_bound(network, (1, 4, 4), EXP)
    assert bound.norm.max() == math.inf
    assert "layer 1" in bound.reason
    assert "converges up to" in bound.reason
    poly = cnn_norm_bound(network, (1, 4, 4), DotProductKernel("poly"))
    assert "term of degree 4" in poly.reason
    big = HomogeneousNetwork(*[conv(1, 1, 3, scale=9.0) for _ in range(3)], nn.Flatten())
    big.append(linear(16, 1))
    assert "too large" in cnn_norm_bound(big, (1, 4, 4), INVERSE).reason


def test_bias_is_named_and_left_out():
    plain, biased = (
        nn.Sequential(conv(1, 2, 3), nn.Flatten(), linear(32, 2, bias=bias)) for bias in (0, 1)
    )
    biased[2].weight.data.copy_(plain[2].weight.data)
    first, second = (cnn_norm_bound(net, (1, 4, 4), INVERSE) for net in (plain, biased))
    assert torch.equal(first.norm, second.norm)
    assert (first.bias, second.bias) == (False, True)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([conv(1, 2, 3), nn.ReLU(), nn.Flatten(), linear(32, 1)], "layer 1 .*kink"),
        ([conv(1, 2, 3), nn.Tanh(), nn.Flatten(), linear(32, 1)], "layer 1 .*scale"),
        ([conv(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), linear(8, 1)], "layer 1 .*not linear"),
        ([conv(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), linear(32, 1)], "layer 1 .*fold"),
        ([nn.Conv2d(1, 1, 1), conv(1, 2, 3), nn.Flatten(), linear(32, 1)], "layer 0 .*Homog"),
        ([conv(1, 2, 3), nn.Flatten()], "end with nn.Linear"),
        ([conv(1, 2, 3), linear(4, 1)], "put nn.Flatten"),
        ([conv(1, 2, 3), nn.Flatten(), linear(32, 3), linear(3, 1)], "only the last"),
        ([conv(1, 2, 3), nn.Flatten(), linear(9, 1)], "reads 9 numbers"),
        ([nn.Flatten(), linear(16, 1)], "no HomogeneousConv2d"),
    ],
)
def test_other_networks_are_refused(layers, words):
    with pytest.raises(InputError, match=words):
        cnn_norm_bound(nn.Sequential(*layers), (1, 4, 4), INVERSE)


def test_other_modules_and_kernels_are_refused():
    with pytest.raises(InputError, match=r"give an nn.Sequential"):
        cnn_norm_bound(linear(2, 1), (1, 4, 4), INVERSE)
    network, _ = NETWORKS["pooling between, squares"]()
    with pytest.raises(InputError, match="give that kernel"):
        cnn_norm_bound(network, (1, 4, 4), EXP)
    broken = nn.Sequential(conv(1, 2, 3, scale=math.nan), nn.Flatten(), linear(32, 1))
    with pytest.raises(InputError, match=r"layer 0 .*NaN"):
        cnn_norm_bound(broken, (1, 4, 4), INVERSE)
