"""Causal self-attention with rotary positions, and the cache that lets it go on.

Shape letters: B batch, H heads, L new tokens, T tokens in all, D dimension of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.building import draw_normal

Rotation = tuple[Tensor, Tensor]


def rotation(positions: Tensor, dim: int, base: float, dtype: torch.dtype) -> Rotation:
    """Return cosine and sine of the angles by which each position turns each pair.

    The angles are taken in float32 at least: in half precision, neighbouring late
    positions would fall together.

    Args:
        positions: Positions of the tokens, (L,), whole numbers.
        dim: Dimension D of a head, even.
        base: The slowest pair turns about once in `2 π base` positions.
        dtype: Type of the result.

    Returns:
        Two tensors of shape (L, D/2).

    Reference:
        Su et al., "RoFormer: enhanced transformer with rotary position embedding",
        Neurocomputing 2024, section 3.2.2 and equation 15.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    pairs = torch.arange(0, dim, 2, device=positions.device, dtype=exact)
    angles = positions.to(exact)[:, None] * base ** (-pairs / dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turn the pairs (i, i + D/2) of `x`, (B, H, L, D), by the angles of `rotation`."""
    cosine, sine = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)


class LayerCache:
    """The keys and values that one layer has seen: two tensors (B, H, T, D), or none yet."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens' keys and values, (B, H, L, D); return all of them."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Cache:
    """What a transformer keeps of the tokens it has read, so that it need not read them again.

    Give the same cache to consecutive calls: `model(first, cache)`, then
    `model(more, cache)` gives the logits of `more` as they follow `first`.
    """

    def __init__(self) -> None:
        self._layers: dict[int, LayerCache] = {}

    def __getitem__(self, layer: int) -> LayerCache:
        """Return the cache of one layer."""
        return self._layers.setdefault(layer, LayerCache())

    @property
    def length(self) -> int:
        """Number of tokens read so far."""
        keys = self[0].keys
        return 0 if keys is None else keys.shape[2]

    @property
    def batch(self) -> int | None:
        """Number of texts read side by side, or None while nothing is read."""
        keys = self[0].keys
        return None if keys is None else keys.shape[0]


class Attention(nn.Module):
    """Causal attention with rotary positions; heads may share keys and values in groups.

    Shapes: (B, L, dim) -> (B, L, dim).

    Reference:
        Vaswani et al., NeurIPS 2017, section 3.2; grouped heads: Ainslie et al., "GQA",
        EMNLP 2023, section 2.2.
    """

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.grouped = kv_heads != heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.value = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, turn: Rotation, past: LayerCache | None = None) -> Tensor:
        """Return what each token gathers from itself and the tokens before it.

        Args:
            x: The new tokens' states, (B, L, dim).
            turn: Their rotation, from `rotation`.
            past: The earlier tokens' keys and values, to which the new ones are added.
        """
        query = rotate(self._heads(self.query(x)), turn)
        key = rotate(self._heads(self.key(x)), turn)
        value = self._heads(self.value(x))
        if past is not None:
            key, value = past.append(key, value)
        before = key.shape[2] - query.shape[2]
        mask = _causal_after(before, query.shape[2], x.device)
        gathered = F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=before == 0, enable_gqa=self.grouped
        )
        out: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return out

    def reset_parameters(self, std: float, residual: float, generator: torch.Generator) -> None:
        """Draw the weights with deviation `std`, those of the output with `residual`."""
        for inner in (self.query, self.key, self.value):
            draw_normal(inner.weight, std, generator)
        draw_normal(self.output.weight, residual, generator)

    def _heads(self, x: Tensor) -> Tensor:
        """Split (B, L, H·D) into heads, (B, H, L, D)."""
        batch, length, dim = x.shape
        return x.view(batch, length, dim // self.head_dim, self.head_dim).transpose(1, 2)


def _causal_after(before: int, new: int, device: torch.device) -> Tensor | None:
    """Return which tokens each of `new` may see after `before` others, (L, T).

    None where no mask is needed: a single token sees all, and where no token went before,
    torch's own causal attention, which is aligned at the first token, is right and faster.
    """
    if before == 0 or new == 1:
        return None
    return torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
