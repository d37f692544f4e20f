"""Small networks of every family that the graph must take, each with an example input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """One shared activation, a skip, a parameter that is added, a join."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.position = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.first(x)))
        z = self.act(self.second(y) + y) + self.position
        return self.head(torch.cat([y, z], 1).mean((2, 3)))


class Twice(nn.Module):
    """A module called twice, and one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.one = nn.Linear(6, 6, bias=False)
        self.other = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(self.body(self.body(x))))


class InPlace(nn.Module):
    """Writes into a view of a result, which everything after it must see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        F.relu_(y[:, :2])
        y.add_(1)
        return y * 2


class DataDependent(nn.Module):
    """Control flow that depends on data: torch.export gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.act = nn.ReLU()
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.layer(x))
        if float(y.detach().sum()) > 1e9:
            y = y / 2
        halves = y.view(-1, 3)
        return self.last(self.last.weight.new_ones(3) * halves)


class Attention(nn.Module):
    """torch's own multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, x, x, need_weights=False)[0]


def separable() -> nn.Module:
    """Return a depthwise-separable network."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 12, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def vgg() -> nn.Module:
    """Return a small VGG."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 4 * 4, 10), nn.Dropout(), nn.Linear(10, 10)),
    )


def signals() -> nn.Module:
    """Return a 1-D convolutional network with a transposed convolution."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2, dilation=2), nn.GELU(), nn.ConvTranspose1d(4, 3, 4, stride=2)
    )


def perceptron() -> nn.Module:
    """Return a multi-layer perceptron."""
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))


PICTURE = (2, 3, 16, 16)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg": (vgg, PICTURE),
    "residual": (Residual, PICTURE),
    "separable": (separable, PICTURE),
    "signals": (signals, (2, 2, 33)),
    "perceptron": (perceptron, (2, 7)),
    "twice": (Twice, (2, 6)),
    "in place": (InPlace, (2, 4)),
    "attention": (Attention, (2, 5, 8)),
    "recurrent": (lambda: nn.LSTM(4, 5, batch_first=True, bidirectional=True), (2, 7, 4)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "data-dependent": (DataDependent, (2, 4)),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in evaluation mode and an example input."""
    build, shape = CASES[name]
    return build().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
