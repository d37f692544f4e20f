"""What latencies depend on besides the network: device, threads, batch, dtype; and threads set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from merkhet.core.building import check_counts
from merkhet.core.errors import InputError
from merkhet.core.machine import processor_name

MOST_THREADS = 1024  # far more, and the operating system ends the program


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Let torch use so many threads for a while; yield their number.

    Args:
        threads: As many as torch uses now where None.

    Raises:
        InputError: Not a whole number of at least 1, or above 1,024.
    """
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    check_counts(threads=threads)
    if threads > MOST_THREADS:
        raise InputError(f"threads = {threads}: give as many as there are cores, {cores()} here")
    torch.set_num_threads(threads)
    try:
        yield int(threads)
    finally:
        torch.set_num_threads(before)


def check_repeats(repeats: int) -> None:
    """Refuse fewer passes than quartiles need."""
    check_counts(repeats=repeats)
    if repeats < 2:
        raise InputError("repeats = 1: give 2 or more, 30 say")


def check_dtype(dtype: object) -> None:
    """Refuse what networks cannot run in."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype = {dtype!r}: give a floating one, such as torch.float32")


def processor(device: torch.device) -> str:
    """Return the name of what computes: the accelerator's, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def cores() -> int:
    """Return how many processors this program may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def batch_of(example: Tensor, batch: int) -> Tensor:
    """Return a batch of given size made of the example's pictures, repeated as needed.

    Args:
        example: Pictures, (n, channels, height, width), n at least 1.
        batch: How many are wanted.

    Raises:
        InputError: The example is no floating batch of pictures, or the size is below 1.
    """
    check_counts(batch=batch)
    if not isinstance(example, Tensor):
        raise InputError(
            f"an example in a {type(example).__name__}: give pictures, a tensor "
            "(batch, channels, height, width)"
        )
    if example.dim() != 4 or not len(example) or not example.is_floating_point():
        raise InputError(
            f"an example of shape {tuple(example.shape)} and {example.dtype}: give pictures "
            "(batch, channels, height, width), floating"
        )
    return example[torch.arange(int(batch), device=example.device) % len(example)].contiguous()
