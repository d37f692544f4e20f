"""Slopes in forward mode against two gradients, in value and derivative; what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.rkhs.forward_mode import (
    NoForwardModeError,
    slopes_by_gradients,
    value_and_slopes,
    weighted_squares,
)
from merkhet.rkhs.looks import differentiable_twice


class Does(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


ACTIVATIONS = "ReLU GELU SiLU Mish ELU SELU CELU Hardswish Softplus Tanh Sigmoid LogSigmoid ReLU6"
MODULES: dict[str, nn.Module] = {
    **{name: getattr(nn, name)() for name in ACTIVATIONS.split()},
    "tanh GELU": nn.GELU(approximate="tanh"),
    "LeakyReLU": nn.LeakyReLU(0.1),
    "ReLU in place": nn.ReLU(inplace=True),
    "PReLU": nn.PReLU(),
    "Hardtanh": nn.Hardtanh(),
    "Dropout": nn.Dropout(0.5).eval(),
    "BatchNorm": nn.BatchNorm2d(4).eval(),
    "GroupNorm": nn.GroupNorm(2, 4),
    "AvgPool": nn.AvgPool2d(2),
    "AdaptiveAvgPool": nn.AdaptiveAvgPool2d(2),
    "MaxPool": nn.MaxPool2d(3, 2, 1),
    "ConvTranspose": nn.ConvTranspose2d(4, 4, 3),
    "circular": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4, bias=False),
    "same": nn.Conv2d(4, 4, 3, padding="same"),
    "PixelShuffle": nn.PixelShuffle(2),
    "gate": Does(lambda z: z * z.mean((2, 3), keepdim=True).sigmoid()),
    "product": Does(lambda z: z @ z.transpose(-1, -2)),
    "joined": Does(lambda z: torch.cat((z[:, :2], 1 - z.square()), 1)),
    "weight that moves": Does(lambda z: F.conv2d(z, z[:1, :, :3, :3].mean(0, keepdim=True))),
}
REFUSED: dict[str, nn.Module] = {
    "LayerNorm": nn.LayerNorm(6),
    "InstanceNorm": nn.InstanceNorm2d(4),
    "Softmax": nn.Softmax(1),
    "LogSoftmax": nn.LogSoftmax(1),
    "GLU": nn.GLU(1),
    "attention": Does(lambda z: F.scaled_dot_product_attention(z, z, z)),
    "Upsample": nn.Upsample(scale_factor=2),
}


def case(middle: nn.Module) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(4, 4, 6, 6, dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), middle, nn.Flatten()).double()
    return net.append(nn.Linear(net(x).shape[1], 3).double()), x, torch.randn_like(x)


@pytest.mark.parametrize("name", MODULES)
def test_both_ways_have_the_same_value_and_gradient(name: str) -> None:
    net, x, directions = case(MODULES[name])
    value, slopes = value_and_slopes(net, x, directions)
    assert slopes is not None
    leaf = x.clone().requires_grad_()
    expected = net(leaf)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    other = slopes_by_gradients(expected, leaf, directions)
    torch.testing.assert_close(slopes.detach(), other, rtol=1e-10, atol=1e-12)
    weights = torch.rand_like(other)
    one, two = (
        torch.autograd.grad(
            weighted_squares(weights, way, expected, leaf, directions),
            list(net.parameters()),
            allow_unused=True,
            retain_graph=True,
        )
        for way in (slopes, other)
    )
    for first, second in zip(one, two, strict=True):
        found = torch.zeros(()) if first is None else first
        wanted = torch.zeros_like(found) if second is None else second
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10, check_dtype=False)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_to_be_right_is_refused(name: str) -> None:
    net, x, directions = case(REFUSED[name])
    with pytest.raises(NoForwardModeError, match="forward mode"):
        value_and_slopes(net, x, directions)


@pytest.mark.parametrize("name", REFUSED)
def test_two_gradients_are_right_by_finite_differences(name: str) -> None:
    net, x, directions = case(REFUSED[name])
    weight = net[0].weight
    change = torch.randn(weight.shape, dtype=torch.float64)
    weights = torch.rand(4, 3, dtype=torch.float64)

    def measured() -> Tensor:
        leaf = x.clone().requires_grad_()
        with differentiable_twice():
            value = net(leaf)
            slopes = slopes_by_gradients(value, leaf, directions)
            return weighted_squares(weights, slopes, value, leaf, directions)

    (gradient,) = torch.autograd.grad(measured(), weight)
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            weight.add_(change, alpha=sign * 1e-5)
        ends.append(float(measured().detach()))
    # central differences err by h^2 and by the rounding 1e-16 / h
    slope = float((gradient * change).sum())
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-6)


def test_what_does_not_depend_on_its_input_has_no_slopes() -> None:
    constant = torch.ones(4, 3)
    assert value_and_slopes(lambda x: constant, torch.rand(4, 2), torch.ones(4, 2))[1] is None
    x = torch.rand(4, 2, requires_grad=True)
    zero = slopes_by_gradients(constant.clone().requires_grad_(), x, torch.ones(4, 2))
    assert torch.equal(zero, torch.zeros(4, 3))
