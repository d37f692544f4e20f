from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from merkhet.models.attention import Attention, LayerCache, rotate, rotation

F64 = torch.float64


def turn(start: int, length: int, dim: int, base: float = 100.0):
    return rotation(torch.arange(start, start + length), dim, base, F64)


def random(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def make(heads: int, kv_heads: int, generator: torch.Generator) -> Attention:
    attention = Attention(8 * heads, heads, kv_heads).double()
    attention.reset_parameters(0.2, 0.2, generator)
    return attention


def plainly(attention: Attention, x: Tensor, heads: int) -> Tensor:
    """Attention token by token, head by head; rotation by complex numbers."""
    batch, length, dim = x.shape
    size = dim // heads
    angles = torch.outer(
        torch.arange(length, dtype=F64), 100.0 ** (-torch.arange(0, size, 2) / size)
    )

    def turned(head: Tensor) -> Tensor:
        first, second = head[:, : size // 2], head[:, size // 2 :]
        out = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((out.real, out.imag), dim=1)

    groups = heads // (attention.key.out_features // size)
    gathered = torch.zeros(batch, length, dim, dtype=F64)
    for b in range(batch):
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            shared = slice(h // groups * size, (h // groups + 1) * size)
            query = turned(attention.query(x[b])[:, own])
            key = turned(attention.key(x[b])[:, shared])
            value = attention.value(x[b])[:, shared]
            for t in range(length):
                weights = (key[: t + 1] @ query[t] / math.sqrt(size)).softmax(dim=0)
                gathered[b, t, own] = weights @ value[: t + 1]
    return attention.output(gathered)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_is_the_plain_sum(kv_heads: int, generator: torch.Generator) -> None:
    attention = make(4, kv_heads, generator)
    x = random(2, 5, 32, generator=generator)
    found = attention(x, turn(0, 5, 8))
    torch.testing.assert_close(found, plainly(attention, x, heads=4))


def test_rotation_turns_pairs_and_starts_at_rest(generator: torch.Generator) -> None:
    x = random(1, 1, 6, 8, generator=generator)
    turned = rotate(x, turn(0, 6, 8))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    lengths = x.unflatten(-1, (2, 4)).square().sum(-2)
    torch.testing.assert_close(turned.unflatten(-1, (2, 4)).square().sum(-2), lengths)
    assert not torch.allclose(turned[:, :, 1:], x[:, :, 1:])


def test_products_depend_on_the_distance_only(generator: torch.Generator) -> None:
    query, key = random(2, 1, 1, 1, 8, generator=generator)

    def product(m: int, n: int) -> Tensor:
        return (rotate(query, turn(m, 1, 8)) * rotate(key, turn(n, 1, 8))).sum()

    torch.testing.assert_close(product(3, 1), product(47, 45))
    torch.testing.assert_close(product(1, 9), product(1001, 1009))
    assert (product(3, 1) - product(3, 2)).abs() > 1e-3


def test_half_precision_tells_late_positions_apart() -> None:
    cosine, sine = rotation(torch.arange(4096, 4099), 8, 10_000.0, torch.bfloat16)
    exact = torch.arange(4096.0, 4099.0, dtype=F64)
    assert cosine.dtype == torch.bfloat16
    assert (cosine[:, 0].double() - exact.cos()).abs().max() < 5e-3
    assert (sine[:, 0].double() - exact.sin()).abs().max() < 5e-3


@pytest.mark.parametrize("cut", [[1] * 7, [3, 4], [1, 5, 1], [7]])
def test_cache_goes_on_where_it_stood(cut: list[int], generator: torch.Generator) -> None:
    attention = make(4, 2, generator)
    x = random(2, 7, 32, generator=generator)
    past, parts, start = LayerCache(), [], 0
    for piece in x.split(cut, dim=1):
        parts.append(attention(piece, turn(start, piece.shape[1], 8), past))
        start += piece.shape[1]
    torch.testing.assert_close(torch.cat(parts, dim=1), attention(x, turn(0, 7, 8)))
    assert past.keys is not None
    assert past.keys.shape == (2, 2, 7, 8)
