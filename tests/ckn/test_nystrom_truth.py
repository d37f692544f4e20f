"""The exact kernel that finite networks are held against: its definition, and their limit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from merkhet.ckn import CKN, CKNLayer, Form
from merkhet.ckn.experiments.nystrom import exact_gram, gram_of, set_random_filters
from merkhet.core.pooling import gaussian_windows

Map = list[list[list[list[float]]]]  # products of the maps at (i, j) of one, (k, l) of another
SIGMA = 0.7


def products(x: Tensor, y: Tensor) -> Map:
    """The products of pixels (channels, h, w) of two pictures."""
    return torch.einsum("cij,ckl->ijkl", x, y).tolist()


def of_patches(k: Map) -> Map:
    """Products of patches of side 3, zeros around, by sums over their positions."""
    n = len(k)
    out = torch.zeros(n, n, n, n, dtype=torch.float64).tolist()
    for i, j, a, b in torch.cartesian_prod(*[torch.arange(n)] * 4).tolist():
        for u in (-1, 0, 1):
            for v in (-1, 0, 1):
                if all(0 <= p < n for p in (i + u, j + v, a + u, b + v)):
                    out[i][j][a][b] += k[i + u][j + v][a + u][b + v]
    return out


def mapped(xy: Map, xx: Map, yy: Map, sigma: float) -> Map:
    """|z| |z'| exp((cos - 1) / sigma^2) / |S|."""
    n = len(xy)
    out = torch.zeros(n, n, n, n, dtype=torch.float64).tolist()
    for i, j, a, b in torch.cartesian_prod(*[torch.arange(n)] * 4).tolist():
        size = math.sqrt(xx[i][j][i][j] * yy[a][b][a][b])
        if size > 0:
            cosine = xy[i][j][a][b] / size
            out[i][j][a][b] = size * math.exp((cosine - 1) / sigma**2) / 9
    return out


def pooled(k: Map) -> Map:
    weights = gaussian_windows(len(k), 2)
    found = torch.tensor(k, dtype=torch.float64)
    return torch.einsum("ijab,Ii,Jj,Aa,Bb->IJAB", found, *[weights] * 4).tolist()


def slow_kernel(x: Tensor, y: Tensor, layers: int, sigma: float) -> float:
    """<Phi(x), Phi(y)> from the definition of the layers."""
    maps = [products(*pair) for pair in ((x, y), (x, x), (y, y))]
    for _ in range(layers):
        xy, xx, yy = map(of_patches, maps)
        maps = [mapped(*given, sigma) for given in ((xy, xx, yy), (xx, xx, xx), (yy, yy, yy))]
        maps = [pooled(k) for k in maps]
    n = len(maps[0])
    return sum(maps[0][i][j][i][j] for i in range(n) for j in range(n))


def few(channels: int = 1, side: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, channels, side, side, generator=generator, dtype=torch.float64)
    pictures[0, :, :3, :3] = 0  # some patches are black
    return pictures


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("channels", "side"), [(1, 5), (2, 4)])
def test_the_exact_kernel_is_that_of_the_definition(layers: int, channels: int, side: int) -> None:
    pictures = few(channels, side)
    found = exact_gram(pictures, layers, SIGMA, torch.float64)
    slow = torch.tensor(
        [[slow_kernel(x, y, layers, SIGMA) for y in pictures] for x in pictures],
        dtype=torch.float64,
    )
    # Some hundred sums and products of positive numbers: rounding of 1e-13 or so.
    assert (found - slow).abs().max() <= 1e-12 * slow.abs().max()


@torch.no_grad()
def with_all_patches(pictures: Tensor, layers: int, ridge: float) -> Tensor:
    """The Gram matrix of a network whose filters are all patches that each layer sees."""
    maps = pictures
    for _ in range(layers):
        seen = torch.nn.functional.unfold(maps, 3, padding=1).mT.flatten(0, 1)
        seen = seen[seen.norm(dim=1) > 0]
        form = Form(ridge=ridge)
        layer = CKNLayer(maps.shape[1], len(seen), 3, 2, "exp", SIGMA, form=form).double()
        layer.filters.copy_(seen / seen.norm(dim=1, keepdim=True))
        maps = layer(maps)
    return maps.flatten(1) @ maps.flatten(1).mT


@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_with_all_patches_as_filters_has_the_exact_kernel(layers: int) -> None:
    pictures = few()
    exact = exact_gram(pictures, layers, SIGMA, torch.float64)
    errors = [
        float((with_all_patches(pictures, layers, ridge) - exact).abs().max() / exact.max())
        for ridge in (1e-3, 1e-5, 1e-7)
    ]
    # The ridge takes at most itself from the kernel between unit patches that are filters; a
    # second layer has it from its own, and k'(1) = 1 / sigma^2 = 2 times from the first.
    assert all(error <= 3 * ridge for error, ridge in zip(errors, (1e-3, 1e-5, 1e-7), strict=True))
    assert errors[0] > errors[1] > errors[2] > 0


def test_a_projection_takes_from_the_kernel_and_less_with_more_filters() -> None:
    pictures = few(side=6)
    exact = exact_gram(pictures, 1, SIGMA, torch.float64)
    lost = []
    for count in (2, 8, 32):
        network = CKN(1, (count,), 3, 2, "exp", SIGMA).double()
        set_random_filters(network, pictures, torch.Generator().manual_seed(1))
        missing = exact - gram_of(network, pictures)
        # The rest of a projection is a kernel itself.
        assert torch.linalg.eigvalsh(missing)[0] > -1e-10 * exact.trace()
        lost.append(float(missing.trace() / exact.trace()))
    assert lost[0] > lost[1] > lost[2] > 0


def test_float32_is_near_float64() -> None:
    pictures = few(side=6)
    found = exact_gram(pictures, 2, SIGMA)
    exact = exact_gram(pictures, 2, SIGMA, torch.float64)
    assert (found - exact).abs().max() <= 4e-6 * exact.max()  # the compiled loops promise 2e-6
