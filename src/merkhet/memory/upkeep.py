"""Tables whose rows an optimiser leaves behind, and that are brought up to date when read."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Keeper(Protocol):
    """What knows how far the rows of one table are behind.

    It must not hold the table, which it would keep alive; an optimiser may be gone before it.
    """

    def catch_up(self, table: Tensor, indices: Tensor | None) -> None:
        """Do to some rows, or to all, what they are behind."""


_keepers = WeakTensorKeyDictionary()  # parameter -> its keeper


def keep(table: Tensor, keeper: Keeper | None) -> None:
    """Note what keeps a table from now on; what was before settles all rows first."""
    bring_up_to_date(table)
    if keeper is None:
        _keepers.pop(table, None)
    else:
        _keepers[table] = keeper


def bring_up_to_date(table: Tensor, indices: Tensor | None = None) -> None:
    """Bring the rows that are about to be read, or all rows, up to date.

    Args:
        table: A parameter.
        indices: Rows in any shape, repeated or not; None means all.
    """
    keeper: Keeper | None = _keepers.get(table)
    if keeper is not None:
        keeper.catch_up(table, indices)
