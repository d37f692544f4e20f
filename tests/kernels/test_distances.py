"""Distances against sixty digits, however near the inputs are; symmetries, limits and refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mpmath import mp, mpf
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
    gram,
)
from merkhet.kernels import distances as module
from merkhet.kernels.activations import Activation
from merkhet.kernels.angle_differences import bend
from merkhet.kernels.differences import Differences, exponential, reciprocal, root
from merkhet.kernels.distances import distance

sys.path.insert(0, str(Path(__file__).parent))
from slow_kernels import slow_distance

ACTIVATIONS = (ReLU(), LeakyReLU(0.2), Exponential(0.8), Erf(), GELU(), Sine())
KINDS = ("ntk", "nngp")
LAYER = 1e-15  # of the distance, for each layer: a few roundings


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(activation: Layer, depth: int, bias_std: float = 0.0) -> Layer:
    hidden = [Linear(bias_std=bias_std), activation] * depth
    return Sequential(*hidden, Linear(bias_std=bias_std))


def pooled(activation: Layer, bias_std: float = 0.0) -> Layer:
    first, second = (Conv2d(3, bias_std=bias_std) for _ in range(2))
    return Sequential(
        first, activation, AvgPool2d(2), second, activation, GlobalAvgPool2d(), Linear()
    )


def residual(activation: Layer, bias_std: float = 0.0) -> Layer:
    body = Sequential(activation, Conv2d(3, padding="circular", bias_std=bias_std))
    return Sequential(Conv2d(3), Residual(body), activation, GaussianPool2d(2), Flatten(), Linear())


def flat(activation: Layer, bias_std: float = 0.0) -> Layer:
    return Sequential(
        *[Conv2d(3, bias_std=bias_std), activation] * 2, Flatten(), Linear(bias_std=bias_std)
    )


def off(network: Layer, x: Tensor, y: Tensor, kind: str) -> float:
    """Return the relative error of the distance of one x to one y."""
    found = distance(network, x[None], y[None], kind, pairs="each")
    wanted = slow_distance(network, x, y, kind)
    return abs(float((mpf(float(found)) - wanted) / wanted))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("depth", [1, 4, 10])
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
def test_dense_networks_lose_nothing(activation: Layer, depth: int, bias_std: float) -> None:
    network = dense(activation, depth, bias_std)
    x, step = numbers(5), numbers(5, seed=1)
    for part in (1.0, 1e-2, 1e-5, 1e-8, 1e-12):
        for kind in KINDS:
            assert off(network, x, x + part * step, kind) < LAYER * (depth + 1), (part, kind)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("build", [pooled, residual, flat])
def test_networks_of_pictures_lose_nothing(activation: Layer, build: Callable[..., Layer]) -> None:
    x, step = numbers(1, 4, 4).abs(), numbers(1, 4, 4, seed=1)
    for bias_std, part, kind in (
        (0.0, 1e-2, "ntk"),
        (0.3, 1e-9, "ntk"),
        (0.3, 1e-5, "nngp"),
    ):
        found = off(build(activation, bias_std), x, x + part * step, kind)
        assert found < 5 * LAYER, (bias_std, part, kind)


@pytest.mark.parametrize("activation", [ReLU(), Exponential()], ids=repr)
def test_patches_that_are_zero_for_either_input(activation: Layer) -> None:
    """Where one picture is blank and the other nearly, neither has a direction to borrow."""
    blank = numbers(1, 4, 4).abs()
    blank[:, :, :3] = 0
    near = blank + 1e-5 * numbers(1, 4, 4, seed=1)
    for x, y in ((blank, near), (near, blank), (torch.zeros_like(blank), near)):
        for kind in KINDS:
            assert off(pooled(activation), x, y, kind) < 5 * LAYER


@pytest.mark.parametrize("bias_std", [0.0, 0.3])
@pytest.mark.parametrize("change", ["noise", "one pixel", "brightness"])
def test_flat_areas_keep_what_the_docstring_says(bias_std: float, change: str) -> None:
    """Different patches of one direction: rounding of their cosines under a square root."""
    x = torch.full((1, 4, 4), 0.5).double()
    pixel = torch.zeros_like(x)
    pixel[0, 1, 1] = 0.5
    step = {"noise": numbers(1, 4, 4), "one pixel": pixel, "brightness": x}[change]
    network = pooled(ReLU(), bias_std)
    for part, bound in ((1e-2, 1e-9), (1e-4, 1e-9), (1e-6, 1e-9), (1e-10, 1e-7)):
        assert off(network, x, x + part * step, "ntk") < bound
        assert off(network, x, x + part * step, "nngp") < 5 * LAYER


def test_multiples_keep_what_the_docstring_says() -> None:
    """The angle between x and its multiple is rounding of the inputs: 1e-16, beside e^2."""
    x, aside = numbers(5), numbers(5, seed=1)
    for part in (1e-2, 1e-3, 1e-4):
        y = x * (1 + part)
        assert off(dense(ReLU(), 4), x, y, "ntk") < 4e-16 / part**2
        assert off(dense(ReLU(), 4), x, y + 1e-6 * part * aside, "ntk") < 1e-7 / part
        assert off(dense(ReLU(), 4), x, y, "nngp") < 5 * LAYER


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_far_inputs_are_as_far_as_their_kernels_say(activation: Layer, kind: str) -> None:
    vectors, pictures = numbers(4, 7), numbers(4, 2, 6, 6)
    pictures[1, :, :3] = 0
    vectors[3] = -vectors[0]
    cases = [(dense(activation, 2, 0.3), vectors), (dense(activation, 2), vectors)]
    strided = Sequential(
        Conv2d(3, stride=2, bias_std=0.3), activation, Conv2d(2, padding="valid"), Flatten()
    )
    cases += [(build(activation), pictures) for build in (pooled, residual, flat)]
    for network, x in [*cases, (strided, pictures)]:
        kernel = gram(network, x, kind=kind, dtype=torch.float64, progress=False)
        own = kernel.diag()
        wanted = (own[:, None] + own - 2 * kernel).clamp(min=0).sqrt()
        # the angle of y = -x is off by 1e-8 in a kernel that comes by way of the cosine
        bound = 1e-7 if x is vectors else 1e-13
        assert (distance(network, x, kind=kind) - wanted).abs().max() < bound * wanted.max()


def test_opposite_inputs_keep_their_digits() -> None:
    x = numbers(5)
    for kind in KINDS:
        assert off(dense(ReLU(), 3), x, -x, kind) < 4 * LAYER


@pytest.mark.parametrize("build", [lambda a: dense(a, 3, 0.2), pooled, residual, flat])
@pytest.mark.parametrize("activation", [ReLU(), Exponential(), GELU()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_a_metric(build: Callable[..., Layer], activation: Layer, kind: str) -> None:
    network = build(activation)
    vectors = isinstance(network.steps[0], Linear)  # type: ignore[attr-defined]
    base = numbers(1, 6) if vectors else numbers(1, 2, 4, 4)
    steps = [10.0**-power * numbers(*base.shape, seed=power) for power in (1, 4, 7, 7, 10)]
    x = torch.cat([base, *(base + step for step in steps)])
    found = distance(network, x, kind=kind)
    assert torch.equal(found, found.mT)
    assert torch.equal(found.diag(), torch.zeros(len(x)).double())
    assert found[3, 4] == 0  # the same input twice
    torch.testing.assert_close(
        distance(network, x, x.flip(0), kind).flip(1), found, rtol=1e-9, atol=0
    )
    around = (found[:, :, None] + found[None]).amin(1)
    assert (found <= around * (1 + 1e-12)).all()


@pytest.mark.parametrize("network", [dense(ReLU(), 3), pooled(ReLU()), flat(ReLU(), 0.2)])
def test_the_tangent_kernel_grows_like_the_root(network: Layer) -> None:
    """Bietti & Mairal, NeurIPS 2019, Section 4: Hoelder 1/2 for ReLU, and Lipschitz for NNGP."""
    shape = (6,) if isinstance(network.steps[0], Linear) else (2, 4, 4)  # type: ignore[attr-defined]
    x, step = numbers(1, *shape), numbers(1, *shape, seed=1)
    # what is left beside the leading power is of the order of its root, 1e-4 and less
    near, far = (x + part * step for part in (1e-12, 1e-8))
    for kind, power in (("ntk", 0.5), ("nngp", 1.0)):
        ratio = distance(network, x, far, kind) / distance(network, x, near, kind)
        # y itself is rounded: 1e-16 of x beside 1e-12
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1e4**power), rtol=1e-3, atol=0)


@pytest.mark.parametrize("activation", [Exponential(), Erf(), GELU(), Sine()], ids=repr)
def test_the_tangent_kernel_of_smooth_activations_grows_linearly(activation: Layer) -> None:
    x, step = numbers(1, 2, 4, 4), numbers(1, 2, 4, 4, seed=1)
    network = pooled(activation)
    ratio = distance(network, x, x + 1e-8 * step) / distance(network, x, x + 1e-12 * step)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1e4), rtol=1e-3, atol=0)


def test_pairs_by_name_and_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = numbers(5, 1, 4, 4), numbers(5, 1, 4, 4, seed=1)
    for network in (pooled(ReLU()), flat(Erf())):
        found = distance(network, x, y)
        assert found.shape == (5, 5)
        each = distance(network, x, y, pairs="each")
        monkeypatch.setattr(module, "CHUNK_BYTES", 1)
        torch.testing.assert_close(each, found.diag(), rtol=1e-14, atol=0)
        torch.testing.assert_close(distance(network, x, y), found, rtol=1e-14, atol=0)
        monkeypatch.undo()


def test_inputs_of_float32_are_taken_as_exact() -> None:
    x = numbers(3, 6).float()
    y = x + 1e-5 * numbers(3, 6, seed=1).float()
    network = dense(ReLU(), 2)
    found = distance(network, x, y, pairs="each", dtype=torch.float32)
    assert found.dtype == torch.float32
    exact = distance(network, x.double(), y.double(), pairs="each")
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=0)


class Square(Activation):
    """z^2, which has no rule for differences."""

    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a * b + 2 * c**2

    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return 4 * c


def test_other_activations_are_subtracted() -> None:
    """phi(x) = x^2 in one dimension: |Phi(x) - Phi(y)| = sqrt(3) |x^2 - y^2|."""
    x, y = (torch.tensor([[one]], dtype=torch.float64) for one in (1.0, 1.0 + 1e-4))
    one = Linear(weight_std=1.0)
    found = distance(Sequential(one, Square(), one), x, y, "nngp")
    wanted = 3**0.5 * (y**2 - x**2)
    torch.testing.assert_close(found, wanted, rtol=1e-15 / 1e-4**2, atol=0)
    assert distance(Sequential(one, Square(), one), x, x.clone(), "ntk") == 0


def test_operations_on_differences_keep_their_digits() -> None:
    """Each against sixty digits, for differences of 1e-9 and mixed ones of 1e-18."""
    f, g = (
        Differences(2 + value.abs(), 1e-9 * first, 1e-9 * second, 1e-18 * mixed)
        for value, first, second, mixed in (numbers(4, 1, seed=seed) for seed in (0, 1))
    )

    def corners(one: Differences) -> list[mpf]:
        v, first, second, mixed = (mpf(float(part)) for part in one.stacked()[:, 0])
        return [v, v + first, v + second, v + first + second + mixed]

    cases = [
        (f * g, [a * b for a, b in zip(corners(f), corners(g), strict=True)]),
        (reciprocal(f), [1 / a for a in corners(f)]),
        (root(f), [mp.sqrt(a) for a in corners(f)]),
        (exponential(f), [mp.exp(a) for a in corners(f)]),
    ]
    for found, (xx, yx, xy, yy) in cases:
        wanted = (xx, yx - xx, xy - xx, xx - yx - xy + yy)
        for one, other in zip(found.stacked()[:, 0], wanted, strict=True):
            assert abs(float((mpf(float(one)) - other) / other)) < 1e-14


def test_the_series_of_small_angles_meets_the_closed_form() -> None:
    for d in (1e-9, 1e-3, 0.1, 0.499999, 0.5, 1.0, 1.5):
        exact = mpf(d) * mp.cos(mpf(d)) - mp.sin(mpf(d))
        found = float(bend(torch.tensor([d], dtype=torch.float64)))
        assert abs(float((mpf(found) - exact) / exact)) < 4e-15


def test_refusals() -> None:
    network, x = dense(ReLU(), 1), numbers(3, 5)
    cases: list[tuple[str, Callable[[], Tensor]]] = [
        ("as many x as y, not 3 and 2", lambda: distance(network, x, x[:2], pairs="each")),
        ("give y", lambda: distance(network, x, pairs="each")),
        ("no choice of pairs 'al'.*Did you mean 'all'", lambda: distance(network, x, pairs="al")),
        ("no kind of distance 'both'", lambda: distance(network, x, kind="both")),
        ("features 5 and y 4", lambda: distance(network, x, x[:, :4])),
        ("dtype torch.float16", lambda: distance(network, x, dtype=torch.float16)),
        ("x\\[1\\] holds NaN", lambda: distance(network, torch.tensor([[1.0], [float("nan")]]))),
        ("ends in a feature map", lambda: distance(Conv2d(3), numbers(1, 1, 4, 4))),
        ("put Flatten", lambda: distance(Linear(), numbers(1, 1, 4, 4))),
        ("GB of memory", lambda: distance(network, numbers(1, 1).expand(10**7, 1))),
    ]
    for message, call in cases:
        with pytest.raises(InputError, match=message):
            call()
