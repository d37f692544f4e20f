"""Tables whose rows are spread over processes: each owns some, and reads them for all others.

T tokens in each process (they may differ), M reads of a token, v width of a value, P processes.
The weighted sums are taken where the rows are: partial sums travel, T v for each owner, instead
of the rows themselves, T M v.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from merkhet.core.errors import InputError
from merkhet.memory.paths import path
from merkhet.memory.table import LARGEST_BLOCK, ValueTable, check_slots
from merkhet.memory.upkeep import bring_up_to_date, keep

DDP_IGNORES = "_ddp_params_and_buffers_to_ignore"  # read by DistributedDataParallel


class ShardedValueTable(ValueTable):
    """A table of which this process holds some rows, one part after the other.

    Gradients are means over the processes, as those of DistributedDataParallel are: each
    process's loss is the mean over its own tokens.

    Args:
        slots: Number of values in all processes together.
        dim: Their width.
        group: The processes; all of them by default.
        seed: Of the initialisation, which is that of a `ValueTable`.

    Shapes:
        weight: (rows of this process, dim).

    Raises:
        InputError: torch.distributed is not initialised, or a process would get no slot.
    """

    def __init__(
        self, slots: int, dim: int, group: dist.ProcessGroup | None = None, *, seed: int = 0
    ) -> None:
        if not dist.is_initialized():
            raise InputError("torch.distributed is not initialised: run under torchrun")
        self.all_slots, self.group = slots, group
        rank, processes = dist.get_rank(group), dist.get_world_size(group)
        self.share = math.ceil(slots / processes)  # as torch.chunk and DTensor split
        if self.share * (processes - 1) >= slots:
            raise InputError(
                f"{slots} slots in parts of {self.share} leave none for the last of {processes} "
                "processes: take more slots or fewer processes"
            )
        self.first = min(rank * self.share, slots)
        super().__init__(max(0, min(self.share, slots - self.first)), dim, seed=seed)

    @property
    def slots(self) -> int:
        """Number of values in all processes together."""
        return self.all_slots

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all values anew, block by block; this process keeps its own."""
        if self.weight.is_meta:
            return
        keep(self.weight, None)  # what the old values missed is not done to the new
        device, width = self.weight.device, self.weight.shape[1]
        generator = torch.Generator(device).manual_seed(self.seed)
        rows = max(1, LARGEST_BLOCK // width)
        for start in range(0, self.all_slots, rows):
            block = torch.empty(min(rows, self.all_slots - start), width, device=device)
            block.normal_(0, width**-0.5, generator=generator)
            low = max(self.first, start)
            high = min(self.first + len(self.weight), start + len(block))
            if low < high:
                self.weight[low - self.first : high - self.first] = block[
                    low - start : high - start
                ]

    def forward(self, indices: Tensor, weights: Tensor) -> Tensor:
        """Return weighted sums of values, (..., dim), as `ValueTable`; all processes take part.

        Args:
            indices: (..., reads) int64, from 0 to slots - 1.
            weights: (..., reads), of the same shape.
        """
        shape, reads = indices.shape[:-1], indices.shape[-1]
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        flat = indices.reshape(-1, reads), weights.reshape(-1, reads).to(wide)
        check_slots(flat[0], self.slots)
        sums: Tensor = _ShardedRead.apply(self.weight, *flat, self)  # type: ignore[no-untyped-call]
        return sums.view(*shape, self.weight.shape[1])

    def summed(self, counted: Tensor) -> Tensor:
        """Return the sum over all processes of what each has counted, (slots,)."""
        total = counted.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def extra_repr(self) -> str:
        """Return slots, width and the rows that are here."""
        here = f"{self.first} to {self.first + len(self.weight) - 1}"
        return f"slots={self.slots}, dim={self.dim}, rows here: {here}"


def shard(model: nn.Module, group: dist.ProcessGroup | None = None) -> list[ShardedValueTable]:
    """Spread the tables of a network over processes, in place; every process calls it.

    A network that was built on the meta device gets memory for its own rows alone. Tables stay
    shared between the layers that share them. DistributedDataParallel is told to leave the
    rows alone, if it wraps `model` itself. Optimisers are made afterwards.

    Args:
        model: A network with memories, the same in all processes.
        group: The processes; all of them by default.

    Returns:
        The tables.
    """
    made: dict[int, ShardedValueTable] = {}
    for owner in list(model.modules()):
        for name, part in list(owner.named_children()):
            if isinstance(part, ValueTable) and not isinstance(part, ShardedValueTable):
                if id(part) not in made:
                    made[id(part)] = _sharded(part, group)
                setattr(owner, name, made[id(part)])
    rows = {id(table.weight) for table in made.values()}
    names = [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in rows
    ]
    setattr(model, DDP_IGNORES, [*getattr(model, DDP_IGNORES, []), *names])
    return list(made.values())


def _sharded(table: ValueTable, group: dist.ProcessGroup | None) -> ShardedValueTable:
    """Return the part of a table that this process owns."""
    bring_up_to_date(table.weight)
    with torch.device("meta"):
        part = ShardedValueTable(table.slots, table.dim, group, seed=table.seed)
    part.to(table.weight.dtype)
    if table.weight.is_meta:
        part.to_empty(device=torch.get_default_device())
        part.reset_parameters()
    else:
        own = table.weight.detach()[part.first : part.first + len(part.weight)].clone()
        part.weight = nn.Parameter(own, table.weight.requires_grad)
    part.train(table.training)
    return part


class _ShardedRead(torch.autograd.Function):
    """The weighted sums over the rows of all processes, with their gradients."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, weights: Tensor, table: ShardedValueTable
    ) -> Tensor:
        group = table.group
        counts = _all_counts(len(indices), indices.device, group)
        every = _gather(indices, counts, group), _gather(weights.detach(), counts, group)
        local, shares, columns = _own(*every, table)
        bring_up_to_date(table.weight, local)
        partial = path(values).read(values.detach(), local, shares)
        ctx.save_for_backward(values, local, shares, columns)
        ctx.counts, ctx.group, ctx.reads = counts, group, indices.shape[1]
        return _sum_back(partial, counts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        values, local, shares, columns = ctx.saved_tensors
        every = _gather(gradient.contiguous(), ctx.counts, ctx.group)
        mean = 1 / dist.get_world_size(ctx.group)
        rows, by_row, by_share = path(values).read_gradients(values.detach(), local, shares, every)
        sparse = torch.sparse_coo_tensor(
            rows[None], by_row * mean, values.shape, is_coalesced=True, check_invariants=False
        )
        own = torch.zeros(len(local), ctx.reads, dtype=shares.dtype, device=shares.device)
        # Places beyond a token's own reads repeat columns of others: their share is 0 there.
        own.scatter_add_(1, columns.clamp_min(0), by_share * (columns >= 0))
        return sparse, None, _sum_back(own, ctx.counts, ctx.group), None


def _own(
    indices: Tensor, weights: Tensor, table: ShardedValueTable
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what of all reads falls to this process: local rows, weights, and their columns.

    Reads of a token are moved to the left, and as many columns kept as the most of a token; what
    is no read has weight 0, and column -1.
    """
    local = indices - table.first
    mine = (local >= 0) & (local < len(table.weight))
    most = int(mine.sum(1).max()) if mine.numel() else 0
    columns = (~mine).byte().sort(dim=1, stable=True).indices[:, : max(1, most)]
    kept = mine.gather(1, columns)
    rows = torch.where(kept, local.gather(1, columns), 0)
    shares = torch.where(kept, weights.gather(1, columns), 0.0)
    return rows, shares, torch.where(kept, columns, -1)


def _all_counts(count: int, device: torch.device, group: dist.ProcessGroup | None) -> list[int]:
    """Return the number of tokens in each process."""
    counts = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(counts, counts.new_tensor([count]), group=group)
    return [int(number) for number in counts.tolist()]


def _gather(part: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Return the rows of all processes, one after the other."""
    parts = [part.new_empty(count, *part.shape[1:]) for count in counts]
    sent = [part.contiguous()] * len(counts)
    _exchange(parts, sent, group)
    return torch.cat(parts)


def _sum_back(every: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Return the sum over the processes of what they have for this one's tokens, in order."""
    here = counts[dist.get_rank(group)]
    parts = [every.new_empty(here, *every.shape[1:]) for _ in counts]
    _exchange(parts, [sent.contiguous() for sent in every.split(counts)], group)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _exchange(received: list[Tensor], sent: list[Tensor], group: dist.ProcessGroup | None) -> None:
    """Send each process its part and receive from each what is for this one."""
    into = torch.cat([part.reshape(-1) for part in received])
    sizes = [part.numel() for part in received]
    outgoing = torch.cat([part.reshape(-1) for part in sent])
    dist.all_to_all_single(into, outgoing, sizes, [part.numel() for part in sent], group=group)
    for part, found in zip(received, into.split(sizes), strict=True):
        part.copy_(found.view(part.shape))
