"""Weights moved inside blocks, and norms folded, only where that is exact."""

from __future__ import annotations

import copy

import torch
from torch import nn

from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.extraction.submixture import Weighted, weighted


def test_a_weight_goes_into_the_last_convolution_where_that_is_exact() -> None:
    x, weight = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.tensor(0.3).double()
    conv, tied, hooked = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
    tied.weight = conv.weight
    hooked.register_forward_hook(lambda module, given, result: result + 1)
    inside = {
        "relu": nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()),
        "larger": nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Upsample(scale_factor=2)
        ),
        "group": nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(3, 3), nn.LeakyReLU()),
    }
    outside = {
        "gelu": nn.Sequential(nn.Conv2d(3, 3, 1), nn.GELU()),
        "twice": nn.Sequential(conv, nn.ReLU(), conv),
        "tied": nn.Sequential(conv, nn.ReLU(), tied),
        "hook": nn.Sequential(nn.Conv2d(3, 3, 1), hooked),
        "no scale": nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(3, 3, affine=False)),
        "nothing": nn.Sequential(nn.ReLU()),
    }
    for name, block in (inside | outside).items():
        block = block.double()
        wanted = weight * block(x)
        made = weighted(copy.deepcopy(block), weight)
        assert isinstance(made, Weighted) == (name in outside), name
        assert torch.allclose(made(x), wanted, rtol=1e-13, atol=1e-13), name


def test_a_norm_that_cannot_be_folded_stays() -> None:
    block = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(folded(block)(x), block(x))
    normed = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), nn.BatchNorm2d(2)
    ).eval()
    assert torch.equal(folded(normed)(x), normed(x))
