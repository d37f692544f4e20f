"""The mathematics of the layers: closed forms, slow loops, wide networks, symmetries, gradients."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels import (
    GELU,
    AvgPool2d,
    Conv2d,
    Erf,
    Exponential,
    Flatten,
    GaussianPool2d,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sine,
    Sum,
    gram,
)

DOUBLE = {"dtype": torch.float64}
RELU, OUT, FIRST = ReLU(), Linear(), Linear(weight_std=1.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def arc_cosines(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return k0 and k1 of cosines of any shape (Cho & Saul, NIPS 2009)."""
    u = np.clip(u, -1, 1)
    k0 = (np.pi - np.arccos(u)) / np.pi
    return k0, u * k0 + np.sqrt(1 - u**2) / np.pi


# The papers' formulas


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_dense_networks_are_the_papers_recursion(depth: int) -> None:
    """S_k = N k1(u), K_k = S_k + K_(k-1) k0(u), d times ours (Bietti & Mairal 2019, Section 2)."""
    x, y = normal(4, 6), normal(5, 6, seed=1)
    s = t = (x @ y.T).numpy()
    norms = np.outer(x.norm(dim=1), y.norm(dim=1))
    for _ in range(depth):
        k0, k1 = arc_cosines(s / norms)
        s, t = norms * k1, norms * k1 + t * k0
    found = gram(Sequential(FIRST, *(RELU, OUT) * depth), x, y, kind="both", **DOUBLE)
    np.testing.assert_allclose(6 * found.nngp, s, rtol=1e-13)
    np.testing.assert_allclose(6 * found.ntk, t, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_exponential_layers_are_the_papers_kernel(sigma: float) -> None:
    """N exp((u - 1) / sigma^2), layer upon layer (Bietti & Mairal, JMLR 2019, Section 2.1)."""
    x = normal(5, 4)
    norms, u = np.outer(x.norm(dim=1), x.norm(dim=1)), (x @ x.T).numpy()
    u = u / norms
    for depth in (1, 2, 3):
        u = np.exp((u - 1) / sigma**2)
        network = Sequential(FIRST, *(Exponential(sigma), OUT) * depth)
        np.testing.assert_allclose(
            4 * gram(network, x, kind="nngp", **DOUBLE), norms * u, rtol=1e-12
        )


def patches(s: np.ndarray) -> np.ndarray:
    """P S P^T of patches of 3 x 3 with zeros around, s (h, w, h, w), a pair at a time."""
    height, width = s.shape[:2]
    found = np.zeros_like(s)
    for i, j, k, q in product(*map(range, s.shape)):
        for a, b in product((-1, 0, 1), repeat=2):
            rows, columns = (i + a, k + a), (j + b, q + b)
            if min(*rows, *columns) >= 0 and max(rows) < height and max(columns) < width:
                found[i, j, k, q] += s[rows[0], columns[0], rows[1], columns[1]] / 9
    return found


def gaussian(length: int, factor: int) -> np.ndarray:
    """The pooling's weights (positions after, before), an entry at a time."""
    count = math.ceil(length / factor)
    found = np.zeros((count, length))
    for place, at in product(range(count), range(length)):
        centre = (length - 1) / 2 + factor * (place - (count - 1) / 2)
        if abs(at - centre) <= factor:
            found[place, at] = math.exp(-((at - centre) ** 2) / factor**2)
    return found / found.sum(1, keepdims=True)


def slow_convolutions(x: np.ndarray, y: np.ndarray, head: str) -> tuple[float, float]:
    """S and T of two layers, Gaussian pooling 2 then 3, by the reference's formulas."""
    s = {
        pair: patches(np.einsum("chw,ckq->hwkq", *pair_of(pair, x, y)))
        for pair in ("xx", "yy", "xy")
    }
    t = s["xy"]
    for layer, factor in enumerate((2, 3)):
        if layer:
            s, t = {pair: patches(one) for pair, one in s.items()}, patches(t)
        own = {end: np.einsum("hwhw->hw", s[end * 2]) for end in "xy"}
        norms = {p: np.sqrt(np.multiply.outer(own[p[0]], own[p[1]])) for p in s}
        cosines = {p: arc_cosines(one / norms[p]) for p, one in s.items()}
        s = {p: norms[p] * k1 for p, (_, k1) in cosines.items()}
        t = s["xy"] + cosines["xy"][0] * t
        rows, columns = (gaussian(length, factor) for length in t.shape[:2])
        along = (rows, columns, rows, columns)
        s = {p: np.einsum("ah,bw,ck,dq,hwkq->abcd", *along, one) for p, one in s.items()}
        t = np.einsum("ah,bw,ck,dq,hwkq->abcd", *along, t)
    ends = (s["xy"], t)
    if head == "trace":
        return tuple(float(np.einsum("hwhw->", one)) for one in ends)
    return tuple(float(one.mean()) for one in ends)


def pair_of(pair: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return {"xx": (x, x), "yy": (y, y), "xy": (x, y)}[pair]


@pytest.mark.parametrize("head", ["trace", "mean"])
def test_convolutional_networks_are_the_papers_formulas(head: str) -> None:
    """Channels and positions times ours with Flatten, channels times ours with the global mean."""
    x, y = normal(2, 2, 7, 5), normal(3, 2, 7, 5, seed=1)
    first = (Conv2d(3, weight_std=1.0), RELU, GaussianPool2d(2))
    second = (Conv2d(3), RELU, GaussianPool2d(3))
    last = Flatten() if head == "trace" else GlobalAvgPool2d()
    found = gram(Sequential(*first, *second, last, OUT), x, y, kind="both", **DOUBLE)
    scale = 2 * (2 * 1 if head == "trace" else 1)  # 7x5 pooled to 4x3 and 2x1
    for i, j in product(range(2), range(3)):
        s, t = slow_convolutions(x[i].numpy(), y[j].numpy(), head)
        assert float(found.nngp[i, j]) * scale == pytest.approx(s, rel=1e-12)
        assert float(found.ntk[i, j]) * scale == pytest.approx(t, rel=1e-12)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        (3, 1, 1),
        (3, 2, 0),
        ((2, 3), (3, 1), (1, 2)),
        (4, (2, 3), 3),
        (1, 2, 0),
        ((5, 1), 1, (4, 0)),
    ],
)
def test_patches_are_those_of_torch(size: object, stride: object, padding: object) -> None:
    x = normal(3, 2, 5, 6)
    unfolded = F.unfold(x, size, stride=stride, padding=padding)  # (n, c patch, positions)
    wanted = torch.einsum("nkp,mkp->nm", unfolded, unfolded) / unfolded[0].numel()
    network = Sequential(Conv2d(size, stride, padding, weight_std=1.0), Flatten())
    torch.testing.assert_close(
        gram(network, x, kind="nngp", **DOUBLE), wanted, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("window", [2, (3, 1), (5, 6)])
@pytest.mark.parametrize("stride", [None, 1, (2, 3)])
def test_averages_are_those_of_torch(window: object, stride: object) -> None:
    x = normal(3, 2, 5, 6)
    pooled = F.avg_pool2d(x, window, stride).flatten(1)
    network = Sequential(Conv2d(1, weight_std=1.0), AvgPool2d(window, stride), Flatten())
    wanted = pooled @ pooled.T / pooled.shape[1]
    torch.testing.assert_close(
        gram(network, x, kind="nngp", **DOUBLE), wanted, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("act", [Erf(), GELU(), Sine(), LeakyReLU(0.2)], ids=repr)
def test_duals_are_expectations(act: Layer) -> None:
    """E[s(u) s(v)] and E[s'(u) s'(v)] by quadrature."""
    a, b, c = 0.7, 1.3, torch.linspace(-0.9, 0.9, 7, **DOUBLE)
    variances = torch.tensor([a, b], **DOUBLE)
    found = act.dual(c, *variances), act.slope(c, *variances)
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(140))
    density = torch.outer(weights, weights) / (2 * math.pi)
    u = (math.sqrt(a) * nodes)[:, None]
    root = (b - c**2 / a).sqrt()[:, None, None]
    v = (c / math.sqrt(a))[:, None, None] * nodes[:, None] + root * nodes
    wanted = [(of(u) * of(v) * density).sum((1, 2)) for of in functions(act)]
    rough = isinstance(act, LeakyReLU)  # quadrature sees its kink
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 if rough else 1e-9)


def functions(act: Layer):
    """Return an activation and its slope."""
    normal_cdf = torch.special.ndtr
    return {
        Erf: (torch.erf, lambda z: 2 / math.sqrt(math.pi) * (-z * z).exp()),
        GELU: (
            lambda z: z * normal_cdf(z),
            lambda z: normal_cdf(z) + z * (-z * z / 2).exp() / math.sqrt(2 * math.pi),
        ),
        Sine: (torch.sin, torch.cos),
        LeakyReLU: (
            lambda z: F.leaky_relu(z, 0.2),
            lambda z: torch.where(z > 0, 1.0, 0.2).double(),
        ),
    }[type(act)]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("act", [Erf(), GELU()], ids=repr)
def test_variances_may_be_large(act: Layer, scale: float) -> None:
    """At equal units a: E[s'^2] = 4 / (pi sqrt(1 + 4 a)) and, of GELU, near 1/2."""
    a = torch.tensor([scale**2]).double()
    found, dual = float(act.slope(a, a, a)), float(act.dual(a, a, a))
    if isinstance(act, Erf):
        assert dual == pytest.approx(
            2 / math.pi * math.atan2(2 * scale**2, math.sqrt(1 + 4 * scale**2)), rel=1e-9
        )
        assert found == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * scale**2), rel=1e-9)
    elif scale >= 1e3:
        assert found == pytest.approx(0.5, abs=1 / scale)
        assert dual == pytest.approx(scale**2 / 2, rel=1 / scale)


# Wide networks


def test_a_wide_network_of_torch_has_these_kernels() -> None:
    """Convolution, pooling, two dense layers; the bias of finite width is O(1 / width)."""
    width, samples = 96, 60
    network = Sequential(
        *(Conv2d(3, bias_std=0.3), LeakyReLU(0.2), AvgPool2d(2), Flatten()),
        *(Linear(bias_std=0.2), RELU, Linear(bias_std=0.1)),
    )
    x, generator = normal(3, 2, 4, 4), torch.Generator().manual_seed(5)
    exact, ntks, nngps = gram(network, x, kind="both", **DOUBLE), [], []
    for _ in range(samples):
        shapes = ((width, 2, 3, 3), (width,), (width, 4 * width), (width,), (1, width), (1,))
        theta = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        outputs, hidden = wide(x, [one.requires_grad_() for one in theta])
        slopes = [
            torch.cat([g.flatten() for g in torch.autograd.grad(f, theta, retain_graph=True)])
            for f in outputs[:, 0]
        ]
        ntks.append(torch.stack(slopes) @ torch.stack(slopes).T)
        nngps.append((2 * hidden @ hidden.T / width + 0.01).detach())
    for found, wanted in ((ntks, exact.ntk), (nngps, exact.nngp)):
        mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / samples**0.5
        assert float((error / wanted).max()) < 0.04  # or the test tells little
        assert bool(((mean - wanted).abs() < 4 * error + wanted / width).all())


def wide(x: Tensor, theta: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return outputs (n, 1) and the last hidden layer (n, width)."""
    scales = [math.sqrt(2 / one[0].numel()) for one in theta[::2]]
    maps = F.conv2d(x, scales[0] * theta[0], 0.3 * theta[1], padding=1)
    pooled = F.avg_pool2d(F.leaky_relu(maps, 0.2), 2).flatten(1)
    hidden = F.linear(pooled, scales[1] * theta[2], 0.2 * theta[3]).relu()
    return F.linear(hidden, scales[2] * theta[4], 0.1 * theta[5]), hidden


# Symmetries and bounds

NETWORKS = {
    "dense": (Sequential(OUT, RELU, OUT, RELU, OUT), (6,)),
    "equal positions": (Sequential(*(Conv2d(3), RELU) * 2, Flatten(), OUT), (2, 5, 4)),
    "all positions": (
        Sequential(*(Conv2d(3), RELU, AvgPool2d(2)), Conv2d(3), LeakyReLU(0.2), GlobalAvgPool2d()),
        (2, 6, 4),
    ),
    "residual": (
        Sequential(*(Conv2d(3), Residual(Sequential(RELU, Conv2d(3)))), RELU, Flatten(), OUT),
        (2, 4, 5),
    ),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[Layer, Tensor]:
    network, shape = NETWORKS[request.param]
    return network, normal(8, *shape)


def test_kernels_are_homogeneous(case: tuple[Layer, Tensor]) -> None:
    """K(s x, t y) = s t K(x, y) for s, t > 0, without biases."""
    network, x = case
    for kind in ("ntk", "nngp"):
        wanted = gram(network, x, x[:3].flip(-1), kind=kind, **DOUBLE)
        found = gram(network, 3e4 * x, 1e-3 * x[:3].flip(-1), kind=kind, **DOUBLE)
        torch.testing.assert_close(found, 30 * wanted, rtol=1e-12, atol=1e-12)


def test_gram_matrices_have_no_negative_eigenvalue(case: tuple[Layer, Tensor]) -> None:
    """With copies, opposites and zero among the inputs, up to the root of the rounding."""
    network, x = case
    x = torch.cat([x, x[:2], -x[:2], 0 * x[:1], 2 * x[:1]])
    for kind in ("ntk", "nngp"):
        found = torch.linalg.eigvalsh(gram(network, x, kind=kind, **DOUBLE))
        assert float(found[0]) > -1e-7 * float(found[-1])
        assert float(found[8]) > 1e-3 * float(found[-1]) / len(x)


def test_flips_orders_and_channels_do_not_matter(case: tuple[Layer, Tensor]) -> None:
    network, x = case
    wanted = gram(network, x, **DOUBLE)
    turned = x.flip(1) if x.dim() == 2 else x.flip(1).flip(-1).flip(-2)  # odd patches, even maps
    torch.testing.assert_close(gram(network, turned, **DOUBLE), wanted, rtol=1e-12, atol=1e-13)
    order = torch.tensor([3, 1, 0, 2])
    again = gram(network, x[order], **DOUBLE)
    torch.testing.assert_close(again, wanted[order][:, order], rtol=1e-12, atol=1e-13)
    swapped = gram(network, x[:3], x[3:], **DOUBLE)
    torch.testing.assert_close(gram(network, x[3:], x[:3], **DOUBLE), swapped.T)


def test_rotations_and_translations() -> None:
    """Dense kernels know angles alone; circular ones with a global mean no places."""
    x, turn = normal(5, 6), torch.linalg.qr(normal(6, 6, seed=2))[0]
    dense = NETWORKS["dense"][0]
    torch.testing.assert_close(gram(dense, x @ turn, **DOUBLE), gram(dense, x, **DOUBLE))
    around = Conv2d(3, padding="circular")
    network = Sequential(around, RELU, around, RELU, GlobalAvgPool2d())
    pictures = normal(3, 2, 4, 5)
    moved = pictures.roll((1, 2), (-2, -1))
    wanted = gram(network, pictures, pictures.flip(0), **DOUBLE)
    torch.testing.assert_close(gram(network, moved, pictures.flip(0), **DOUBLE), wanted)


# Sums


def test_a_residual_block_adds_its_input() -> None:
    """S' = S + N k1(u), T' = T + (N k1(u) + T k0(u))."""
    x, y = normal(4, 5), normal(3, 5, seed=1)
    found = gram(Sequential(FIRST, Residual(Sequential(RELU, OUT))), x, y, kind="both", **DOUBLE)
    s = (x @ y.T / 5).numpy()
    norms = np.outer(x.norm(dim=1), y.norm(dim=1)) / 5
    k0, k1 = arc_cosines(s / norms)
    np.testing.assert_allclose(found.nngp, s + norms * k1, rtol=1e-12)
    np.testing.assert_allclose(found.ntk, s + norms * k1 + s * k0, rtol=1e-12, atol=1e-14)


def test_branches_with_weights_of_their_own_add() -> None:
    x = normal(4, 2, 4, 4)
    one = (Conv2d(3), RELU, Conv2d(1, bias_std=0.4))
    other = (Conv2d(3, padding="circular"), Erf(), Conv2d(3))
    alone = [
        gram(Sequential(*branch, Flatten()), x, kind="both", **DOUBLE) for branch in (one, other)
    ]
    both = gram(
        Sequential(Sum(Sequential(*one), Sequential(*other)), Flatten()), x, kind="both", **DOUBLE
    )
    for kind in ("nngp", "ntk"):
        parts = [getattr(found, kind) for found in alone]
        torch.testing.assert_close(getattr(both, kind), parts[0] + parts[1])


def test_what_does_not_add_is_refused() -> None:
    inside = Sequential(Conv2d(3), RELU)
    for make in (
        lambda: Residual(inside),
        lambda: Residual(RELU),
        lambda: Sum(Sequential(), Sequential()),
        lambda: Sum(inside, inside, Conv2d(3)),
    ):
        with pytest.raises(
            InputError, match=r"are not independent: all but one must end in Linear"
        ):
            make()
    with pytest.raises(InputError, match="give it branches"):
        Sum()
    with pytest.raises(InputError, match=r"Sum was given the class Linear: write Linear\(\)"):
        Sum(Linear)
    halved = Sequential(Conv2d(3), Residual(Sequential(RELU, Conv2d(3, 2))), RELU, Flatten())
    with pytest.raises(InputError, match=r"4x4 and 2x2.*must keep the size"):
        gram(halved, normal(2, 1, 4, 4))
    after = Sequential(Linear(), Sum(Sequential(RELU), OUT), RELU, OUT)  # not Gaussian
    with pytest.raises(InputError, match="needs Gaussian units"):
        gram(after, normal(2, 3))
