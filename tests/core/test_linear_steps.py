"""Linear steps against the modules they are read from, their transposes, power iteration."""

import itertools
import math

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.modules import steps_of
from merkhet.core.linear.power import power_norm, power_step
from merkhet.core.linear.scaling import normalised
from merkhet.core.linear.steps import Mean, Permute, Reshape, Scale, Sum


def norm_2d() -> nn.Module:
    layer = nn.BatchNorm2d(3).eval()
    layer.running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
    layer.weight.data.copy_(torch.tensor([1.0, -2.0, 0.5]))
    return layer


LAYERS = {
    "linear": (nn.Linear(4, 3), (5, 4)),
    "conv1d, same, even": (nn.Conv1d(2, 4, 4, padding="same", groups=2), (2, 9)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 2), (1, 2)), (3, 8, 7)),
    "reflect": (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect", dilation=2), (3, 8, 7)),
    "circular": (nn.Conv2d(2, 1, 3, padding=(1, 2), padding_mode="circular"), (2, 5, 4)),
    "conv3d": (nn.Conv3d(1, 2, 2, padding=1, padding_mode="replicate"), (1, 3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (4, 5, 4)),
    "average": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 6, 5)),
    "divisor": (nn.AvgPool3d(2, divisor_override=3), (1, 4, 4, 5)),
    "average 1d": (nn.AvgPool1d(3, 2), (2, 8)),
    "adaptive": (nn.AdaptiveAvgPool2d((3, None)), (2, 7, 5)),
    "batch norm": (norm_2d(), (3, 4, 2)),
    "pads": (nn.Sequential(nn.ReflectionPad2d((1, 2, 0, 1)), nn.ZeroPad2d(-1)), (2, 4, 4)),
    "constant": (nn.ConstantPad1d((2, 1), 5.0), (3, 4)),
    "flat": (
        nn.Sequential(nn.Dropout(), nn.Flatten(2), nn.Identity(), nn.Linear(12, 2)),
        (2, 3, 4),
    ),
    "flat from the end": (nn.Flatten(-3, -2), (2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_steps_are_the_module_without_its_bias(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = layer.double()
    chain = Chain(steps_of(layer), shape)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *shape, generator=generator).double()
    layer.eval()
    wanted = layer(x) - layer(torch.zeros_like(x))
    torch.testing.assert_close(chain.apply(x), wanted, rtol=0, atol=1e-12)
    assert chain.output_shape == wanted.shape[1:]
    y = torch.randn(wanted.shape, generator=generator).double()
    left, right = (y * chain.apply(x)).sum(), (chain.transpose(y) * x).sum()
    assert float(left.detach()) == pytest.approx(float(right.detach()), abs=1e-11)


def test_steps_without_modules() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Mean((0, -1)).apply(x), x.mean((1, 3)))
    assert torch.equal(Mean(()).apply(x), x)
    assert torch.equal(Sum((1,), keepdim=True).apply(x), x.sum(2, keepdim=True))
    assert torch.equal(Permute((2, 0, 1)).apply(x), x.permute(0, 3, 1, 2))
    assert Reshape((-1, 2)).output_shape((3, 4, 5)) == (30, 2)
    with pytest.raises(InputError, match="Scale does not take examples of shape"):
        Scale(torch.ones(2, 3)).output_shape((3,))


def test_weights_keep_their_gradient() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    chain = Chain(steps_of(layer), (2, 5, 5))
    v = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    v = torch.linalg.qr(v.flatten(1).T).Q.T.reshape(v.shape)
    for _ in range(200):
        u, v = power_step(chain, v)
    sigma = (u[0] * chain.apply(v[:1])[0]).sum()
    (gradient,) = torch.autograd.grad(sigma, layer.weight)
    # The norm is homogeneous: <weight, gradient> is the norm itself (Euler).
    assert float((gradient * layer.weight).sum()) == pytest.approx(float(sigma), rel=1e-5)
    assert float(sigma) == pytest.approx(power_norm(chain), rel=1e-4)


def test_power_steps_never_lose() -> None:
    layer = nn.Conv1d(3, 3, 3, padding=1).double()
    chain = Chain(steps_of(layer), (3, 12))
    norm = float(torch.linalg.matrix_norm(matrix(chain), 2))
    for count in (1, 3):
        start = torch.randn(count, 36, generator=torch.Generator().manual_seed(1)).double()
        v = torch.linalg.qr(start.T).Q.T.reshape(count, 3, 12)
        values = []
        for _ in range(60):
            u, v = power_step(chain, v)
            values.append(float((u[0] * chain.apply(v[:1])[0]).sum()))
        assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))
        assert norm * (1 - 1e-3) <= values[-1] <= norm * (1 + 1e-12)


def test_a_zero_operator_keeps_its_vectors() -> None:
    layer = nn.Linear(4, 2)
    layer.weight.data.zero_()
    chain = Chain(steps_of(layer), (4,))
    for count in (1, 2):
        v = torch.eye(4)[:count]
        u, after = power_step(chain, v)
        assert torch.equal(after, v)
        assert bool(torch.isfinite(u).all())
    assert power_norm(chain) == 0


def matrix(chain: Chain) -> torch.Tensor:
    units = torch.eye(math.prod(chain.input_shape)).double().reshape(-1, *chain.input_shape)
    return chain.apply(units).flatten(1).T.detach()


@pytest.mark.parametrize("vectors", [1, 2, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_power_norm_is_just_under_the_norm(name: str, vectors: int) -> None:
    layer, shape = LAYERS[name]
    chain = Chain(steps_of(layer.eval()), shape)
    norm = float(torch.linalg.matrix_norm(matrix(chain), 2))
    assert norm * (1 - 1e-5) <= power_norm(chain, vectors=vectors) <= norm * (1 + 1e-12)


def test_any_scale() -> None:
    layer = nn.Linear(6, 5, bias=False).double()
    weight = layer.weight.data.clone()
    norm = float(torch.linalg.matrix_norm(weight, 2))
    for scale in (1e-300, 1e-150, 1e150, 1e300):
        layer.weight.data = weight * scale
        assert power_norm(Chain(steps_of(layer), (6,))) / scale == pytest.approx(norm, rel=1e-9)
    chain, exponent = normalised(Chain(steps_of(layer), (6,)))
    (step,) = chain.steps
    assert torch.equal(step.weight * 2.0**exponent, layer.weight.detach())
    assert 0.5 <= float(step.weight.abs().max()) < 1


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (nn.MaxPool2d(2), (1, 4, 4), r"lipschitz\(layer, inputs\)"),
        (nn.BatchNorm1d(3), (3,), r"\.eval\(\)"),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), (3,), "running statistics"),
        (nn.ReLU(), (3,), "not known to be linear"),
        (nn.LazyLinear(3), (3,), "lazy"),
        (nn.Flatten(0), (3,), "mixes the examples"),
        (nn.Conv2d(3, 4, 3), (8, 8), r"examples of shape \(8, 8\)"),
        (nn.Conv2d(3, 4, 3), (4, 8, 8), r"examples of shape \(4, 8, 8\)"),
        (nn.Linear(3, 4), (5,), r"examples of shape \(5,\)"),
    ],
)
def test_refusals(layer: nn.Module, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Chain(steps_of(layer), shape)


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_parent() -> None:
    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).abs()

    with pytest.raises(InputError, match="not known to be linear"):
        steps_of(Odd(2, 2))
    wrapped = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    assert power_norm(Chain(steps_of(wrapped), (3,))) == pytest.approx(1, rel=1e-6)
