from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.models import layers


def test_group_norm_has_32_groups_where_they_divide_the_channels() -> None:
    groups = [layers.norm_layer("group", channels).num_groups for channels in (64, 32, 48, 8, 7)]
    assert groups == [32, 32, 16, 8, 1]


def test_convolution_has_a_bias_only_without_a_norm() -> None:
    assert layers.convolution(3, 4, 3, norm="batch").bias is None
    assert layers.convolution(3, 4, 3, norm="none").bias is not None


@pytest.mark.parametrize("make", [layers.norm_layer, layers.pool_layer, layers.activation_layer])
def test_unknown_layer_names_the_allowed_ones(make) -> None:
    arguments = ("layer", 4) if make is layers.norm_layer else ("layer",)
    with pytest.raises(InputError, match="'layer': choose one of"):
        make(*arguments)


def test_draw_normal_has_mean_and_deviation(generator: torch.Generator) -> None:
    parameter = nn.Parameter(torch.empty(200, 500))
    layers.draw_normal(parameter, 0.3, generator)
    # 1e5 draws: the mean's deviation is 1e-3, the deviation's 7e-4.
    assert abs(parameter.mean().item()) < 5e-3
    assert abs(parameter.std().item() - 0.3) < 4e-3


def test_draw_normal_gives_every_dtype_the_same_numbers() -> None:
    drawn = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        drawn.append(torch.empty(50, dtype=dtype))
        layers.draw_normal(drawn[-1], 1.0, torch.Generator().manual_seed(3))
    assert torch.equal(drawn[0].double(), drawn[1])
    assert torch.equal(drawn[0].bfloat16(), drawn[2])


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


def test_as_generator_passes_a_generator_through(generator: torch.Generator) -> None:
    assert layers.as_generator(generator) is generator
    assert layers.as_generator(5).initial_seed() == 5


@pytest.mark.parametrize("seed", [None, 1.0, True, "0"])
def test_as_generator_refuses_other_seeds(seed: object) -> None:
    with pytest.raises(InputError, match=r"give an integer or a torch\.Generator"):
        layers.as_generator(seed)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "3", None])
def test_check_counts_names_the_argument(count: object) -> None:
    with pytest.raises(InputError, match=r"classes = .*: give a whole number of at least 1"):
        layers.check_counts(good=1, classes=count)


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
