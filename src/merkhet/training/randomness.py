"""Randomness that depends on the seed and the place in the run, on nothing before it.

Dropout and most augmentation draw from the global generators, so a run has to seed those.
It seeds them afresh for every batch, which makes any step repeatable without a history of
states to save, and gives them back as they were when it ends.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *place: str | int) -> int:
    """Return a seed of 63 bits for one place in a run, unrelated to that of any other place.

    Args:
        seed: The run's seed.
        place: What the randomness is for, and its number: `"epoch", 3`.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of Python, NumPy, torch on the CPU and torch on `device`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' transforms draw from this one
    # Not torch.manual_seed: it asks every kind of device there is, which takes 0.2 ms.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def borrowed_generators(device: torch.device) -> Iterator[None]:
    """Give the global generators back in the end as they were at the start."""
    on_device = torch.get_device_module(device) if device.type != "cpu" else None
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cpu, other = torch.get_rng_state(), on_device.get_rng_state() if on_device else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if on_device:
            on_device.set_rng_state(other)
