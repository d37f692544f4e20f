"""A decoder-only transformer in today's plain form."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core import building
from merkhet.core.errors import InputError
from merkhet.models.attention import Attention, Cache, LayerCache, Rotation, rotation
from merkhet.models.sampling import sample

STD = 0.02  # Radford et al., "Language models are unsupervised multitask learners", 2019
EPSILON = 1e-5


class FeedForward(nn.Module):
    """The gated feed-forward layer SwiGLU: down(silu(gate(x)) * up(x)).

    Shapes: (..., dim) -> (..., dim).

    Reference:
        Shazeer, "GLU variants improve transformer", 2020, equation 6.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for each state of x, (..., dim)."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out

    def reset_parameters(self, std: float, residual: float, generator: torch.Generator) -> None:
        """Draw the weights with deviation `std`, those of the output with `residual`."""
        building.draw_normal(self.gate.weight, std, generator)
        building.draw_normal(self.up.weight, std, generator)
        building.draw_normal(self.down.weight, residual, generator)


class Block(nn.Module):
    """Attention, then feed-forward, each added to the normed state it reads."""

    def __init__(self, dim: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, EPSILON)
        self.attention = Attention(dim, heads, kv_heads)
        self.feed_forward_norm = nn.RMSNorm(dim, EPSILON)
        self.feed_forward: nn.Module = FeedForward(dim, hidden)

    def forward(self, x: Tensor, turn: Rotation, past: LayerCache | None = None) -> Tensor:
        """Return the states after this block, (batch, length, dim)."""
        x = x + self.attention(self.attention_norm(x), turn, past)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out

    def reset_parameters(self, std: float, residual: float, generator: torch.Generator) -> None:
        """Draw the weights afresh, save those of a module in the feed-forward layer's place."""
        self.attention_norm.reset_parameters()
        self.attention.reset_parameters(std, residual, generator)
        self.feed_forward_norm.reset_parameters()
        if isinstance(self.feed_forward, FeedForward):
            self.feed_forward.reset_parameters(std, residual, generator)


class Transformer(nn.Module):
    """A language model: RMS norm before each layer, rotary positions, SwiGLU, no biases.

    The embedding of the tokens is also the output layer (tied: one parameter). There is no
    longest text: positions are computed as they come. The feed-forward layer of block i
    is the submodule `layers.<i>.feed_forward`; any module from (..., dim) to (..., dim)
    may take its place.

    First weights follow GPT-2: normal of standard deviation 0.02, divided by
    sqrt(2 layers) for the layers that write to the residual stream.

    Shapes: tokens (batch, length) -> logits (batch, length, vocab_size).

    Args:
        vocab_size: Number of tokens.
        dim: Dimension of the states.
        layers: Number of blocks.
        heads: Number of heads; dim / heads must be even.
        kv_heads: Number of heads of keys and values, a divisor of heads; all of them if None.
        hidden: Inner dimension of the feed-forward layers; 8/3 dim, rounded up to a
            multiple of 8, if None (the parameters of a plain layer of inner dimension 4 dim).
        rope_base: Base of the rotary angles.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.

    Reference:
        Touvron et al., "LLaMA: open and efficient foundation language models", 2023,
        section 2.2; initialisation: Radford et al. 2019, section 2.3.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int = 256,
        layers: int = 4,
        heads: int = 4,
        kv_heads: int | None = None,
        hidden: int | None = None,
        rope_base: float = 10_000.0,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        building.check_counts(vocab_size=vocab_size, dim=dim, layers=layers)
        building.check_positive(rope_base=rope_base)
        kv_heads = heads if kv_heads is None else kv_heads
        hidden = 8 * math.ceil(dim / 3) if hidden is None else hidden
        building.check_counts(hidden=hidden)
        _check_heads(dim, heads, kv_heads)
        self.head_dim = dim // heads
        self.rope_base = rope_base
        with torch.device("meta"):
            self.embedding = nn.Embedding(vocab_size, dim)
            self.layers = nn.ModuleList(Block(dim, heads, kv_heads, hidden) for _ in range(layers))
            self.norm = nn.RMSNorm(dim, EPSILON)
        building.allocate(self)
        self.reset_parameters(building.as_generator(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw fresh weights from `generator`.

        A module that took the place of a feed-forward layer keeps its weights.
        """
        residual = STD / math.sqrt(2 * len(self.layers))
        building.draw_normal(self.embedding.weight, STD, generator)
        for module in self.modules():
            if isinstance(module, Block):
                module.reset_parameters(STD, residual, generator)
        self.norm.reset_parameters()

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits of each next token, (batch, length, vocab_size).

        Args:
            tokens: Numbers of tokens, (batch, length).
            cache: What was read before; the tokens go on from there and are added to it.

        Raises:
            InputError: The tokens have another shape, or the cache another batch.
        """
        start = _check_tokens(tokens, cache)
        weight = self.embedding.weight
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        turn = rotation(positions, self.head_dim, self.rope_base, weight.dtype)
        x = self.embedding(tokens)
        for index, layer in enumerate(self.layers):
            x = layer(x, turn, None if cache is None else cache[index])
        return F.linear(self.norm(x), weight)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: int | torch.Generator = 0,
    ) -> Tensor:
        """Return `tokens` with `max_new_tokens` more, (batch, length + max_new_tokens).

        The network's mode stays as it is: call `eval()` first if a layer of it tells
        training from evaluation (the ones built here do not).

        Args:
            tokens: The beginning, (batch, length), at least one token.
            max_new_tokens: How many tokens to add.
            temperature: Divides the logits; 0 takes the likeliest token each time.
            top_k: Draw among this many likeliest tokens only; among all if None.
            generator: Generator, or seed, of the draws.

        Raises:
            InputError: An argument is not of these.
        """
        building.check_counts(max_new_tokens=max_new_tokens)
        if tokens.dim() == 2 and tokens.shape[1] == 0:
            raise InputError("nothing to go on from: give at least one token to generate from")
        generator = building.as_generator(generator)
        cache = Cache()
        new = tokens
        for _ in range(max_new_tokens):
            logits = self(new, cache)[:, -1]
            new = sample(logits, temperature, top_k, generator).to(tokens)
            tokens = torch.cat((tokens, new), dim=1)
        return tokens


def _check_heads(dim: int, heads: int, kv_heads: int) -> None:
    """Check that the heads divide the dimension, into even parts, and form equal groups."""
    building.check_counts(heads=heads, kv_heads=kv_heads)
    if dim % (2 * heads):
        raise InputError(
            f"dim = {dim} does not split into {heads} heads of even dimension:"
            f" give a multiple of {2 * heads}"
        )
    if heads % kv_heads:
        raise InputError(f"kv_heads = {kv_heads} does not divide heads = {heads}: give a divisor")


def _check_tokens(tokens: Tensor, cache: Cache | None) -> int:
    """Check the tokens' shape; return the position of the first of them."""
    if tokens.dim() != 2 or tokens.is_floating_point():
        raise InputError(
            "a transformer takes tokens as whole numbers of shape (batch, length),"
            f" not {tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    if cache is None:
        return 0
    if cache.batch not in (None, tokens.shape[0]):
        raise InputError(
            f"the cache holds {cache.batch} texts and the tokens {tokens.shape[0]}:"
            " start a new Cache() for another batch"
        )
    return cache.length
