"""Fixtures that every test may use."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_each() -> None:
    """Tests run side by side, one process a core: more threads only fight."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a seed of its own does not depend on the tests before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - what scikit-learn draws from
    random.seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """Return a generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def need_data() -> Callable[[str], Path]:
    """Return a function that gives a real data set's folder, or skips the test by its name."""
    root = os.environ.get("MERKHET_DATA")

    def folder(name: str) -> Path:
        path = Path(root or ".") / name
        if not root or not path.is_dir():
            pytest.skip(f"data set absent: {name}")
        return path

    return folder
