"""Networks with memories, by name: a run of them is rebuilt from its folder."""

from __future__ import annotations

from merkhet.core.errors import InputError
from merkhet.memory.attach import attach
from merkhet.models import Transformer


def memory_transformer(
    vocab_size: int,
    dim: int = 256,
    layers: int = 6,
    heads: int = 4,
    places: tuple[int, ...] = (3,),
    mode: str = "beside",
    num_subkeys: int = 256,
    seed: int = 0,
) -> Transformer:
    """Return a language model with memories of num_subkeys**2 slots, to be trained from scratch.

    Shapes: tokens (batch, length) -> logits (batch, length, vocab_size).

    Args:
        vocab_size: Number of tokens.
        dim: Width of the states.
        layers: Blocks.
        heads: Heads of attention.
        places: Blocks that get a memory, from 0; past the middle is the best place for one.
        mode: "beside" the feed-forward layer or "replace" it.
        num_subkeys: Sub-keys of each half.
        seed: Of all weights.

    Raises:
        InputError: A block that is not there, or other numbers out of range.
    """
    if not places or not all(0 <= place < layers for place in places):
        raise InputError(f"places {list(places)}: give blocks from 0 to {layers - 1}")
    network = Transformer(vocab_size, dim, layers, heads, seed=seed)
    paths = [f"layers.{place}.feed_forward" for place in places]
    for memory in attach(network, paths, mode, num_subkeys=num_subkeys, seed=seed):
        memory.values.reset_parameters()  # from scratch, beside a layer too
    return network


NETWORKS = {"memory_transformer": memory_transformer}
