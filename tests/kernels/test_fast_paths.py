"""The compiled loops against the plain form, which computes in float64.

Errors are relative to sqrt(K(x, x) K(y, y)), which bounds |K(x, y)|: a tangent kernel passes zero.
Float32 keeps 6e-8 of every number; the promise is 2e-6 of the kernel, near inputs included.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

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
    diagonal,
    gram,
)
from merkhet.kernels.cpu import Convolutional
from merkhet.kernels.dense import Dense
from merkhet.kernels.engines import Plain, engine

PROMISED = 2e-6
RELU, OUT, FLAT, MEAN = ReLU(), Linear(), Flatten(), GlobalAvgPool2d()


def papers(act: Layer, second: int, *head: Layer) -> tuple[Layer, ...]:
    first = Conv2d(3, weight_std=1.0), act, GaussianPool2d(2)
    return (*first, Conv2d(3), act, GaussianPool2d(second), *head)


CONV: dict[str, tuple[tuple[Layer, ...], tuple[int, int, int]]] = {
    "Gaussian pooling 2 then 5": (papers(RELU, 5, FLAT), (1, 13, 12)),
    "dense layers after it": (papers(RELU, 3, FLAT, OUT, RELU, OUT), (2, 9, 9)),
    "sigma 0.3": (papers(Exponential(0.3), 3, FLAT), (1, 9, 8)),
    "sigma 1": (papers(Exponential(1.0), 3, FLAT), (2, 8, 9)),
    "sigma 2": ((*(Conv2d(3), Exponential(2.0)) * 2, MEAN, OUT), (2, 6, 7)),
    "exponential, no pooling": ((*(Conv2d(3), Exponential(0.6)) * 3, FLAT, OUT), (1, 6, 7)),
    "both activations": (
        (Conv2d(3), RELU, AvgPool2d(2), Conv2d(3), Exponential(0.5), FLAT, OUT),
        (1, 8, 8),
    ),
    "three layers": ((*(Conv2d(3), RELU, AvgPool2d(2)) * 2, Conv2d(3), RELU, MEAN), (3, 9, 8)),
    "several between poolings": (
        (*(Conv2d(3), RELU) * 3, AvgPool2d(2), *(Conv2d(3), RELU) * 2, FLAT, OUT),
        (2, 7, 6),
    ),
    "five convolutions, no pooling": ((*(Conv2d(3), RELU) * 5, FLAT, OUT), (2, 7, 8)),
    "five convolutions, global mean": ((*(Conv2d(3), RELU) * 5, MEAN, OUT), (2, 6, 5)),
    "biases": (
        (
            *(Conv2d(3, bias_std=0.3), RELU) * 2,
            *(AvgPool2d(2), Conv2d(3, bias_std=0.1), RELU),
            *(FLAT, Linear(bias_std=0.2), Erf(), OUT),
        ),
        (2, 7, 7),
    ),
    "biases, no pooling": ((*(Conv2d(3, bias_std=0.3), RELU) * 3, FLAT), (2, 5, 6)),
    "strides": ((Conv2d(3, 2), RELU, Conv2d(3, 2), RELU, MEAN), (2, 9, 8)),
    "valid, rectangular, strides, numbers": (
        (
            *(Conv2d((3, 2), (1, 2), "valid"), RELU, Conv2d((2, 4), (3, 1), (1, 2)), RELU),
            *(Conv2d(3, 2, 1), RELU, AvgPool2d((1, 2)), FLAT, OUT),
        ),
        (2, 11, 12),
    ),
    "more padding than patch": ((Conv2d(2, 1, 3), RELU, Conv2d(2, 2, 3), RELU, MEAN), (1, 4, 5)),
    "even patches": ((Conv2d(2), RELU, Conv2d(4), RELU, FLAT), (1, 5, 6)),
    "windows that overlap": (
        (Conv2d(3), RELU, AvgPool2d(3, 2), Conv2d(3), RELU, AvgPool2d((2, 4), (1, 3)), FLAT),
        (1, 8, 9),
    ),
    "windows that leave rows out": (
        (Conv2d(3), RELU, AvgPool2d(2, 3), Conv2d(3), RELU, FLAT),
        (1, 9, 8),
    ),
    "pooling twice": ((Conv2d(3), RELU, AvgPool2d(2), AvgPool2d(2), FLAT, OUT), (1, 8, 8)),
    "slopes 0.3 and 1.5": ((Conv2d(3), LeakyReLU(0.3), Conv2d(3), LeakyReLU(1.5), MEAN), (2, 6, 7)),
    "slopes 1 and 0": (
        (Conv2d(3), LeakyReLU(1.0), Conv2d(3), LeakyReLU(0.0), AvgPool2d(2), FLAT, OUT),
        (2, 6, 7),
    ),
    "absolute values": ((*(Conv2d(3), LeakyReLU(-1.0)) * 2, MEAN), (2, 5, 5)),
    "no activation first": ((Conv2d(3), Conv2d(3), RELU, MEAN, OUT, GELU(), OUT), (1, 5, 6)),
    "a Gaussian head": ((Conv2d(3), RELU, Conv2d(3), MEAN, Erf(), OUT), (1, 5, 6)),
    "one convolution, Gaussian head": ((Conv2d(3), MEAN, Erf(), OUT), (1, 5, 6)),
    "one pixel": ((Conv2d(3), RELU, Conv2d(1), RELU, AvgPool2d(1), FLAT), (2, 1, 1)),
    "no weights": ((Conv2d(3, weight_std=0.0), RELU, Conv2d(3), RELU, MEAN), (1, 4, 4)),
}
DENSE: dict[str, tuple[Layer, ...]] = {
    "one hidden layer": (OUT, RELU, OUT),
    "four hidden layers": ((OUT, RELU) * 4 + (OUT,)),
    "biases": (Linear(bias_std=0.3), RELU, Linear(weight_std=1.2, bias_std=0.5), RELU, OUT),
    "slopes": (OUT, LeakyReLU(0.3), OUT, LeakyReLU(1.5), OUT, LeakyReLU(-1.0), OUT),
    "the identity": (OUT, LeakyReLU(1.0), OUT),
}


def pictures(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Pictures with grey values from 0 to 1, and signs in every third."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=generator)
    x[::3] -= 0.5
    return x


def hard(shape: tuple[int, ...]) -> Tensor:
    """Equal, near, opposite, zero, constant, tiny and huge inputs."""
    x, noise = pictures(9, shape, 1).abs(), pictures(2, shape, 3)
    x[1], x[2], x[3], x[4] = x[0], x[0] + 1e-3 * noise[0], x[0] + 1e-5 * noise[1], -x[0]
    x[5], x[6], x[7], x[8] = 0, 1, x[0] * 1e-6, x[0] * 1e6
    return x


def plainly(network: Layer, x: Tensor, y: Tensor, kind: str = "both") -> tuple[Tensor, Tensor]:
    """Return the plain kernels (kinds, n, m), and the bounds of their entries."""
    found = Plain(network, x, y, kind).block(slice(None), slice(None))
    of_x, of_y = (Plain(network, one, one, kind).diagonal() for one in (x, y))
    if y is x:
        found = found.triu(1) + found.triu(1).mT + torch.diag_embed(of_x)
    return found, (of_x[:, :, None] * of_y[:, None]).sqrt()


def worst(network: Layer, x: Tensor, y: Tensor | None = None, **given: torch.dtype) -> Tensor:
    """Return the largest error of `gram`, of both kernels, relative to the bounds."""
    wanted, bounds = plainly(network, x, x if y is None else y)
    found = torch.stack(gram(network, x, y, kind="both", progress=False, **given)).double()
    assert bool(found.isfinite().all())
    return ((found - wanted).abs() / bounds.clamp_min(torch.finfo(torch.float64).tiny)).max()


def compiled(steps: tuple[Layer, ...], x: Tensor, dtype: torch.dtype = torch.float32) -> Layer:
    """Return the network, having made sure that the loops take it."""
    network = Sequential(*steps)
    assert isinstance(engine(network, x, x, "both", dtype), Convolutional | Dense)
    return network


@pytest.fixture(params=CONV)
def conv(request: pytest.FixtureRequest) -> tuple[Layer, tuple[int, ...]]:
    steps, shape = CONV[request.param]
    return compiled(steps, pictures(1, shape)), shape


def test_convolutions_are_the_plain_form(conv: tuple[Layer, tuple[int, ...]]) -> None:
    network, shape = conv
    x, y = pictures(10, shape), pictures(3, shape, 5)
    assert worst(network, x) < PROMISED
    assert worst(network, x, y) < PROMISED


def test_hard_pictures_are_the_plain_form(conv: tuple[Layer, tuple[int, ...]]) -> None:
    """Near pictures most of all: a slope of ReLU is off by the root of a cosine's error."""
    network, shape = conv
    x = hard(shape)
    if any(isinstance(layer, Erf) for layer in network.layers()):
        x = x[:-1]  # the slope of an Erf that is saturated shows what float32 does not hold
    assert worst(network, x) < PROMISED
    assert worst(network, x, x[[-1, 0, 3]]) < PROMISED


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
@pytest.mark.parametrize("name", ["three layers", "sigma 0.3", "exponential, no pooling"])
def test_scale_does_not_matter(name: str, scale: float) -> None:
    steps, shape = CONV[name]
    x = pictures(4, shape)
    assert worst(compiled(steps, x), x * scale) < PROMISED


@pytest.mark.parametrize("count", [1, 2, 7, 9, 33])
@pytest.mark.parametrize("name", ["strides", "biases, no pooling"])
def test_any_number_of_pictures(name: str, count: int) -> None:
    steps, shape = CONV[name]
    x, y = pictures(count, shape), pictures(10, shape, 2)
    network = compiled(steps, x)
    assert worst(network, x) < PROMISED
    assert worst(network, x, y) < PROMISED
    assert worst(network, y, x) < PROMISED


@pytest.mark.parametrize("side", [1, 4, 7])
@pytest.mark.parametrize("name", ["strides", "biases, no pooling"])
def test_any_blocks(name: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, shape = CONV[name]
    monkeypatch.setattr(Convolutional, "side", side)
    x, y = pictures(10, shape), pictures(5, shape, 2)
    network = compiled(steps, x)
    assert worst(network, x) < PROMISED
    assert worst(network, x, y) < PROMISED


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", ["Gaussian pooling 2 then 5", "biases", "biases, no pooling"])
def test_one_kind_is_that_of_both(name: str, kind: str) -> None:
    steps, shape = CONV[name]
    x, network = pictures(9, shape), Sequential(*steps)
    one = gram(network, x, kind=kind, progress=False)
    torch.testing.assert_close(one, getattr(gram(network, x, kind="both"), kind), rtol=0, atol=0)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["three layers", "biases, no pooling", "dense"])
def test_any_number_of_threads_gives_the_same(name: str, threads: None) -> None:
    steps, shape = ((*DENSE["biases"],), (300,)) if name == "dense" else CONV[name]
    x, network, found = pictures(35, shape), Sequential(*steps), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(torch.stack(gram(network, x, kind="both", progress=False)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", DENSE)
def test_dense_networks_are_the_plain_form(name: str) -> None:
    """Of cosines below 0.95 an arccos keeps all digits but one; more layers lose no more."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 40, generator=generator).double() for n in (35, 7))
    network, exact = compiled(DENSE[name], x, torch.float64), {"dtype": torch.float64}
    assert worst(network, x, **exact) < 1e-14
    assert worst(network, x, y, **exact) < 1e-14
    own = gram(network, x, kind="both", **exact)
    for kind, wanted in zip(own, diagonal(network, x, "both"), strict=True):
        torch.testing.assert_close(kind.diag(), wanted, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", DENSE)
def test_hard_vectors_are_the_plain_form(name: str) -> None:
    """A cosine of 1 - 1e-16 has an arccos of 1e-8: each layer may lose as much."""
    x = hard((40,)).double()
    network = compiled(DENSE[name], x, torch.float64)
    assert worst(network, x, dtype=torch.float64) < 1e-7
    far = x[[0, 5, 6]]
    assert worst(network, far, dtype=torch.float64) < 1e-14


def test_dense_blocks_and_flattened_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dense, "side", 300)  # wider than a piece of the loops
    x = pictures(305, (2, 3, 2))
    network = Sequential(FLAT, Sequential(*DENSE["biases"]))
    assert isinstance(engine(network, x, x, "both", torch.float32), Dense)
    vectors = gram(Sequential(*DENSE["biases"]), x.flatten(1), dtype=torch.float64)
    torch.testing.assert_close(gram(network, x, dtype=torch.float64), vectors)
    assert worst(network, x, dtype=torch.float64) < 1e-7


LEARNT = torch.tensor(0.3, requires_grad=True)
REFUSED: dict[str, tuple[Layer, ...]] = {
    "a residual block": (Conv2d(3), Residual(Sequential(RELU, Conv2d(3))), RELU, MEAN),
    "circular patches": (Conv2d(3), RELU, Conv2d(3, padding="circular"), RELU, MEAN),
    "circular first": (Conv2d(3, padding="circular"), RELU, Conv2d(3), RELU, FLAT),
    "another activation": (Conv2d(3), Erf(), Conv2d(3), RELU, MEAN),
    "a sine": (Conv2d(3), RELU, Conv2d(3), Sine(), FLAT),
    "a slope to learn": (Conv2d(3), LeakyReLU(LEARNT), Conv2d(3), RELU, MEAN),
    "a scale to learn": (Conv2d(3), RELU, Conv2d(3, bias_std=LEARNT), RELU, MEAN),
    "pixels pooled first": (AvgPool2d(2), Conv2d(3), RELU, MEAN),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_loops_do_not_take_is_plain(name: str) -> None:
    network, x = Sequential(*REFUSED[name]), pictures(3, (1, 4, 6))
    assert isinstance(engine(network, x, x, "ntk", torch.float32), Plain)
    with torch.no_grad():
        assert worst(network, x) < 1e-7  # the rounding of the answer to float32


@pytest.mark.parametrize("head", [(AvgPool2d(2), Conv2d(3), RELU, FLAT), (MEAN, OUT, RELU, OUT)])
def test_a_root_after_a_smooth_activation(head: tuple[Layer, ...]) -> None:
    """Whoever computes it, a ReLU's root must not show float32 of the exponential."""
    network = Sequential(Conv2d(3), Exponential(), *head)
    assert worst(network, hard((1, 6, 6))) < PROMISED


def test_answers_in_float64_are_plain() -> None:
    steps, shape = CONV["strides"]
    x = pictures(3, shape).double()
    assert isinstance(engine(Sequential(*steps), x, x, "ntk", torch.float64), Plain)
    assert worst(Sequential(*steps), x, dtype=torch.float64) == 0


def test_arc_cosines_from_end_to_end() -> None:
    """The polynomials are within 3e-8, and float32 adds its own 6e-8, up to cosines of +-1."""
    from merkhet.kernels import loops

    near = 1 - np.logspace(-16, -1, 400)
    u = np.concatenate([np.linspace(-1, 1, 200_001), near, -near])
    dual, slope = (np.empty(len(u), loops.F) for _ in range(2))
    for leak in (0.0, 0.3, 1.0, 1.5, -1.0):
        loops._rectify(u, leak, dual, slope)
        k0 = 1 - np.arccos(u) / np.pi
        k1 = u * k0 + np.sqrt((1 - u) * (1 + u)) / np.pi
        bend = (1 - leak) ** 2 / 2
        most = abs(leak) + bend
        assert np.abs(slope - leak - bend * k0).max() < 1.5e-7 * most
        assert np.abs(dual - leak * u - bend * k1).max() < 1.5e-7 * most


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[Layer, ...], tuple[int, int, int]]:
    """Networks of one to three convolutions with whatever may stand between."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(3, 7)), draw(st.integers(3, 7)))
    side, steps = st.integers(1, 3), list[Layer]()
    for _ in range(draw(st.integers(1, 3))):
        size, stride = (
            draw(st.tuples(side, side)),
            draw(st.tuples(*[st.sampled_from([1, 1, 2])] * 2)),
        )
        scales = {
            "weight_std": draw(st.floats(0.5, 2)),
            "bias_std": draw(st.sampled_from([0, 0.4])),
        }
        steps.append(Conv2d(size, stride, draw(st.sampled_from(["same", 2, (1, 2)])), **scales))
        acts = [RELU, LeakyReLU(draw(st.floats(-1, 2))), Exponential(draw(st.floats(0.5, 2)))]
        steps.append(draw(st.sampled_from(acts)))
        pools = [[], [], [GaussianPool2d(2)], [AvgPool2d(1, 2)]]
        steps += draw(st.sampled_from(pools))
    return (*steps, draw(st.sampled_from([FLAT, MEAN])), OUT), shape


@settings(max_examples=25, deadline=None, derandomize=True)
@given(networks())
def test_any_network_is_the_plain_form(
    case: tuple[tuple[Layer, ...], tuple[int, int, int]],
) -> None:
    steps, shape = case
    network = Sequential(*steps)
    assert worst(network, pictures(4, shape), pictures(2, shape, 7)) < PROMISED
