"""What the tail rule must not call exact: entries that vanish, or that are lighter than others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core.graph import Unknown
from merkhet.unit_prior.rules.tail_rule import Tail, tail_rule

Function = Callable[[Any, Tensor], Tensor]
ROUNDING = 1e-12  # sums of at most 20 entries of size 10 in float64, and a layer after them


class Net(nn.Module):
    """Many functions of the same layers, weights and constants, as the outputs of one network."""

    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.functions = functions
        for name in "acd":
            setattr(self, name, nn.Linear(4, 4, bias=False))
        self.one = nn.Linear(1, 3, bias=False)
        self.b = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
        self.n = nn.LayerNorm(4, elementwise_affine=False)
        self.w, self.v = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
        self.k = nn.Parameter(torch.ones(4, 4, 3))
        self.still, self.turned = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        nn.init.zeros_(self.still.weight)
        nn.init.constant_(self.turned.weight, -1.0)
        self.table = nn.Embedding(5, 4, padding_idx=0)
        self.bilinear = nn.Bilinear(4, 4, 2, bias=False)
        self.rnn = nn.RNN(4, 4, nonlinearity="relu")
        self.lstm = nn.LSTM(4, 4)
        self.register_buffer("zero", torch.zeros(4))
        self.register_buffer("first", torch.tensor([1.0, 0, 0, 0]))
        self.register_buffer("below", torch.ones(4, 4).tril(-1))
        self.register_buffer("none", torch.zeros(4, 1))
        self.register_buffer("left", torch.tensor([1.0] * 4 + [0.0] * 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: function(self, x) for name, function in self.functions.items()}


def read(
    functions: dict[str, Function], example: Tensor, prior: str = "gaussian"
) -> dict[str, Any]:
    """Return what was found of each function, by name."""
    reading = tail_rule(Net(functions), example, prior)
    assert reading.network.source == "export", reading.network.reason
    return {name: reading.tails[node] for name, node in reading.network.outputs.items()}


def beside(m: Any, x: Tensor) -> Tensor:
    """Return entries of 1/2 beside those of 1."""
    return torch.cat([m.a(x), m.b(x)], -1)


def opposite(m: Any, x: Tensor) -> Tensor:
    """Return units h and -h, at two positions."""
    return torch.cat([h := m.d(x), -h])


# These are 0 for all weights: no claim about them, or about what follows, is exact.

ZERO_ROW: dict[str, Function] = {
    "a mask": lambda m, x: m.c(m.a(x) * m.zero),
    "a mask, computed": lambda m, x: m.c(m.a(x) * torch.zeros_like(x)),
    "an entry that is masked": lambda m, x: (m.a(x) * m.first)[:, 1:2],
    "masks that do not meet": lambda m, x: (m.a(x) * m.first) * (m.c(x) * (1 - m.first)),
    "filled": lambda m, x: m.c(m.a(x).masked_fill(torch.ones(4).bool(), 0.0)),
    "0 times the input": lambda m, x: m.a(0 * x),
    "the input less itself": lambda m, x: m.a(x - x),
    "a masked input": lambda m, x: m.one((x * m.first)[:, 1:2]),
    "a matrix of zeros": lambda m, x: m.one(m.a(x) @ m.none),
    "pruned rows": lambda m, x: F.linear(x, m.w * m.first[:, None])[:, 1:],
    "pruned rows of two layers": lambda m, x: F.linear(
        F.relu(F.linear(x, m.w * m.below)), m.v * m.below
    )[:, 1:2],
    "rows of a triangle of weights": lambda m, x: F.linear(x, m.w.tril(-1))[:, :1],
    "a norm that is scaled by 0": lambda m, x: m.c(F.layer_norm(m.a(x), (4,), m.zero, m.zero)),
    "batch norm that begins at 0": lambda m, x: m.still(m.a(x)),
    "the upper triangle": lambda m, x: m.a(x).triu(5),
    "what einsum masks": lambda m, x: torch.einsum("bi,ij->bj", m.a(x), m.below)[:, 3],
    "one slice of weights less another": lambda m, x: (
        (x @ m.w[:, :3])[:, 1:2] - (x @ m.w[:, 1:4])[:, :1]
    ),
    "a row of weights less itself": lambda m, x: (
        F.linear(x, m.w[1:])[:, :1] - F.linear(x, m.w)[:, 1:2]
    ),
    "turned weights": lambda m, x: F.linear(x, m.w.flip(0))[:, :1] - F.linear(x, m.w)[:, 3:],
    "a bias that cancels": lambda m, x: F.linear(x, m.w, -F.linear(x, m.w)[0]),
    "sum after a norm": lambda m, x: m.one(m.n(m.a(x)).view(1, 2, 2).sum((1, 2))[:, None]),
    "sum after minus a norm": lambda m, x: m.one((-m.n(m.a(x))).mean(-1, keepdim=True)),
    "parts of a norm, added": lambda m, x: m.one(sum(m.n(m.a(x)).split(1, -1))),
    "ones after a norm": lambda m, x: m.one(F.linear(m.n(m.a(x)), m.none.T + 1)),
    "norm of a normed": lambda m, x: m.one(F.normalize(m.n(m.a(x)), dim=-1).mean(-1, keepdim=True)),
    "norm of copies": lambda m, x: m.c(m.n(m.a(x)[:, :1].expand(1, 4))),
    "bounded, then shifted": lambda m, x: m.c(F.relu(torch.tanh(m.a(x)) - 5)),
    "bounded, then floored": lambda m, x: m.c(torch.floor(torch.sigmoid(m.a(x)))),
    "bounded, then divided": lambda m, x: m.c(torch.sigmoid(m.a(x)) // 2),
    "bounded, then cast": lambda m, x: m.c(torch.sigmoid(m.a(x)).int().to(x.dtype)),
    "bounded, then cut off": lambda m, x: m.c(F.threshold(torch.tanh(m.a(x)), 2.0, 0.0)),
    "cut off on its only side": lambda m, x: m.c(F.relu(m.a(x)).clamp(-1, 0)),
    "a truth that never is": lambda m, x: m.c((F.relu(m.a(x)) < 0).to(x.dtype)),
    "softmax of what is masked": lambda m, x: m.one(
        torch.softmax(m.a(x).masked_fill(m.first == 0, float("-inf")), -1)[:, 3:]
    ),
    "bounded beside its negative": lambda m, x: m.one(
        torch.cat([t := torch.tanh(m.a(x)), -t], -1).sum(-1, keepdim=True)
    ),
    "|u| v over opposite positions": lambda m, x: (
        m.a(h := opposite(m, x)).abs() * m.c(h)
    ).sum(0),
    "alpha = 0": lambda m, x: m.c(torch.add(torch.zeros_like(x), m.b(x), alpha=0)),
    "values that are masked": lambda m, x: m.c(torch.softmax(m.a(x), -1) * 0 * m.b(x)),
    "bilinear of masked": lambda m, x: m.bilinear(m.a(x) * m.zero, m.c(x)),
    "cropped": lambda m, x: m.one(F.pad(m.a(x) * m.first, (-1, -2))),
    "padding alone": lambda m, x: m.one(F.pad(m.a(x), (1, -4))),
}  # fmt: skip
ZERO_POSITIONS: dict[str, Function] = {
    "a masked position": lambda m, x: m.c(m.a(x) * m.first[:, None])[:, 3],
    "a position of a triangle": lambda m, x: m.a(x).tril(-1)[:, 0],
    "a position that none is added to": lambda m, x: (m.below @ F.relu(m.a(x)))[:, 0],
    "attention to none": lambda m, x: (
        torch.softmax(m.a(x) @ m.c(x).mT, -1).tril(-1)[:, :1] @ m.d(x)
    ),
    "mean over channels, turned": lambda m, x: m.one(m.n(m.a(x)).mT.mean(1)[..., None]),
    "mean over channels, in two": lambda m, x: m.one(m.n(m.a(x)).mean(1).mean(-1, keepdim=True)),
    "a layer across positions": lambda m, x: F.linear(m.n(m.a(x)).mT, m.w).sum(1),
    "pooled over channels": lambda m, x: m.one(F.adaptive_avg_pool1d(m.n(m.a(x)), 1)),
    "patches of padding": lambda m, x: F.unfold(m.a(x)[None], 1, padding=2)[..., 0],
}
ZERO_SERIES: dict[str, Function] = {
    "padding alone": lambda m, x: F.conv1d(x, m.k, padding=4)[:, :, 0],
    "a masked kernel's first": lambda m, x: F.conv1d(
        x, m.k * torch.tensor([1.0, 0, 0], dtype=x.dtype), padding=1
    )[:, :, 0],
    "gaps of a stride": lambda m, x: F.conv_transpose1d(x, m.k[:, :, :1], stride=3)[:, :, 1],
}
SHAPES = {"row": (1, 4), "positions": (1, 4, 4), "series": (1, 4, 8)}
ZEROS = {"row": ZERO_ROW, "positions": ZERO_POSITIONS, "series": ZERO_SERIES}


@pytest.mark.parametrize("kind", ZEROS)
def test_what_is_zero_is_not_called_exact(kind: str) -> None:
    """Each is 0 for weights that are drawn, and read as a bound or as 0."""
    generator = torch.Generator().manual_seed(0)
    functions, example = ZEROS[kind], torch.randn(SHAPES[kind], generator=generator)
    net = Net(functions).double().eval()
    for value in net.parameters():
        if value.dim() > 1:
            value.data.normal_(generator=generator)
    values = net(example.double())
    for name, tail in read(functions, example).items():
        assert values[name].abs().max() <= ROUNDING, name
        assert isinstance(tail, Tail), (name, tail)
        assert tail.theta == 0 or not tail.exact, (name, tail)


# What each is read as. "<=" is a bound, nothing before theta is exact.

LIGHTER: dict[str, tuple[Function, str]] = {
    "heavy entries masked": (lambda m, x: beside(m, x) * m.left, "<= 1"),
    "heavy entries filled": (lambda m, x: beside(m, x).masked_fill(m.left == 0, 0.0), "<= 1"),
    "light entries chosen": (lambda m, x: torch.where(m.left > 0, beside(m, x), 0.0), "<= 1"),
    "heavy entries cut off": (lambda m, x: m.one(F.pad(beside(m, x), (0, -7))), "<= 1.5"),
    "heavy entries pruned": (
        lambda m, x: F.linear(torch.cat([m.b(x)[:, :1], m.a(x)[:, :3]], -1), m.w * (1 - m.first)),
        "<= 1.5",
    ),
    "light sums": (lambda m, x: F.relu(beside(m, x)).cumsum(-1)[:, :4], "<= 1"),
    "written over": (lambda m, x: torch.slice_scatter(m.b(x), m.a(x), 1, 0, 4), "<= 1"),
    "norm of the light": (lambda m, x: (beside(m, x) * m.left).norm(dim=-1), "<= 1"),
    "the least of several": (lambda m, x: F.relu(m.a(x)).topk(1, largest=False)[0], "<= 0.5"),
    "rows across rows": (
        lambda m, x: F.linear(h := m.a(x), m.w)[:, :1] * (h @ m.w)[:, 1:2],
        "<= 2",
    ),
    "values times places": (lambda m, x: (t := m.a(x).topk(2))[0] * t[1].to(x.dtype), "<= 0.5"),
    "alpha = 0": (lambda m, x: torch.add(m.a(x), m.b(x), alpha=0), "0.5"),
    "0 times the heavier": (lambda m, x: torch.sub(m.a(x), m.b(x), alpha=0), "0.5"),
    "cast to truths": (lambda m, x: m.b(x).bool(), "0"),
    "centred weights": (lambda m, x: F.linear(x, m.w - m.w.mean(1, keepdim=True)), "<= 0.5"),
    "standardised weights": (
        lambda m, x: F.linear(x, (m.w - m.w.mean()) / (m.w.std() + 1)),
        "<= 0.5",
    ),
    "a sum of weights": (lambda m, x: m.w.sum() * x, "0.5"),
    "no entries": (lambda m, x: m.a(x[:0]), "0"),
    "a sum of no entries": (lambda m, x: m.a(x)[:, :0].sum(-1) + x[:, 0], "0"),
    "1 over a spread": (lambda m, x: 1 / (F.softplus(m.a(x)) + 1).std(-1), "unknown"),
    "1 over a difference": (lambda m, x: 1 / torch.add(F.relu(m.a(x)), 2, alpha=-1), "unknown"),
    "root of a border": (lambda m, x: F.pad(F.relu(m.a(x)), (1, 1), value=-1.0).sqrt(), "unknown"),
    "root of log-softmax": (
        lambda m, x: torch.log_softmax(F.relu(m.a(x)) + 1, -1).sqrt(),
        "unknown",
    ),
    "exp of what is turned": (lambda m, x: torch.exp(m.turned(F.relu(m.a(x)))), "0"),
    "ReLU of what is turned": (lambda m, x: F.relu(m.turned(F.relu(m.a(x)))), "<= 0.5"),
}


@functools.cache
def lighter() -> dict[str, Tail | Unknown]:
    """Return what was found of all of these, which are traced at once."""
    return read({name: function for name, (function, _) in LIGHTER.items()}, torch.ones(1, 4))


def told(tail: Tail | Unknown) -> str:
    """Return what a table says."""
    return "unknown" if isinstance(tail, Unknown) else str(tail)


@pytest.mark.parametrize("name", LIGHTER)
def test_lighter_entries_do_not_pass_for_the_heaviest(name: str) -> None:
    assert told(lighter()[name]) == LIGHTER[name][1], lighter()[name]


def test_what_constants_leave_is_exact_still() -> None:
    """Masks, pruning and selections of known values are followed entry by entry."""
    row: dict[str, tuple[Function, str]] = {
        "kept by a mask": (lambda m, x: (m.a(x) * m.first)[:, :1], "0.5"),
        "kept by a mask, moved": (lambda m, x: (m.a(x) * m.first).roll(1, -1)[:, 1:2], "0.5"),
        "rows left by pruning": (lambda m, x: F.linear(x, m.w * m.first[:, None])[:, :1], "0.5"),
        "a triangle of weights": (lambda m, x: F.linear(x, m.w.tril()), "0.5"),
        "the last of two triangles": (
            lambda m, x: F.linear(F.relu(F.linear(x, m.w * m.below)), m.v * m.below)[:, 3:],
            "1",
        ),
        "the heavy half": (lambda m, x: beside(m, x)[:, 4:], "1"),
        "a triangle of ones": (lambda m, x: m.a(x).T.mT @ torch.ones(4, 4).tril(), "0.5"),
        "u v over opposite positions": (
            lambda m, x: (m.a(h := opposite(m, x)) * m.c(h)).sum(0),
            "2",
        ),
    }
    series: dict[str, tuple[Function, str]] = {
        "padding beside entries": (lambda m, x: F.conv1d(x, m.k, padding=1)[:, :, 0], "0.5"),
        "a kernel as long as its stride": (
            lambda m, x: F.conv_transpose1d(x, m.k, stride=3),
            "0.5",
        ),
        "mean over places after a norm": (lambda m, x: m.n(m.a(x.view(1, 8, 4))).mean(1), "0"),
        "a layer after that mean": (
            lambda m, x: m.c(m.n(m.a(x.view(1, 8, 4))).mean(1)),
            "0.5",
        ),
    }
    for cases, shape in ((row, (1, 4)), (series, (1, 4, 8))):
        found = read({name: function for name, (function, _) in cases.items()}, torch.ones(shape))
        assert {name: told(tail) for name, tail in found.items()} == {
            name: text for name, (_, text) in cases.items()
        }


def test_powers_divide_the_index() -> None:
    """E|u|^p of Cauchy units is finite for p < 1.

    For that of a product of powers m and n of two units on one h, E|w|^(mp), E|w|^(np) and
    E|h|^((m + n) p) must be finite.
    """
    cases: dict[str, tuple[Function, str]] = {
        "cube": (lambda m, x: m.a(x) ** 3, "inf (index 0.333333)"),
        "x x x": (lambda m, x: (h := m.a(x)) * h * h, "inf (index 0.333333), a bound"),
        "square of a product": (
            lambda m, x: (m.c(h := m.a(x)) * m.d(h)).square(),
            "inf (index 0.25)",
        ),
        "cubes of one layer": (
            lambda m, x: m.c(h := m.a(x)) ** 3 * m.d(h) ** 3,
            "inf (index 0.166667)",
        ),
        "a cube and a unit": (lambda m, x: m.c(h := m.a(x)) ** 3 * m.d(h), "inf (index 0.25)"),
        "a gate and a unit": (lambda m, x: torch.tanh(m.c(h := m.a(x))) * m.d(h), "inf (index 1)"),
    }
    found = read(
        {name: function for name, (function, _) in cases.items()}, torch.ones(1, 4), "cauchy"
    )
    assert {name: told(tail) for name, tail in found.items()} == {
        name: text for name, (_, text) in cases.items()
    }


def test_an_index_of_0_is_not_dropped_by_recurrence() -> None:
    """The exponential of a Cauchy unit has no moment, nor has what a ReLU RNN makes of it."""
    functions: dict[str, Function] = {
        "exp": lambda m, x: m.rnn(torch.exp(m.a(x)))[0],
        "plain": lambda m, x: m.rnn(x)[0],
        "saturating": lambda m, x: m.lstm(torch.exp(m.a(x)))[0],
    }
    found = read(functions, torch.ones(3, 1, 4), "cauchy")
    assert {name: told(tail) for name, tail in found.items()} == {
        "exp": "inf (index 0), a bound",
        "plain": "inf (index 0.333333), a bound",
        "saturating": "0",
    }


def test_padding_rows_and_complex_weights() -> None:
    table = read({"row": lambda m, x: m.table(x)[:, 0]}, torch.tensor([[0, 2]]))["row"]
    assert told(table) == "<= 0.5"

    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = nn.Parameter(torch.ones(3, dtype=torch.cfloat))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.fft.rfft(x) * self.z)

    found = tail_rule(Waves(), torch.ones(1, 4)).output
    assert isinstance(found, Unknown)
    assert "complex" in found.reason
