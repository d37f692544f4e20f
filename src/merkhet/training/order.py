"""Which examples every batch holds, as a function of the seed and the batch's number."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from merkhet.core.errors import InputError
from merkhet.training.config import TrainingConfig
from merkhet.training.randomness import derive, seed_generators


class Order:
    """The order of a data set's examples over a whole run.

    Every epoch is shuffled by its own seed, and the epochs are laid end to end. Of this row
    the processes together take `batch_size * processes` examples at a time, each its share;
    so the same examples make a step whether they are split over processes or accumulated.

    Args:
        examples: Size of the data set.
        config: Its batches, `drop_last` and seed count.
        process: Number of this process.
        processes: How many there are.

    Raises:
        InputError: `drop_last` leaves nothing of an epoch.
    """

    def __init__(
        self, examples: int, config: TrainingConfig, process: int = 0, processes: int = 1
    ) -> None:
        self._examples, self._seed = examples, config.seed
        self._share, self._process, self._processes = config.batch_size, process, processes
        step = config.batch_size * config.accumulate * processes
        self.per_epoch = examples - examples % step if config.drop_last else examples
        if self.per_epoch == 0:
            raise InputError(
                f"{examples} examples do not fill one step of {step}: give smaller batches,"
                " or drop_last=False"
            )
        self._epoch, self._shuffled = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, number: int) -> Tensor:
        """Return this process's part of batch `number`, int64 `(batch_size,)`."""
        place = (number * self._processes + self._process) * self._share
        wanted, found = self._share, []
        while wanted:
            epoch, offset = divmod(place, self.per_epoch)
            part = self._shuffle(epoch)[offset : offset + wanted]
            found.append(part)
            place, wanted = place + len(part), wanted - len(part)
        return torch.cat(found)

    def _shuffle(self, epoch: int) -> Tensor:
        """Return the examples of an epoch in their order; the last epoch asked for is kept."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive(self._seed, "epoch", epoch))
            order = torch.randperm(self._examples, generator=generator)
            self._epoch, self._shuffled = epoch, order[: self.per_epoch]
        return self._shuffled


class Batches(Dataset[Any]):
    """A run's batches by number; what is random in fetching one depends on its number only."""

    def __init__(self, dataset: Dataset[Any], order: Order, seed: int, process: int = 0) -> None:
        self._dataset, self._order = dataset, order
        self._seed, self._process = seed, process

    def __getitem__(self, number: int) -> Any:
        """Return this process's part of batch `number`."""
        seed_generators(derive(self._seed, "fetch", number, self._process))
        return fetch(self._dataset, self._order.batch(number))

    def between(self, first: int, last: int, *, workers: int, pin: bool) -> Iterator[Any]:
        """Yield the batches from number `first` to before `last`.

        Args:
            first: Number of the first batch.
            last: One more than the number of the last.
            workers: Processes that fetch ahead, or 0.
            pin: Put the batches in page-locked memory, from where they go to a GPU faster.
        """
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            pin_memory=pin,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals_to_the_trainer,
            # Without one the loader draws from the global generator.
            generator=torch.Generator(),
        )
        return iter(loader)


def fetch(dataset: Dataset[Any], indices: Tensor | Sequence[int]) -> Any:
    """Return examples of a data set as one batch, put together by torch's `default_collate`.

    A `TensorDataset` is indexed at once, and `__getitems__` is used where there is one.

    Args:
        dataset: Has examples, each of the same shapes.
        indices: (count,) places in it.
    """
    if isinstance(dataset, TensorDataset):
        rows = torch.as_tensor(indices)
        return [tensor[rows] for tensor in dataset.tensors]
    places = torch.as_tensor(indices).tolist()
    several = getattr(dataset, "__getitems__", None)
    return default_collate(several(places) if several else [dataset[place] for place in places])


def count_examples(dataset: Dataset[Any]) -> int:
    """Return the size of a data set that can be indexed.

    Raises:
        InputError: It is a stream, has no length, or is empty.
    """
    sized = not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__")
    if not (sized and hasattr(dataset, "__len__")):
        raise InputError(
            f"{type(dataset).__name__} is a stream: give a data set with __len__ and"
            " __getitem__, so that a run can go on at the example where it stopped"
        )
    if len(dataset) == 0:
        raise InputError(f"{type(dataset).__name__} is empty: give at least one example")
    return len(dataset)


def _as_it_is(batch: Any) -> Any:
    """Return the batch, which is put together already."""
    return batch


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Let a worker survive the Ctrl-C that reaches every process of a terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
