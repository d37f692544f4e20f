"""Certified norms against dense matrices over the grid: never under, exact where said."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.linear.chain import Chain
from merkhet.core.linear.modules import steps_of
from merkhet.core.linear.steps import AdaptiveAveragePool, AveragePool, Mean, Pad, Scale, Sum
from merkhet.rkhs import fourier
from merkhet.rkhs.certified import CertifiedNorm, certified_norm
from merkhet.rkhs.dense import sums_norm
from merkhet.rkhs.fourier import Axis, torus_norm
from merkhet.rkhs.gram import LargestEigenvalue

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZES = {1: [(12,), (9,)], 2: [(6, 7), (8, 8)], 3: [(4, 3, 4)]}
MODES = ("zeros", "circular", "reflect", "replicate")
# One eigenvalue solve finds the largest eigenvalue to about 1e-13, and Cholesky is tried 1e-10
# above it: half of that on the norm, and more only after a failure.
EXACT = 1e-9


def matrix(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the matrix of a module without its bias."""
    units = torch.eye(math.prod(shape)).double().reshape(-1, *shape)
    with torch.no_grad():
        return (layer(units) - layer(torch.zeros_like(units[:1]))).flatten(1)


def check(layer: nn.Module, shape: tuple[int, ...]) -> list[CertifiedNorm]:
    """Compare the dense way and the others with the largest singular value; return both."""
    norm = float(torch.linalg.svdvals(matrix(layer, shape))[0])
    chain = Chain(steps_of(layer), shape)
    found = [certified_norm(chain), certified_norm(chain, dense_limit=0)]
    for each in found:
        assert each.value >= norm * (1 - 1e-15), (each, norm)
        if each.exact:
            assert each.value <= norm * (1 + EXACT) + 1e-300, (each, norm)
    assert found[0].exact
    return found


def draw(kind: type[nn.Module], seed: int, *given: object, **settings: object) -> nn.Module:
    """Return a layer with weights of a seed; every third has no negative ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = kind(*given, **settings).double()
    if seed % 3 == 0:
        layer.weight.data.abs_()
    return layer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(dims: int, mode: str) -> None:
    grid = itertools.product(SIZES[dims], (1, 2, 3), (0, 1, 2, "same"), (1, 2), (1, 2), (2, 3))
    for seed, (size, stride, padding, dilation, groups, kernel) in enumerate(grid):
        reach = dilation * (kernel - 1) + 1
        if (padding == "same" and stride > 1) or reach > min(size):
            continue
        if mode == "reflect" and padding == "same" and reach // 2 >= min(size):
            continue
        settings = (kernel, stride, padding, dilation, groups)
        layer = draw(CONVOLUTIONS[dims], seed, 2, 4, *settings, padding_mode=mode)
        _, other = check(layer, (2, *size))
        divides = all(n % stride == 0 for n in size)
        if mode == "circular" and divides and 2 * padding_of(padding, reach) == reach - 1:
            assert other.exact or stride > 1
            assert other.how == "Fourier, exact" or stride > 1


def padding_of(padding: int | str, reach: int) -> float:
    return (reach - 1) / 2 if padding == "same" else int(padding)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions(dims: int) -> None:
    grid = itertools.product((1, 2, 3), (0, 1, 3), (1, 3), (1, 2), (2, 3), (0, 1, 2))
    for seed, (stride, padding, dilation, groups, kernel, extra) in enumerate(grid):
        size = SIZES[dims][0]
        ends = [(n - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 for n in size]
        if extra >= max(stride, dilation) or min(ends) < 1 or math.prod(ends) > 900:
            continue
        settings = (kernel, stride, padding, extra, groups, True, dilation)
        check(draw(TRANSPOSED[dims], seed, 2, 4, *settings), (2, *size))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_circular_is_exact_where_the_stride_divides(stride: int) -> None:
    for seed, groups in enumerate((1, 2, 4)):
        given = (4, 8, 3, stride, 1, 1, groups)
        layer = draw(nn.Conv2d, seed, *given, padding_mode="circular")
        _, other = check(layer, (4, 8, 4))
        assert other.exact
        assert other.how == "Fourier, exact"


def test_patches_without_overlap_are_exact() -> None:
    for kernel, stride in ((1, 1), (1, 2), (3, 3), (2, 4)):
        _, other = check(draw(nn.Conv2d, 1, 3, 5, kernel, stride), (3, 7, 6))
        assert other.exact


@pytest.mark.parametrize("positive", [False, True])
def test_zero_padding_is_close_and_twisted_tori_bring_it_closer(positive: bool) -> None:
    layer = draw(nn.Conv2d, 1, 3, 4, 3, padding=1)
    if positive:
        layer.weight.data.abs_()
    dense, other = check(layer, (3, 16, 16))
    plain = torus_norm(layer.weight.detach()[None], (Axis(1, 1, 18, twisted=False),) * 2)
    assert other.value < plain
    assert other.value < dense.value * 1.02


def test_a_kernel_wider_than_its_input() -> None:
    check(draw(nn.Conv2d, 1, 2, 2, 5, padding=4), (2, 2, 3))
    check(draw(nn.Conv1d, 1, 2, 2, 3, padding=9, dilation=4, stride=3), (2, 2))
    none = draw(nn.Conv1d, 1, 2, 2, 1, stride=8, padding=3)
    chain = Chain(steps_of(none), (2, 2))
    assert certified_norm(chain).value == 0
    assert matrix(none, (2, 2)).abs().max() == 0


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_any_scale(scale: float) -> None:
    for padding_mode in MODES:
        layer = draw(nn.Conv2d, 1, 2, 3, 3, padding=1, padding_mode=padding_mode)
        chain = Chain(steps_of(layer), (2, 5, 6))
        plain = [certified_norm(chain, dense_limit=limit).value for limit in (1e10, 0)]
        layer.weight.data *= scale
        found = [certified_norm(chain, dense_limit=limit).value for limit in (1e10, 0)]
        assert found == pytest.approx([value * scale for value in plain], rel=1e-9)
    layer.weight.data.zero_()
    assert certified_norm(chain).value == certified_norm(chain, dense_limit=0).value == 0


def test_scalings_are_one_with_their_convolutions() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).double().eval()
    norm.running_var.copy_(torch.tensor([0.1, 1.0, 4.0, 9.0]))
    for groups in (1, 2):
        settings = {"padding": 1, "padding_mode": "circular", "groups": groups}
        layer = draw(nn.Conv2d, 1, 2, 4, 3, **settings)
        before = Scale(torch.tensor([3.0, -0.5])[:, None, None])
        chain = Chain((before, *steps_of(layer), *steps_of(norm)), (2, 6, 6))
        units = torch.eye(72).double().reshape(-1, 2, 6, 6)
        true = float(torch.linalg.matrix_norm(chain.apply(units).flatten(1), 2))
        found = certified_norm(chain, dense_limit=0)
        assert found.exact
        assert true <= found.value <= true * (1 + EXACT)


def test_chains_are_bounded_by_their_parts_or_found_whole() -> None:
    layer = nn.Sequential(
        nn.ReflectionPad2d(1),
        draw(nn.Conv2d, 1, 2, 4, 3),
        nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False, padding=1),
        nn.ConstantPad2d(1, 0.0),
        draw(nn.Conv2d, 2, 4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()
    whole, parts = check(layer, (2, 7, 7))
    assert whole.how == "dense"
    assert parts.how.startswith("product of")
    assert not parts.exact


def test_pooling_and_padding_are_exact() -> None:
    pools = [
        nn.AvgPool2d(*given, ceil_mode=ceil, count_include_pad=count)
        for given in ((2,), (3, 2, 1), (3, 1), (2, 3), (4, 3, 2))
        for ceil in (False, True)
        for count in (False, True)
    ]
    pools += [nn.AvgPool2d(3, 2, 1, divisor_override=2), nn.AdaptiveAvgPool2d((3, 5))]
    pads = [nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.ZeroPad2d]
    for layer in [*pools, *(pad((2, 1, 0, 3)) for pad in pads), nn.ZeroPad2d((-1, 2, -2, 0))]:
        for found in check(layer, (2, 7, 6)):
            assert found.how == "separable"


def test_means_and_sums() -> None:
    shape = (3, 4, 5)
    assert certified_norm(Chain((Mean((1, 2)),), shape)).value == pytest.approx(20**-0.5)
    assert certified_norm(Chain((Sum((-1,)),), shape)).value == pytest.approx(5**0.5)
    long = AveragePool((5,), (5,), (0,))
    assert certified_norm(Chain((long,), (1, 5000))).value == pytest.approx(5**-0.5)
    longer = AdaptiveAveragePool((7,))
    assert certified_norm(Chain((longer,), (1, 7000))).value == pytest.approx(1000**-0.5)
    assert certified_norm(Chain((), shape)).value == pytest.approx(1)
    assert certified_norm(Chain((Pad(((1, 1),), "replicate"),), (2, 3))).value == pytest.approx(
        2**0.5
    )


def test_between_the_points_of_a_coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(nn.Conv2d, 1, 3, 2, 3).weight.detach()[None]
    fine = torus_norm(weight, (Axis(1, 1, 240),) * 2)
    for density in (3, 8, 20):
        monkeypatch.setattr(fourier, "DENSITY", density)
        coarse = torus_norm(weight, (Axis(1, 1, 240),) * 2)
        # cos(pi / density) in each of two dimensions bounds the overshoot of the square.
        assert fine * (1 - 1e-4) <= coarse <= fine * (1 + 1e-4) / math.cos(math.pi / density)


def test_both_ways_to_the_gram_matrix_agree() -> None:
    weight = draw(nn.Conv1d, 1, 3, 3, 40).weight.detach()[None]  # 40 taps: block by block
    slow = torus_norm(weight, (Axis(1, 1, 50, twisted=False),))
    circulant = nn.Conv1d(3, 3, 40, bias=False).double()
    circulant.weight.data = weight[0]
    wrapped = matrix(nn.Sequential(nn.CircularPad1d((0, 39)), circulant), (3, 50))
    assert slow == pytest.approx(float(torch.linalg.matrix_norm(wrapped, 2)), rel=EXACT)


@pytest.mark.parametrize("side", [1, 2, 31, 40, 150])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_largest_eigenvalue(side: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(side)
    roots = torch.randn(6, side, side, generator=generator, dtype=dtype)
    blocks = roots @ roots.mH
    blocks[2] = blocks[4]  # a tie
    true = float(torch.linalg.eigvalsh(blocks).max())
    result = LargestEigenvalue()
    for block in blocks.split(2):
        assert result.include(block)
    assert true * (1 - 1e-13) <= result.bound <= true * (1 + 1e-4)
    assert not LargestEigenvalue().include(blocks, limit=0.99 * true)


def test_a_flat_spectrum_is_bounded_as_well() -> None:
    result = LargestEigenvalue()
    result.include(torch.eye(60, dtype=torch.float64).expand(4, -1, -1))
    assert 1 <= result.bound <= 1 + 1e-9


def test_sums_bound_every_operator() -> None:
    layer = draw(nn.Conv2d, 1, 2, 3, 3, padding=1, padding_mode="replicate")
    chain = Chain(steps_of(layer), (2, 4, 5))
    norm = float(torch.linalg.matrix_norm(matrix(layer, (2, 4, 5)), 2))
    rows = matrix(layer, (2, 4, 5)).abs()
    assert norm <= sums_norm(chain)
    assert sums_norm(chain) >= math.sqrt(float(rows.sum(0).max()) * float(rows.sum(1).max()))
