"""Tables whose rows an optimiser leaves behind, and brings up to date before they are read."""

from __future__ import annotations

from typing import Protocol
from weakref import ref

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Keeper(Protocol):
    """What keeps the rows of a table: an optimiser that works on those that are read alone."""

    def catch_up(self, table: Tensor, indices: Tensor | None) -> None:
        """Do to some rows, or to all, what they are behind."""


_keepers = WeakTensorKeyDictionary()  # parameter -> weak reference to its keeper


def keep(table: Tensor, keeper: Keeper) -> None:
    """Note who keeps a table; the last one counts."""
    _keepers[table] = ref(keeper)


def bring_up_to_date(table: Tensor, indices: Tensor | None = None) -> None:
    """Bring the rows that are about to be read, or all rows, up to date.

    Args:
        table: A parameter.
        indices: Rows in any shape, repeated or not; None means all.
    """
    known: ref[Keeper] | None = _keepers.get(table)
    keeper = known() if known is not None else None
    if keeper is not None:
        keeper.catch_up(table, indices)
