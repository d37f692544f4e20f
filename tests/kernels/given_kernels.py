"""Small kernels and targets that tests of learning share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from merkhet.kernels import Kernels, Linear, ReLU, Sequential, diagonal, gram

NETWORK = Sequential(Linear(bias_std=0.5), ReLU(), Linear(bias_std=0.5))


class Given(NamedTuple):
    """Both kernels of a small network: n training inputs, m new ones, two outputs."""

    train: Kernels
    cross: Kernels
    new: Kernels
    targets: Tensor


def given(count: int = 12, new: int = 5, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(k, 3, generator=generator).double() for k in (count, new))
    double = {"kind": "both", "dtype": torch.float64}
    train, cross = gram(NETWORK, x, **double), gram(NETWORK, z, x, **double)
    own = gram(NETWORK, z, **double)
    torch.testing.assert_close(own.ntk.diag(), diagonal(NETWORK, z))
    targets = torch.randn(count, 2, generator=generator).double()
    return Given(train, cross, own, targets)
