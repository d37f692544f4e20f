"""Which slots of a memory are used, and how evenly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.calls import as_call
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.memory.table import ValueTable

SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Usage:
    """How the slots of one table were used over some data.

    Attributes:
        mass: (slots,) float64 on the processor, summed weights of each slot, normalised to 1.
        counts: (slots,) int64 on the processor, how often each slot was read.
    """

    mass: Tensor
    counts: Tensor

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self.mass)

    @property
    def used(self) -> float:
        """Share of the slots that were read with a weight above 0."""
        return float((self.mass > 0).double().mean())

    @property
    def kl(self) -> float:
        """Divergence from uniform use, log(slots) + sum of z log z, in nats: 0 is the best."""
        return math.log(self.slots) + float(torch.xlogy(self.mass, self.mass).sum())

    @property
    def gini(self) -> float:
        """Gini coefficient of the mass: 0 is even, 1 all in one slot."""
        ordered = self.mass.sort().values
        ranks = torch.arange(1, self.slots + 1, dtype=torch.float64)
        return float((2 * ranks - self.slots - 1) @ ordered / self.slots)

    def share_of_slots(self, mass: float) -> float:
        """Return the smallest share of the slots that holds a share of the mass."""
        summed = self.mass.sort(descending=True).values.cumsum(0)
        return int((summed < mass * float(summed[-1])).sum() + 1) / self.slots

    def figures(self) -> dict[str, float]:
        """Return all numbers by name."""
        shares = {f"slots_with_{mass:.0%}": self.share_of_slots(mass) for mass in SHARES}
        return {"used": self.used, "kl": self.kl, "gini": self.gini, **shares}


def usage(model: nn.Module, data: Iterable[Any]) -> dict[str, Usage]:
    """Return how the slots of each table in a network are used over some data.

    Weights are summed on the device that the network is on, in float64 where it has it, and over
    the processes that a table is spread over: each calls this, with as many batches of its own.

    Args:
        model: A network with memories; it is left as found.
        data: What it is called with, batch by batch: a tensor, a tuple of arguments, or a
            mapping of keyword arguments.

    Returns:
        Usage by path of the table; a table that is shared stands once.

    Raises:
        InputError: No memory, or no data that reads it.
    """
    tables = {path: part for path, part in model.named_modules() if isinstance(part, ValueTable)}
    if not tables:
        raise InputError(f"{type(model).__name__} has no memory: attach one first")
    with evaluating(model), ExitStack() as stack:
        found = {path: stack.enter_context(_counting(part)) for path, part in tables.items()}
        for batch in data:
            args, kwargs = as_call(batch)
            model(*args, **kwargs)
    found = {
        path: (tables[path].summed(mass), tables[path].summed(counts))
        for path, (mass, counts) in found.items()
    }
    if not any(bool(counts.any()) for _, counts in found.values()):
        raise InputError("no token was read: give at least one batch")
    for path, (mass, _) in found.items():
        if not bool(mass.isfinite().all()):
            raise InputError(
                f"weights of {path} are not finite: the inputs or the network hold NaN"
            )
    return {
        path: Usage((mass / mass.sum().clamp_min(1e-300)).double().cpu(), counts.cpu())
        for path, (mass, counts) in found.items()
    }


@contextmanager
def _counting(table: ValueTable) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tensors that sum weights and reads of each slot while the network runs."""
    device = table.weight.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    mass = torch.zeros(table.slots, dtype=wide, device=device)
    counts = torch.zeros(table.slots, dtype=torch.int64, device=device)

    def count(_table: nn.Module, given: tuple[Tensor, Tensor]) -> None:
        indices, weights = (part.flatten() for part in given)
        mass.index_add_(0, indices, weights.to(wide))
        counts.index_add_(0, indices, torch.ones_like(indices))

    handle = table.register_forward_pre_hook(count)
    try:
        yield mass, counts
    finally:
        handle.remove()
