from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.core.layers import activation_layer, norm_layer
from merkhet.models import layers


def test_group_norm_has_32_groups_where_they_divide_the_channels() -> None:
    groups = [norm_layer("group", channels).num_groups for channels in (64, 32, 48, 8, 7)]
    assert groups == [32, 32, 16, 8, 1]


def test_convolution_has_a_bias_only_without_a_norm() -> None:
    assert layers.convolution(3, 4, 3, norm="batch").bias is None
    assert layers.convolution(3, 4, 3, norm="none").bias is not None


@pytest.mark.parametrize("make", [norm_layer, layers.pool_layer, activation_layer])
def test_unknown_layer_names_the_allowed_ones(make) -> None:
    arguments = ("layer", 4) if make is norm_layer else ("layer",)
    with pytest.raises(InputError, match="'layer': choose one of"):
        make(*arguments)


def test_he_initialisation_keeps_the_signal_through_depth(generator: torch.Generator) -> None:
    # Circular padding: with zeros around, the border would lose some of the signal.
    blocks = [nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular") for _ in range(10)]
    network = nn.Sequential(*[layer for block in blocks for layer in (block, nn.ReLU())])
    layers.he_initialise(network, generator)
    x = torch.randn(4, 64, 8, 8, generator=generator).relu() * math.sqrt(2)
    with torch.no_grad():
        ratio = (network(x).square().mean() / x.square().mean()).item()
    assert 0.5 < ratio < 2.0
    assert all(block.bias.eq(0).all() for block in blocks)


def test_he_initialisation_renews_a_norm(generator: torch.Generator) -> None:
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5, generator=generator))
    nn.init.constant_(norm.weight, 7.0)
    layers.he_initialise(norm, generator)
    assert norm.weight.eq(1).all()
    assert norm.running_mean.eq(0).all()
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("width", [0, -1.0, math.inf, math.nan, "1"])
def test_scaled_refuses_what_is_no_width(width: object) -> None:
    with pytest.raises(InputError, match=r"width = .*: give a positive number"):
        layers.scaled(64, width)


def test_scaled_rounds_and_leaves_at_least_one_channel() -> None:
    assert [layers.scaled(64, width) for width in (1.0, 0.25, 0.13, 1e-6, 2)] == [64, 16, 8, 1, 128]


def test_check_pictures_tells_shapes() -> None:
    layers.check_pictures(torch.zeros(0, 3, 8, 8), 3, smallest=8)
    with pytest.raises(InputError, match=r"\(batch, 3, height, width\), not \(2, 1, 8, 8\)"):
        layers.check_pictures(torch.zeros(2, 1, 8, 8), 3)
    with pytest.raises(InputError, match=r"not \(3, 8, 8\)"):
        layers.check_pictures(torch.zeros(3, 8, 8), 3)
    with pytest.raises(InputError, match=r"8x7 are too small .* give 8x8 or larger"):
        layers.check_pictures(torch.zeros(2, 3, 8, 7), 3, smallest=8)
