"""How modules are built: checked numbers, memory without draws, weights from a seed."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import cast

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError

SEEDS = (-(2**63), 2**64 - 1)  # those that torch takes


def allocate(network: nn.Module) -> None:
    """Give a network that was built on the meta device memory on torch's default device.

    torch's layers draw their first weights from the global generator. Built under
    `torch.device("meta")` they draw nothing; `network.reset_parameters` fills them after.
    """
    network.to_empty(device=torch.get_default_device())


def as_generator(seed: int | torch.Generator) -> torch.Generator:
    """Return `seed` if it is a generator, else a new one on the CPU with that seed.

    Raises:
        InputError: `seed` is neither a generator nor an integer that torch takes as a seed.
    """
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed {seed!r}: give an integer or a torch.Generator")
    if not SEEDS[0] <= seed <= SEEDS[1]:
        raise InputError(f"seed {seed}: give an integer from {SEEDS[0]} to {SEEDS[1]}")
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def draw_normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill `parameter` with normal numbers of mean 0 and standard deviation `std`.

    They are drawn in float32 on the generator's device, so that a seed gives the same
    network on every device and, up to rounding, in every dtype.
    """
    noise = torch.randn(
        parameter.shape, generator=generator, device=generator.device, dtype=torch.float32
    )
    parameter.copy_(noise.mul_(std))


def check_counts(**counts: object) -> None:
    """Check that each named argument is a whole number of at least 1.

    Raises:
        InputError: One is not; the message names it.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise InputError(f"{name} = {value!r}: give a whole number of at least 1")


def check_positive(**numbers: object) -> None:
    """Check that each named argument is a finite number above 0.

    Raises:
        InputError: One is not; the message names it.
    """
    for name, value in numbers.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not (is_number and 0 < cast(float, value) < math.inf):
            raise InputError(f"{name} = {value!r}: give a positive number")
