from __future__ import annotations

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.models import SmallCNN


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_by_hand() -> None:
    convolutions = 9 * (1 * 32 + 32 * 64)
    head = 4 * 64 * 10 + 10
    assert count(SmallCNN()) == convolutions + 2 * (32 + 64) + head
    assert count(SmallCNN(norm="group")) == convolutions + 2 * (32 + 64) + head
    assert count(SmallCNN(norm="none")) == convolutions + (32 + 64) + head
    assert count(SmallCNN(grid=1, widths=[5])) == 9 * 5 + 2 * 5 + 5 * 10 + 10


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (9, 17)])
def test_takes_every_size(size: tuple[int, int]) -> None:
    assert SmallCNN(classes=7)(torch.zeros(2, 1, *size)).shape == (2, 7)


def test_smaller_than_its_grid_is_refused() -> None:
    network = SmallCNN(in_channels=3, widths=(4, 4, 4))
    with pytest.raises(InputError, match=r"8x8 are too small .* give 16x16 or larger"):
        network(torch.zeros(1, 3, 8, 8))


def test_one_tile_and_average_pooling_forget_where_things_are(generator: torch.Generator) -> None:
    network = SmallCNN(widths=(4, 8), pool="average", grid=1).eval()
    picture = torch.zeros(1, 1, 32, 32)
    picture[..., 12:16, 12:16] = torch.rand(4, 4, generator=generator)
    moved = picture.roll((4, -4), dims=(2, 3))
    # Four pixels are one at the end of two poolings; the borders stay empty.
    assert torch.allclose(network(picture), network(moved), atol=1e-6)
    placed = SmallCNN(widths=(4, 8), pool="average", grid=2).eval()
    assert not torch.allclose(placed(picture), placed(moved), atol=1e-3)


@pytest.mark.parametrize("widths", [(), (0,), (8, 2.5), 32, "32"])
def test_bad_widths_are_refused(widths: object) -> None:
    with pytest.raises(InputError, match="widths = "):
        SmallCNN(widths=widths)


def test_bad_names_are_refused() -> None:
    for argument in ("norm", "activation", "pool"):
        with pytest.raises(InputError, match="'layer': choose one of"):
            SmallCNN(**{argument: "layer"})
