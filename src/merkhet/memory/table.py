"""The table of values: rows that are read by weight, with gradients for the rows that were read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from merkhet.core.errors import InputError
from merkhet.memory import plain
from merkhet.memory.paths import path, traced
from merkhet.memory.upkeep import bring_up_to_date, keep

LARGEST_BLOCK = 2**24  # entries initialised at once


class ValueTable(nn.Module):
    """Values of a memory, of which a token reads few.

    The gradient of `weight` is sparse (COO, coalesced, rows ascending): it holds the rows that
    were read and nothing else, so that neither it nor an optimiser such as `RowwiseAdam` or
    `torch.optim.SparseAdam` ever sweeps the table.

    Args:
        slots: Number of values.
        dim: Their width.
        seed: Of the initialisation, N(0, 1 / dim) for each entry.

    Shapes:
        weight: (slots, dim).

    Raises:
        InputError: A number is below 1.
    """

    def __init__(self, slots: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        if slots < 1 or dim < 1:
            raise InputError(f"{slots} slots of width {dim}: give numbers from 1 on")
        self.weight = nn.Parameter(torch.empty(slots, dim))
        self.seed = seed
        self.reset_parameters()

    @property
    def slots(self) -> int:
        """Number of values."""
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        """Their width."""
        return self.weight.shape[1]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the values anew, block by block: a large table is never twice in memory."""
        if self.weight.is_meta:
            return
        keep(self.weight, None)  # what the old values missed is not done to the new
        generator = torch.Generator(self.weight.device).manual_seed(self.seed)
        for block in self.weight.split(max(1, LARGEST_BLOCK // self.dim)):
            block.normal_(0, self.dim**-0.5, generator=generator)

    def forward(self, indices: Tensor, weights: Tensor) -> Tensor:
        """Return weighted sums of values, (..., dim), in float32 at least.

        Args:
            indices: (..., reads) int64, from 0 to slots - 1.
            weights: (..., reads), of the same shape.

        Raises:
            InputError: An index that is not of a slot.
        """
        shape = indices.shape[:-1]
        flat = indices.reshape(-1, indices.shape[-1])
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        shares = weights.reshape(flat.shape).to(wide)
        if traced():
            return plain.read(self.weight, flat, shares).view(*shape, self.dim)
        check_slots(flat, self.slots)
        bring_up_to_date(self.weight, flat)
        given = self.weight, flat.contiguous(), shares.contiguous()
        sums: Tensor = _Read.apply(*given)  # type: ignore[no-untyped-call]
        return sums.view(*shape, self.dim)

    def summed(self, counted: Tensor) -> Tensor:
        """Return what all processes that read this table have counted, (slots,): here, this one."""
        return counted

    def train(self, mode: bool = True) -> ValueTable:
        """Set the mode; for evaluation all rows are brought up to date."""
        if not mode:
            bring_up_to_date(self.weight)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles take, all rows up to date."""
        bring_up_to_date(self.weight)
        return self.__dict__.copy()

    def _save_to_state_dict(self, *given: Any) -> None:
        """Save the weight with all rows up to date."""
        bring_up_to_date(self.weight)
        super()._save_to_state_dict(*given)

    def _load_from_state_dict(self, *given: Any) -> None:
        """Load the weight; what its rows had missed is not done to the new ones."""
        bring_up_to_date(self.weight)
        super()._load_from_state_dict(*given)

    def extra_repr(self) -> str:
        """Return slots and width."""
        return f"slots={self.slots}, dim={self.dim}"


def check_slots(indices: Tensor, slots: int) -> None:
    """Refuse indices that are not of a slot; on an accelerator its own check does."""
    if indices.device.type != "cpu" or not indices.numel():
        return
    low, high = (int(end) for end in indices.aminmax())
    if low < 0 or high >= slots:
        raise InputError(f"indices go from {low} to {high}: the table has slots 0 to {slots - 1}")


class _Read(torch.autograd.Function):
    """The weighted sums with their gradients, the table's by row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, weights)
        sums: Tensor = path(values).read(values.detach(), indices, weights.detach())
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        values, indices, weights = ctx.saved_tensors
        rows, by_row, by_weight = path(values).read_gradients(
            values.detach(), indices, weights.detach(), gradient.contiguous()
        )
        sparse = torch.sparse_coo_tensor(
            rows[None], by_row, values.shape, is_coalesced=True, check_invariants=False
        )
        return sparse, None, by_weight
