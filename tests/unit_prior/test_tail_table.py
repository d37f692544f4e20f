"""The table of architectures: the tail parameter of each, whether it is exact, and its proof.

H(ölder): |ab|_k <= |a|_2k |b|_2k. M(inkowski): |a + b|_k <= |a|_k + |b|_k. S(ymmetry): if b is
symmetric given a, E|a + b|^k >= E|a|^k, for |a + b|^k + |a - b|^k >= 2 |a|^k. T(heorem): units of l
weight matrices with an activation that grows linearly have l / 2 (Vladimirova et al., ICML 2019).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core.graph import Unknown
from merkhet.models import ResNet18, SmallCNN, Transformer
from merkhet.unit_prior.rules.tail_rule import Tail, tail_rule


class Net(nn.Module):
    """A network that is one function of itself and its input."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


class Residual(nn.Module):
    """y + W_2 phi(W_1 y)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, y: Tensor) -> Tensor:
        return y + self.last(F.relu(self.first(y)))


class Dense(nn.Module):
    """A DenseNet layer: its results beside its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class Inverted(nn.Module):
    """MobileNet's inverted residual: wide, depthwise, narrow, with ReLU6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 2 * channels, 1), nn.BatchNorm2d(2 * channels), nn.ReLU6()),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
            *(nn.BatchNorm2d(2 * channels), nn.ReLU6(), nn.Conv2d(2 * channels, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Squeezed(nn.Module):
    """Squeeze and excitation after a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.gate = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return h * self.gate(h.mean((2, 3), keepdim=True))


class Patches(nn.Module):
    """A vision transformer: patches, class token, positions, one block, the class token's head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.place = nn.Parameter(torch.zeros(1, 5, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.place
        return self.head(self.block(h)[:, 0])


class Mixer(nn.Module):
    """An MLP over positions and one over channels, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.across = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.along = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.along(self.norms[1](x))


class Gated(nn.Module):
    """W_2 (phi(W_1 x) * W_3 x): the feed-forward part of today's transformers."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.phi = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.phi(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Attention by hand, one head, on units of a layer before it."""

    def __init__(self, *, deep: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4) if deep else nn.Identity()
        self.all = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.all(self.first(x)).chunk(3, -1)
        return torch.softmax(query @ key.mT / 2, -1) @ value


class Shared(nn.Module):
    """The same layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(self.layer(x)))


def mlp(activation: nn.Module, depth: int = 3) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(4, 4), activation]
    return nn.Sequential(*layers, nn.Linear(4, 4))


def graph_network(adjacency: Tensor) -> Net:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.adjacency @ net.last(F.relu(net.adjacency @ net.first(x)))

    net = Net(forward, first=nn.Linear(4, 6), last=nn.Linear(6, 2))
    net.register_buffer("adjacency", adjacency)
    return net


ROW, PICTURE, TOKENS = torch.ones(1, 4), torch.ones(1, 3, 8, 8), torch.tensor([[1, 2, 3]])
SEQUENCE, SERIES = torch.ones(1, 5, 4), torch.ones(1, 3, 16)


@dataclass(frozen=True)
class Entry:
    """An architecture: what it is, its tail, whether that is optimal, and why."""

    name: str
    build: Callable[[], nn.Module]
    example: Any
    theta: float
    exact: bool
    why: str
    prior: str = "gaussian"
    index: float | None = None


TABLE = (
    Entry("linear model", lambda: nn.Linear(4, 1), ROW, 0.5, True, "Gaussian: |z|_k ~ sqrt(k)"),
    Entry("ReLU, 3 layers", lambda: mlp(nn.ReLU()), ROW, 1.5, True, "T"),
    Entry("GELU, 10 layers", lambda: mlp(nn.GELU(), 10), ROW, 5.0, True, "T: GELU(u) ~ u above 0"),
    Entry("leaky ReLU", lambda: mlp(nn.LeakyReLU()), ROW, 1.5, True, "T"),
    Entry("softplus", lambda: mlp(nn.Softplus()), ROW, 1.5, True, "T"),
    Entry("PReLU", lambda: mlp(nn.PReLU()), ROW, 1.5, True, "T; its slope is a constant"),
    Entry("deep linear", lambda: mlp(nn.Identity()), ROW, 1.5, True, "products of Gaussians"),
    Entry("tanh", lambda: mlp(nn.Tanh()), ROW, 0.5, True, "Gaussian weights on bounded entries; S"),
    Entry("ReLU6", lambda: mlp(nn.ReLU6()), ROW, 0.5, True, "as tanh"),
    Entry(
        "sine",
        lambda: Net(lambda m, x: m.b(torch.sin(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 1)),
        ROW,
        0.5,
        True,
        "as tanh",
    ),
    Entry(
        "squares",
        lambda: Net(lambda m, x: m.b(m.a(x).square()), a=nn.Linear(4, 4), b=nn.Linear(4, 1)),
        ROW,
        1.5,
        True,
        "|u^2|_k = |u|_2k^2 ~ k, then 1/2 more by S",
    ),
    Entry("Laplace weights", lambda: mlp(nn.ReLU()), ROW, 3.0, True, "|w|_k ~ k each", "laplace"),
    Entry(
        "weights exp(-|w|^0.5)",
        lambda: mlp(nn.ReLU()),
        ROW,
        6.0,
        True,
        "|w|_k ~ k^2 each",
        "generalised_normal(0.5)",
    ),
    Entry("uniform weights", lambda: mlp(nn.ReLU()), ROW, 0.0, True, "sums of bounded", "uniform"),
    Entry("torch's own weights", lambda: mlp(nn.ReLU()), ROW, 0.0, True, "uniform", "init"),
    Entry(
        "Student weights",
        lambda: mlp(nn.ReLU()),
        ROW,
        math.inf,
        True,
        "Breiman: moments are finite where those of w and of h are",
        "student(3)",
        3.0,
    ),
    Entry("Cauchy weights", lambda: mlp(nn.ReLU()), ROW, math.inf, True, "Breiman", "cauchy", 1.0),
    Entry(
        "convolutions and pooling",
        SmallCNN,
        torch.ones(1, 1, 28, 28),
        1.5,
        True,
        "T for each patch; maxima and means of what is >= 0 are no lighter than one entry",
    ),
    Entry(
        "transposed convolution",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3)),
        PICTURE,
        1.0,
        True,
        "each entry is a sum over its weights: S",
    ),
    Entry(
        "1-d convolutions, dilated",
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3, dilation=2), nn.ELU(), nn.Conv1d(4, 2, 3)),
        SERIES,
        1.0,
        True,
        "T for each patch",
    ),
    Entry(
        "residual blocks",
        lambda: nn.Sequential(nn.Linear(4, 4), Residual(4), Residual(4)),
        ROW,
        2.5,
        True,
        "each branch is 1 heavier than what it is added to: M from below",
    ),
    Entry(
        "ResNet18",
        ResNet18,
        torch.ones(1, 3, 32, 32),
        9.0,
        True,
        "18 weight matrices on the longest way; the heavier summand decides, M from below",
    ),
    Entry(
        "DenseNet block",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Dense(4, 4), Dense(8, 4), nn.Conv2d(12, 2, 1)),
        PICTURE,
        2.0,
        True,
        "joined: the heaviest decides what follows, S",
    ),
    Entry(
        "MobileNet block",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), Inverted(4)),
        PICTURE,
        0.5,
        True,
        "ReLU6 bounds what the last layer sees",
    ),
    Entry(
        "squeeze and excitation",
        Squeezed,
        PICTURE,
        0.5,
        True,
        "given h the gate's last unit is symmetric: the gate is >= 1/2 half of the time",
    ),
    Entry(
        "batch norm, as evaluated",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        PICTURE,
        0.5,
        True,
        "a constant factor",
    ),
    Entry(
        "batch norm of the batch",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        PICTURE,
        0.0,
        True,
        "at most sqrt(n)",
    ),
    Entry(
        "layer norm",
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        ROW,
        0.0,
        True,
        "|x_i - mean| <= sqrt(n) std",
    ),
    Entry(
        "group norm, then a layer",
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1)
        ),
        PICTURE,
        0.5,
        True,
        "Gaussian weights on bounded entries",
    ),
    Entry(
        "RMS norm by hand",
        lambda: Net(
            lambda m, x: (h := m.a(x)) * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
            a=nn.Linear(4, 4),
        ),
        ROW,
        0.0,
        True,
        "|x_i| <= sqrt(n mean of squares)",
    ),
    Entry(
        "rows of norm 1",
        lambda: Net(lambda m, x: F.normalize(m.a(x), dim=-1), a=nn.Linear(4, 4)),
        ROW,
        0.0,
        True,
        "|x_i| <= |x|",
    ),
    Entry(
        "GLU",
        lambda: nn.Sequential(nn.Linear(4, 8), nn.GLU()),
        ROW,
        0.5,
        True,
        "halves of a layer are independent given x; the gate is >= 1/2 half of the time",
    ),
    Entry(
        "SwiGLU",
        lambda: Gated(F.silu),
        ROW,
        1.5,
        True,
        "units of two layers on x are independent: 1/2 + 1/2, then S",
    ),
    Entry(
        "gated after a layer",
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Gated(F.silu)),
        ROW,
        2.5,
        True,
        "E|ab|^k >= (E|w|^k)^2 E|h_1|^2k, so 1 + 1; then S",
    ),
    Entry(
        "bilinear of one layer",
        lambda: Net(lambda m, x: m.b(h := m.a(x), h), a=nn.Linear(4, 4), b=nn.Bilinear(4, 4, 2)),
        ROW,
        1.5,
        True,
        "terms w_ii h_i^2: 1/2 + 1, S",
    ),
    Entry(
        "SiLU by hand",
        lambda: Net(lambda m, x: (h := m.a(x)) * torch.sigmoid(h), a=nn.Linear(4, 4)),
        ROW,
        0.5,
        True,
        "u sigmoid(u) >= u / 2 for u >= 0",
    ),
    Entry(
        "attention on the input",
        lambda: Attention(deep=False),
        SEQUENCE,
        0.5,
        True,
        "W_V is independent of the weights of the average: Gaussian given those",
    ),
    Entry(
        "attention on a layer",
        lambda: Attention(deep=True),
        SEQUENCE,
        1.0,
        False,
        "an average of values is at most the largest; from below nothing is proved",
    ),
    Entry(
        "pre-norm encoder layer",
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True),
        SEQUENCE,
        1.0,
        True,
        "two weight matrices after each norm; S for the sum",
    ),
    Entry(
        "post-norm encoder layer",
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        SEQUENCE,
        0.0,
        True,
        "ends in a norm",
    ),
    Entry(
        "vision transformer",
        Patches,
        PICTURE,
        1.5,
        True,
        "class token at 1 after the block, 1/2 more for the head",
    ),
    Entry(
        "transformer with tied head",
        lambda: Transformer(11, dim=8, layers=1, heads=2),
        TOKENS,
        0.5,
        False,
        "a norm, then the table that the input was read from: H only",
    ),
    Entry(
        "MLP-Mixer",
        Mixer,
        torch.ones(1, 4, 8),
        1.0,
        True,
        "two weight matrices after each norm, and S",
    ),
    Entry(
        "graph convolutions",
        lambda: graph_network(torch.ones(3, 3).tril()),
        torch.ones(3, 4),
        1.0,
        True,
        "sums with factors >= 0 of ReLUs are no lighter than one of them",
    ),
    Entry(
        "graph convolutions, signed",
        lambda: graph_network(torch.tensor([[1.0, -1], [1, 1]])),
        torch.ones(2, 4),
        1.0,
        False,
        "neighbours with opposite signs may cancel",
    ),
    Entry("LSTM", lambda: nn.LSTM(4, 3), torch.ones(5, 1, 4), 0.0, True, "|h| <= 1"),
    Entry("GRU", lambda: nn.GRU(4, 3), torch.ones(5, 1, 4), 0.0, True, "|h| <= 1"),
    Entry(
        "RNN with ReLU, 5 steps",
        lambda: nn.RNN(4, 3, nonlinearity="relu"),
        torch.ones(5, 1, 4),
        2.5,
        False,
        "the same weights 5 times: H only",
    ),
    Entry("tied layers", Shared, ROW, 1.0, False, "H; |w^2|_k = |w|_2k^2 shows it may be reached"),
    Entry(
        "embedding bag",
        lambda: nn.Sequential(nn.EmbeddingBag(11, 4), nn.ReLU(), nn.Linear(4, 1)),
        TOKENS,
        1.0,
        True,
        "a mean of independent Gaussians, then S",
    ),
    Entry(
        "exponential of a unit",
        lambda: Net(lambda m, x: torch.exp(m.a(x)), a=nn.Linear(4, 4)),
        ROW,
        math.inf,
        True,
        "log-normal: |e^z|_k = e^(k / 2)",
    ),
    Entry(
        "softmax head",
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)),
        ROW,
        0.0,
        True,
        "at most 1",
    ),
    Entry(
        "log-softmax head",
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LogSoftmax(-1)),
        ROW,
        0.5,
        True,
        "|log p_i| >= x_j - x_i, and <= twice the largest + log n",
    ),
    Entry(
        "hypernetwork",
        lambda: Net(lambda m, x: F.linear(x, m.make(x).view(2, 4)), make=nn.Linear(4, 8)),
        ROW,
        0.5,
        False,
        "H; its weights are computed by the network",
    ),
)


class Together(nn.Module):
    """Many networks side by side, so that they are traced at once."""

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(entry.build() for entry in entries)

    def forward(self, *examples: Any) -> dict[str, Tensor]:
        outputs = [net(example) for net, example in zip(self.networks, examples, strict=True)]
        whole = [out[0] if isinstance(out, tuple) else out for out in outputs]
        return {f"out{place}": out for place, out in enumerate(whole)}


@functools.cache
def tails(prior: str) -> dict[str, Tail | Unknown]:
    """Return the tails of all entries of one prior, by name."""
    entries = [entry for entry in TABLE if entry.prior == prior]
    reading = tail_rule(Together(entries), tuple(entry.example for entry in entries), prior)
    nodes = reading.network.outputs
    return {entry.name: reading.tails[nodes[f"out{n}"]] for n, entry in enumerate(entries)}


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_the_tail_of_an_architecture(entry: Entry) -> None:
    found = tails(entry.prior)[entry.name]
    assert isinstance(found, Tail), found
    assert (found.theta, found.index, found.exact) == (entry.theta, entry.index, entry.exact), found


def test_the_table_has_what_the_goal_asks_for() -> None:
    assert len(TABLE) >= 25
    assert all(entry.why for entry in TABLE)
