"""Rows that are behind are never lost, whoever reads them, whatever became of the optimiser."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.memory import ProductKeyMemory, RowwiseAdam, Together

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


def made() -> ProductKeyMemory:
    return ProductKeyMemory(6, 7, 2, 3, 4, query_norm="layer")


def trained(memory: ProductKeyMemory, steps: int = 10, **options: object) -> RowwiseAdam:
    """Train on other tokens in each step, so that rows fall behind."""
    optimiser = RowwiseAdam([memory.values.weight], 0.1, mode="caught_up", **options)
    return run(memory, optimiser, range(steps))


def run(memory: ProductKeyMemory, optimiser: RowwiseAdam, steps: range) -> RowwiseAdam:
    for step in steps:
        memory(X[step % 10 * 2 :][:2]).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return optimiser


def flushed() -> torch.Tensor:
    """Return the values after training, brought up to date by hand."""
    memory = made()
    trained(memory).flush()
    return memory.values.weight.detach()


def test_an_optimiser_that_is_gone_leaves_nothing_behind() -> None:
    memory = made()
    trained(memory)
    gc.collect()
    assert not torch.equal(memory.values.weight, flushed())
    assert torch.equal(memory.eval().values.weight, flushed())


def test_another_optimiser_takes_a_table_that_is_up_to_date() -> None:
    memory = made()
    first = trained(memory)
    RowwiseAdam([memory.values.weight])
    assert torch.equal(memory.values.weight, flushed())
    first.flush()
    assert torch.equal(memory.values.weight, flushed())


def through_pickle(memory: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(memory, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_copies_are_up_to_date(copied: Callable[[nn.Module], nn.Module]) -> None:
    memory = made()
    kept = trained(memory)
    assert torch.equal(copied(memory).values.weight, flushed())
    assert kept.state


def test_new_values_do_not_pay_for_the_old() -> None:
    memory = made()
    kept = trained(memory)
    memory.values.reset_parameters()
    fresh = memory.values.weight.detach().clone()
    assert torch.equal(memory.eval().values.weight, fresh)
    assert kept.state


def test_betas_that_change_are_those_of_the_steps_they_were_set_in() -> None:
    one, other = made(), made()
    late, early = trained(one), trained(other)
    for optimiser in (late, early):
        optimiser.param_groups[0]["betas"] = (0.5, 0.9)
    early.flush()  # by hand, before the betas count
    run(one, late, range(10, 14))
    run(other, early, range(10, 14))
    assert torch.equal(one.eval().values.weight, other.eval().values.weight)


def test_a_mode_that_changes_goes_on_from_where_it_is() -> None:
    memory = made()
    optimiser = RowwiseAdam([memory.values.weight], 0.1)
    run(memory, optimiser, range(8))
    other = copy.deepcopy(memory)
    fresh = RowwiseAdam([other.values.weight], 0.1, mode="caught_up")
    state = optimiser.state_of(memory.values.weight)
    last = torch.full_like(state["last"], 8)
    fresh.restore(other.values.weight, 8, state["momentum"], state["second"], last)
    optimiser.param_groups[0]["mode"] = "caught_up"
    run(memory, optimiser, range(8, 12))
    run(other, fresh, range(8, 12))
    assert torch.equal(memory.eval().values.weight, other.eval().values.weight)
    optimiser.param_groups[0]["mode"] = "cought_up"
    with pytest.raises(InputError, match="Did you mean 'caught_up'"):
        run(memory, optimiser, range(9, 10))


@pytest.mark.parametrize("together", [False, True])
def test_a_copied_optimiser_goes_on_with_the_copied_network(together: bool) -> None:
    memory = made()
    optimiser = trained(memory, 5)
    whole = Together(optimiser, torch.optim.Adam([memory.subkeys])) if together else optimiser
    memory.zero_grad()  # which a copy does not take along
    other_memory, other = copy.deepcopy((memory, whole))
    run(memory, whole, range(5, 12))
    run(other_memory, other, range(5, 12))
    assert torch.equal(memory.eval().values.weight, other_memory.eval().values.weight)
    assert torch.equal(memory.subkeys, other_memory.subkeys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"betas": (0.9,)}, "two betas"),
        ({"betas": (2.0, 3.0)}, "two betas"),
        ({"lr": float("inf")}, "lr >= 0"),
        ({"eps": 0.0}, "eps > 0"),
        ({"mode": "cought_up"}, "caught_up"),
    ],
)
def test_groups_are_checked_and_left_out_whole(options: dict[str, object], words: str) -> None:
    optimiser = RowwiseAdam([made().values.weight])
    with pytest.raises(InputError, match=words):
        optimiser.add_param_group({"params": [made().values.weight], **options})
    with pytest.raises(InputError, match="parameter_groups"):
        optimiser.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    assert len(optimiser.param_groups) == 1


def test_the_state_of_another_optimiser_is_refused() -> None:
    weight = nn.Parameter(torch.ones(4, 3))
    other = torch.optim.Adam([weight])
    weight.grad = torch.ones(4, 3)
    other.step()
    with pytest.raises(InputError, match="another optimiser"):
        RowwiseAdam([weight]).load_state_dict(other.state_dict())


def test_groups_come_before_optimisers_are_put_together() -> None:
    memory = made()
    both = Together(RowwiseAdam([memory.values.weight]), torch.optim.Adam([memory.subkeys]))
    with pytest.raises(InputError, match="one of the optimisers"):
        both.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
