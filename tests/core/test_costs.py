from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from merkhet.core.costs import costs
from merkhet.core.graph import trace

sys.path.insert(0, str(Path(__file__).parent))
import networks


def cost_of(module: nn.Module, *shape: int):
    return costs(trace(module.eval(), torch.zeros(shape)))


def test_convolution_by_hand() -> None:
    counted = cost_of(nn.Conv2d(4, 6, (3, 5), stride=2, padding=1, groups=2), 2, 4, 9, 11)
    # 9 -> 5 rows, 11 -> 5 columns; each of 6 x 5 x 5 outputs sums 2 channels x 15 taps
    assert counted.multiply_adds == 6 * 5 * 5 * 2 * 15
    assert counted.parameters == 6 * 2 * 15 + 6
    assert counted.activation_bytes == 6 * 5 * 5 * 4


def test_transposed_convolution_by_hand() -> None:
    counted = cost_of(nn.ConvTranspose2d(3, 5, 4, stride=2, bias=False), 1, 3, 6, 6)
    assert counted.multiply_adds == 3 * 6 * 6 * 5 * 16


def test_perceptron_by_hand() -> None:
    counted = cost_of(networks.perceptron(), 4, 7)
    assert counted.multiply_adds == 7 * 5 + 5 * 3
    assert counted.parameters == 7 * 5 + 5 + 5 * 3
    assert counted.activation_bytes == 4 * (5 + 5 + 3)
    assert counted.peak_bytes == 4 * (5 + 5)


def test_attention_by_hand() -> None:
    class Attend(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q[..., :3])

    counted = cost_of(Attend(), 2, 4, 7, 5)
    assert counted.multiply_adds == 4 * 7 * 7 * (5 + 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_weighted_sum_of_rows_multiplies_and_a_plain_one_does_not(weighted: bool) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(9, 6))

        def forward(self, x):
            places = torch.arange(4).expand(len(x), 4)
            shares = x[:, :4] if weighted else None
            return nn.functional.embedding_bag(
                places, self.rows, per_sample_weights=shares, mode="sum"
            )

    assert cost_of(Bag(), 3, 5).multiply_adds == (4 * 6 if weighted else 0)


def test_attention_with_one_query_for_the_whole_batch_by_hand() -> None:
    class Pool(nn.Module):
        def forward(self, x):
            query = x[:1, :, :1]
            return nn.functional.scaled_dot_product_attention(query, x, x)

    counted = cost_of(Pool(), 3, 4, 7, 5)
    assert counted.multiply_adds == 4 * 1 * 7 * (5 + 5)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_general_convolution_by_hand(transposed: bool) -> None:
    class General(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 3, 4, 4))

        def forward(self, x):
            return torch.convolution(
                x, self.weight, None, [2, 2], [0, 0], [1, 1], transposed, [0, 0], 1
            )

    counted = cost_of(General(), 1, 3, 6, 6)
    assert counted.multiply_adds == (3 * 6 * 6 * 3 * 16 if transposed else 3 * 2 * 2 * 3 * 16)


def test_a_cast_fills_memory_and_a_conversion_to_the_same_does_not() -> None:
    class Casts(nn.Module):
        def forward(self, x):
            return x.to(torch.float32).to(torch.float64)

    counted = cost_of(Casts(), 2, 5)
    assert counted.activation_bytes == 5 * 8
    assert counted.peak_bytes == 5 * 8


def test_recurrence_by_hand() -> None:
    counted = cost_of(nn.LSTM(4, 5, batch_first=True), 3, 7, 4)
    assert counted.multiply_adds == 7 * (4 * 20 + 5 * 20)


def test_a_residual_keeps_its_skip_alive() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x):
            y = x * 2
            return self.two(self.one(y)) + y

    counted = cost_of(Skip(), 1, 8)
    assert counted.peak_bytes == 4 * (8 + 32 + 8)


def test_views_cost_nothing_but_keep_their_source() -> None:
    class Viewed(nn.Module):
        def forward(self, x):
            y = x * 2
            z = y.view(-1)
            return (x + 1) + z.view(x.shape)

    counted = cost_of(Viewed(), 1, 8)
    assert counted.activation_bytes == 4 * 8 * 3
    assert counted.peak_bytes == 4 * 8 * 3


@pytest.mark.parametrize("name", [name for name in networks.CASES if name != "recurrent"])
def test_totals_agree_with_torchs_own_counter(name: str) -> None:
    module, example = networks.make(name)
    counted = costs(trace(module, example))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.backends.mha.set_fastpath_enabled(False)
        module(example)
        torch.backends.mha.set_fastpath_enabled(True)
    assert counted.multiply_adds * counted.batch == counter.get_total_flops() / 2
    assert counted.parameters == sum(p.numel() for p in module.parameters())


def test_costs_are_those_of_one_example() -> None:
    module, example = networks.make("residual")
    one, four = (costs(trace(module, example[:1].repeat(n, 1, 1, 1))) for n in (1, 4))
    assert one.multiply_adds == four.multiply_adds
    assert one.activation_bytes == four.activation_bytes
    assert one.peak_bytes == four.peak_bytes


def test_modules_sum_to_the_total() -> None:
    counted = costs(trace(*networks.make("residual")))
    sums = counted.by_module().values()
    assert sum(cost.multiply_adds for cost in sums) == counted.multiply_adds
    assert sum(cost.parameters for cost in sums) == counted.parameters
    assert set(counted.by_module(depth=0)) == {""}


def test_what_is_unused_or_unknown_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return torch.cdist(self.used(x), x)

    counted = cost_of(Odd(), 2, 3)
    assert counted.unused == ("idle.weight", "idle.bias")
    assert len(counted.unknown) == 1
    assert counted.multiply_adds == 9
