"""The processes that share the blocks of a Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from merkhet.core.errors import InputError


@dataclass(frozen=True)
class Team:
    """This process among those of torch.distributed; alone where there are none.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, in place; of any shape."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor


def team() -> Team:
    """Return the processes of torch.distributed.

    Raises:
        InputError: torchrun started several and their group is not there.
    """
    if not dist.is_available():
        return Team()
    if dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    if dist.is_torchelastic_launched():
        raise InputError(
            "torchrun started this process without its group: call "
            "torch.distributed.init_process_group('gloo') before gram"
        )
    return Team()
