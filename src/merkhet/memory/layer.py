"""The product-key memory layer: keys that find, values that answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core import building
from merkhet.core.errors import InputError, choose
from merkhet.memory.retrieval import retrieve
from merkhet.memory.table import ValueTable

NORMS = ("batch", "layer", "rms")


class ProductKeyMemory(nn.Module):
    """A layer with num_subkeys**2 values, of which a token reads num_heads * top_k.

    Each head's query is split in halves, each half is compared with num_subkeys sub-keys, and
    the slots whose two scores sum highest are read, weighted by the softmax of the sums: the
    exact maximum over all pairs, at the cost of 2 num_subkeys inner products.

    It takes the place of a transformer's feed-forward layer, past the middle of the network,
    or stands beside it. Its values want an optimiser of their own: `parameter_groups`.

    Args:
        dim: Width of the tokens, in and out.
        num_subkeys: Sub-keys in each half; the table has num_subkeys**2 slots.
        num_heads: Queries of a token, each with sub-keys of its own; the table is shared.
        top_k: Slots that each head reads, at most num_subkeys.
        key_dim: Width of a query, an even number.
        value_dim: Width of a value, by default dim; otherwise a projection follows.
        query_norm: "batch" over all tokens (the best for large tables; in training every token
            sees statistics of the others), "layer" or "rms" over each query (causal), or None.
        values: A table to share with another memory, as in `values=other.values`.
        gated: Multiply by silu of a projection of the input before the last projection
            (arXiv 2412.09764).
        seed: Of the initialisation.

    Shapes:
        subkeys: (num_heads, 2, num_subkeys, key_dim / 2).
        values.weight: (num_subkeys**2, value_dim).

    Raises:
        InputError: Numbers that do not go together; says which.

    References:
        Lample, Sablayrolles, Ranzato, Denoyer, Jegou, "Large Memory Layers with Product Keys",
        NeurIPS 2019, arXiv 1907.05242, Section 3.
    """

    def __init__(
        self,
        dim: int,
        num_subkeys: int = 512,
        num_heads: int = 4,
        top_k: int = 32,
        key_dim: int = 256,
        value_dim: int | None = None,
        query_norm: str | None = "batch",
        values: ValueTable | None = None,
        *,
        gated: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if values is not None and not isinstance(values, ValueTable):
            raise InputError(f"values is {type(values).__name__}: give another memory's `.values`")
        own = dim if values is None else values.dim
        width = own if value_dim is None else value_dim
        counts = {"dim": dim, "num_subkeys": num_subkeys, "num_heads": num_heads}
        building.check_counts(**counts, top_k=top_k, key_dim=key_dim, value_dim=width)
        _check(num_subkeys, top_k, key_dim, width, values)
        self.dim, self.num_subkeys, self.num_heads = dim, num_subkeys, num_heads
        self.top_k, self.key_dim = top_k, key_dim
        with torch.device("meta"):
            self.to_query = nn.Linear(dim, num_heads * key_dim)
            self.query_norm = _norm(query_norm, num_heads, key_dim)
            self.subkeys = nn.Parameter(torch.empty(num_heads, 2, num_subkeys, key_dim // 2))
            self.gate = nn.Linear(dim, width, bias=False) if gated else None
            projected = gated or width != dim
            self.projection = nn.Linear(width, dim, bias=False) if projected else None
        building.allocate(self)
        generator = building.as_generator(seed)
        self.reset_parameters(generator)
        draw = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        self.values = ValueTable(num_subkeys**2, width, seed=draw) if values is None else values

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw everything but the values anew: the paper's sub-keys, torch's linear layers."""
        bound = (self.key_dim / 2) ** -0.5
        for layer in (self.to_query, self.gate, self.projection):
            if layer is not None:
                for parameter in layer.parameters():
                    _draw_uniform(parameter, layer.in_features**-0.5, generator)
        _draw_uniform(self.subkeys, bound, generator)
        if isinstance(self.query_norm, nn.BatchNorm1d):
            self.query_norm.reset_parameters()
        if isinstance(self.query_norm, nn.LayerNorm | nn.RMSNorm):
            self.query_norm.reset_parameters()

    def query(self, x: Tensor) -> Tensor:
        """Return the normalised queries, (..., num_heads, key_dim).

        Args:
            x: (..., dim).

        Raises:
            InputError: Another width, or a single token in training with batch norm.
        """
        if x.shape[-1:] != (self.dim,):
            raise InputError(f"x of shape {tuple(x.shape)}: the last length must be {self.dim}")
        queries: Tensor = self.to_query(x.reshape(-1, self.dim))
        if isinstance(self.query_norm, nn.BatchNorm1d):
            if self.training and len(queries) == 1:
                raise InputError(
                    "batch norm has no variance of a single token: train on several at once, or "
                    'take query_norm="layer"'
                )
            queries = self.query_norm(queries) if len(queries) else queries
            queries = queries.unflatten(-1, (self.num_heads, self.key_dim))
        else:
            queries = self.query_norm(queries.unflatten(-1, (self.num_heads, self.key_dim)))
        return queries.view(*x.shape[:-1], self.num_heads, self.key_dim)

    def retrieve(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots that tokens read and their weights, both (..., num_heads, top_k).

        Args:
            x: (..., dim).

        Returns:
            Slots, int64 (slot i * num_subkeys + j for sub-keys i and j), and weights, in float32
            at least, that sum to 1 for each head; the best first.
        """
        queries = self.query(x)
        shape = (*x.shape[:-1], self.num_heads, self.top_k)
        flat = queries.reshape(-1, self.num_heads, self.key_dim)
        indices, weights = retrieve(flat, self.subkeys, self.top_k)
        return indices.view(shape), weights.view(shape)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return what the tokens read, (..., dim), in x's data type.

        Args:
            x: (..., dim).
            padding_mask: Bool of shape (...), True where a token is padding: it is kept out of
                the batch norm's statistics, reads nothing, and gets 0.
        """
        if padding_mask is None:
            return self._read(x)
        found = getattr(padding_mask, "shape", None), getattr(padding_mask, "dtype", None)
        if found != (x.shape[:-1], torch.bool):
            raise InputError(
                f"padding_mask of shape {found[0] and tuple(found[0])} and {found[1]}: give a "
                f"bool tensor of shape {tuple(x.shape[:-1])}, True where a token is padding"
            )
        real = ~padding_mask
        result = torch.zeros_like(x)
        result[real] = self._read(x[real])
        return result

    def _read(self, x: Tensor) -> Tensor:
        """Return what tokens read, none of them padding."""
        indices, weights = self.retrieve(x)
        y: Tensor = self.values(indices.flatten(-2), weights.flatten(-2)).to(x.dtype)
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return y if self.projection is None else self.projection(y).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the numbers that the parts do not show."""
        return f"num_subkeys={self.num_subkeys}, num_heads={self.num_heads}, top_k={self.top_k}"


def _norm(kind: str | None, heads: int, width: int) -> nn.Module:
    """Return the normalisation of queries."""
    if kind is None:
        return nn.Identity()
    makers: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: nn.BatchNorm1d(heads * width),
        "layer": lambda: nn.LayerNorm(width),
        "rms": lambda: nn.RMSNorm(width, eps=1e-6),
    }
    return makers[choose("query_norm", kind, NORMS)]()


def _check(keys: int, top_k: int, key_dim: int, width: int, values: ValueTable | None) -> None:
    """Refuse numbers that do not go together."""
    if top_k > keys:
        raise InputError(f"top_k = {top_k}: at most num_subkeys = {keys} can be found")
    if key_dim % 2:
        raise InputError(f"key_dim = {key_dim}: give an even number, for keys have two halves")
    if values is not None and (values.slots, values.dim) != (keys**2, width):
        raise InputError(
            f"values has {values.slots} slots of width {values.dim}: this memory wants "
            f"num_subkeys**2 = {keys**2} of width {width}"
        )


@torch.no_grad()
def _draw_uniform(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill a parameter with uniform numbers from -bound to bound, the same on every device."""
    if parameter.is_meta:
        return
    noise = torch.rand(parameter.shape, generator=generator, device=generator.device)
    parameter.copy_((2 * noise - 1) * bound)
