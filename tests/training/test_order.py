from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, StackDataset, TensorDataset

from merkhet.core.errors import InputError
from merkhet.training.config import TrainingConfig
from merkhet.training.order import Batches, Order, count_examples, fetch
from merkhet.training.randomness import borrowed_generators


def row(order: Order, batches: range) -> list[int]:
    return [place for number in batches for place in order.batch(number).tolist()]


class Noisy(Dataset[Any]):
    """Examples with noise from two generators, as augmentation has."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(2) + random.random() + index


def test_every_epoch_holds_every_example_once_in_another_order() -> None:
    order = Order(12, TrainingConfig(1, batch_size=4))
    first, second = row(order, range(3)), row(order, range(3, 6))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_batch_runs_on_over_the_end_of_an_epoch() -> None:
    order = Order(5, TrainingConfig(1, batch_size=4))
    places = row(order, range(5))
    assert all(sorted(places[start : start + 5]) == list(range(5)) for start in range(0, 20, 5))


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    assert Counter(Order(3, TrainingConfig(1, batch_size=6)).batch(0).tolist()) == {
        0: 2,
        1: 2,
        2: 2,
    }


def test_drop_last_leaves_out_what_does_not_fill_a_step() -> None:
    order = Order(11, TrainingConfig(1, batch_size=2, accumulate=2, drop_last=True))
    assert order.per_epoch == 8
    for epoch in range(3):
        places = row(order, range(4 * epoch, 4 * epoch + 4))
        assert len(set(places)) == 8


def test_drop_last_of_everything_is_refused() -> None:
    with pytest.raises(InputError, match="3 examples do not fill one step of 4"):
        Order(3, TrainingConfig(1, batch_size=4, drop_last=True))


def test_the_order_depends_on_the_seed_and_the_number_only() -> None:
    config = TrainingConfig(1, batch_size=4)
    forwards, backwards = Order(10, config), Order(10, config)
    ahead = [forwards.batch(number) for number in range(9)]
    for number in reversed(range(9)):
        assert torch.equal(backwards.batch(number), ahead[number])
    other = Order(10, TrainingConfig(1, batch_size=4, seed=1))
    assert not torch.equal(other.batch(0), ahead[0])


@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_and_accumulation_split_the_same_steps(drop_last: bool) -> None:
    whole = Order(23, TrainingConfig(1, batch_size=8, drop_last=drop_last))
    accumulated = TrainingConfig(1, batch_size=4, accumulate=2, drop_last=drop_last)
    single = TrainingConfig(1, batch_size=4, drop_last=drop_last)
    parts = [Order(23, single, process, 2) for process in range(2)]
    for step in range(7):
        wanted = whole.batch(step).tolist()
        assert row(Order(23, accumulated), range(2 * step, 2 * step + 2)) == wanted
        assert [place for part in parts for place in part.batch(step).tolist()] == wanted


def test_noise_in_fetching_depends_on_the_batch_s_number_only() -> None:
    config = TrainingConfig(1, batch_size=3)
    batches = Batches(Noisy(), Order(10, config), seed=0)
    with borrowed_generators(torch.device("cpu")):
        ahead = list(batches.between(0, 6, workers=0, pin=False))
        later = list(batches.between(4, 6, workers=0, pin=False))
    assert len(ahead) == 6
    assert torch.equal(torch.stack(ahead[4:]), torch.stack(later))
    assert len({float(batch[0, 0] % 1) for batch in ahead}) == 6


def test_worker_processes_give_the_same_batches() -> None:
    batches = Batches(Noisy(), Order(10, TrainingConfig(1, batch_size=3)), seed=0)
    with borrowed_generators(torch.device("cpu")):
        alone = torch.stack(list(batches.between(0, 5, workers=0, pin=False)))
        fetched = torch.stack(list(batches.between(0, 5, workers=2, pin=False)))
    assert torch.equal(alone, fetched)


def test_processes_draw_different_noise() -> None:
    order = Order(10, TrainingConfig(1, batch_size=3))
    with borrowed_generators(torch.device("cpu")):
        first = Batches(Noisy(), order, seed=0, process=0)[0]
        second = Batches(Noisy(), order, seed=0, process=1)[0]
    assert not torch.equal(first, second)


def test_a_tensor_data_set_is_indexed_as_its_examples_are_collated() -> None:
    tensors = torch.randn(6, 2, 3), torch.arange(6)
    quick = fetch(TensorDataset(*tensors), torch.tensor([4, 0, 4]))
    plain = fetch(StackDataset(*tensors), [4, 0, 4])
    assert all(torch.equal(one, other) for one, other in zip(quick, plain, strict=True))
    assert quick[1].tolist() == [4, 0, 4]


def test_dicts_of_examples_become_dicts_of_batches() -> None:
    batch = fetch(StackDataset(x=torch.eye(3), y=torch.arange(3)), [2, 1])
    assert batch["y"].tolist() == [2, 1]
    assert batch["x"].shape == (2, 3)


def test_streams_and_empty_sets_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([1, 2])

    with pytest.raises(InputError, match="Stream is a stream: give a data set with __len__"):
        count_examples(Stream())
    with pytest.raises(InputError, match="TensorDataset is empty"):
        count_examples(TensorDataset(torch.zeros(0, 2)))
