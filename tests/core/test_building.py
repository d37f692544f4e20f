from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet.core import building
from merkhet.core.errors import InputError


def test_draw_normal_has_mean_and_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.empty(200, 500))
    building.draw_normal(parameter, 0.3, generator)
    # 1e5 draws: the mean's deviation is 1e-3, the deviation's 7e-4.
    assert abs(parameter.mean().item()) < 5e-3
    assert abs(parameter.std().item() - 0.3) < 4e-3


def test_draw_normal_gives_every_dtype_the_same_numbers() -> None:
    drawn = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        drawn.append(torch.empty(50, dtype=dtype))
        building.draw_normal(drawn[-1], 1.0, torch.Generator().manual_seed(3))
    assert torch.equal(drawn[0].double(), drawn[1])
    assert torch.equal(drawn[0].bfloat16(), drawn[2])


def test_as_generator_passes_a_generator_through() -> None:
    generator = torch.Generator()
    assert building.as_generator(generator) is generator
    assert building.as_generator(5).initial_seed() == 5


@pytest.mark.parametrize("seed", [None, 1.0, True, "0"])
def test_as_generator_refuses_other_seeds(seed: object) -> None:
    with pytest.raises(InputError, match=r"give an integer or a torch\.Generator"):
        building.as_generator(seed)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "3", None])
def test_check_counts_names_the_argument(count: object) -> None:
    with pytest.raises(InputError, match=r"classes = .*: give a whole number of at least 1"):
        building.check_counts(good=1, classes=count)


@pytest.mark.parametrize("seed", [2**64, 2**70, -(2**63) - 1])
def test_as_generator_refuses_seeds_that_torch_does_not_take(seed: int) -> None:
    with pytest.raises(InputError, match="give an integer from -9223372036854775808 to"):
        building.as_generator(seed)


@pytest.mark.parametrize("seed", [2**64 - 1, -(2**63), 0])
def test_as_generator_takes_all_that_torch_does(seed: int) -> None:
    building.as_generator(seed)
