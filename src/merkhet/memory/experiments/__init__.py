"""Evidence: what memories do for a language model, what they cost, and what shapes them."""

from merkhet.memory.experiments.flat import product_versus_flat
from merkhet.memory.experiments.layers import layers_versus_memory
from merkhet.memory.experiments.norms import query_norm
from merkhet.memory.experiments.places import placement
from merkhet.memory.experiments.reads import heads_and_k

__all__ = [
    "heads_and_k",
    "layers_versus_memory",
    "placement",
    "product_versus_flat",
    "query_norm",
]
