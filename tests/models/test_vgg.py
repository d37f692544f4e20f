from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.models import VGG11

PAIRS = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]


@pytest.fixture(scope="module")
def standard() -> VGG11:
    return VGG11()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_by_hand(standard: VGG11) -> None:
    stack = sum(9 * before * after for before, after in PAIRS)
    channels = sum(after for _, after in PAIRS)
    head = 512 * 10 + 10
    assert (stack, channels, head) == (9_217_728, 2_752, 5_130)
    assert count(standard) == stack + 2 * channels + head
    # The often quoted 9,231,114 counts a bias before every norm besides.
    assert count(standard) + channels == 9_231_114
    assert count(VGG11(norm="none", classes=100)) == stack + channels + 512 * 100 + 100


def test_convolutions_are_configuration_a(standard: VGG11) -> None:
    found = [layer for layer in standard.features if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in found] == PAIRS
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in standard.features) == 5


def test_width_scales_every_layer() -> None:
    network = VGG11(width=0.125, in_channels=1)
    found = [layer.out_channels for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert found == [after // 8 for _, after in PAIRS]


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (64, 64)])
def test_sizes_from_32_on(size: tuple[int, int]) -> None:
    assert VGG11(width=0.0625, classes=3).eval()(torch.zeros(2, 3, *size)).shape == (2, 3)


def test_smaller_pictures_are_refused() -> None:
    with pytest.raises(InputError, match=r"28x28 are too small .* give 32x32 or larger"):
        VGG11(width=0.0625)(torch.zeros(1, 3, 28, 28))
