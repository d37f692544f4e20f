"""The bits of bfloat16 in compiled code: every one of them, against torch and the Python form."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch

from merkhet.memory import kernels

EVERY = np.arange(2**16, dtype=np.uint16)
WIDE = torch.from_numpy(EVERY.view(np.int16)).view(torch.bfloat16).float().numpy()


@numba.njit
def _widen(row: Any, wide: Any) -> None:
    for place in range(len(row)):
        wide[place] = kernels.get(row, place)


@numba.njit
def _narrow(values: Any, noise: Any, row: Any) -> None:
    for place in range(len(row)):
        kernels.put(row, place, values[place], noise[place])


def test_every_bfloat16_is_widened_exactly() -> None:
    compiled = np.empty(len(EVERY), np.float32)
    _widen(EVERY, compiled)
    plain = np.empty(len(EVERY), np.float32)
    _widen.py_func(EVERY, plain)
    assert np.array_equal(compiled.view(np.uint32), WIDE.view(np.uint32))
    assert np.array_equal(plain.view(np.uint32), WIDE.view(np.uint32))


def test_stores_round_as_torch_does_and_by_noise() -> None:
    drawn = torch.randn(5000, generator=torch.Generator().manual_seed(0)).numpy()
    nearest = np.array([kernels.nearest(value) for value in drawn], np.uint32)
    generator = np.random.default_rng(0)
    some = generator.integers(0, 2**16, len(drawn), dtype=np.uint32)
    rounded = torch.from_numpy(drawn).bfloat16().view(torch.int16).numpy().view(np.uint16)
    for noise in (nearest, some):
        compiled, plain = np.empty((2, len(drawn)), np.uint16)
        _narrow(drawn, noise, compiled)
        _narrow.py_func(drawn, noise, plain)
        assert np.array_equal(compiled, plain)
        assert np.array_equal(compiled, rounded) == (noise is nearest)


def test_float32_rows_are_kept_as_they_are() -> None:
    values = np.float32([1.5, -0.0, np.inf, 1e-40])
    for put in (_narrow, _narrow.py_func):
        row = np.empty_like(values)
        put(values, np.zeros(len(values), np.uint32), row)
        assert np.array_equal(row.view(np.uint32), values.view(np.uint32))
