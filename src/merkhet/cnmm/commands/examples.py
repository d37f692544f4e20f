"""The pictures that the commands learn from, choose by and report on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merkhet.core.errors import InputError, choose

if TYPE_CHECKING:
    from torch import Tensor

    from merkhet.cnmm.points.scores import Sets
    from merkhet.data import Pictures
    from merkhet.data.pictures import Segmentation

TASKS = ("classification", "segmentation")
HELD_OUT = 10  # a tenth of the training pictures chooses points, where there is no "val" split
LEAST = 20


@dataclass(frozen=True)
class Examples:
    """What a mixture learns from, and what its points are chosen by.

    Attributes:
        train: Pictures with labels.
        validation: Others.
        ignore: The label of pixels that count for nothing, or None.
    """

    train: Pictures | Segmentation
    validation: Pictures | Segmentation
    ignore: int | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.train.classes

    @property
    def channels(self) -> int:
        """Of the pictures."""
        return int(self.train.images.shape[1])


@dataclass(frozen=True)
class Source:
    """Where examples come from, as a run keeps it.

    Attributes:
        data: Data set, folder or .npz.
        task: "classification" or "segmentation".
        limit: Pictures to learn from and choose by, or None for all.
        size: (height, width) to resize to, or None.
        seed: Of what is drawn.
    """

    data: str
    task: str
    limit: int | None
    size: tuple[int, int] | None
    seed: int

    @classmethod
    def of_run(cls, spec: dict[str, Any]) -> Source:
        """Return the source that a run's spec names."""
        size = spec["size"]
        return cls(
            spec["data"],
            spec["task"],
            spec["limit"],
            None if size is None else (size[0], size[1]),
            spec["seed"],
        )

    def examples(self) -> Examples:
        """Return pictures to learn from and to choose by.

        Raises:
            InputError: The data has no labels of that kind, or too few pictures.
        """
        choose("task", self.task, TASKS)
        return self._segmentation() if self.task == "segmentation" else self._classification()

    def has_test(self) -> bool:
        """Tell whether there is a split "test"; sets with a label for each pixel all have one."""
        from merkhet.data import splits

        return self.task == "segmentation" or "test" in splits(self.data)

    def test(self) -> tuple[Tensor, Tensor]:
        """Return test pictures and their labels, the split "test"."""
        from merkhet.data import load, load_segmentation

        if self.task == "segmentation":
            return as_tensors(load_segmentation(self.data, "test", size=self.size))
        if not self.has_test():
            raise InputError(
                f"{self.data} has no test split, and points are reported on data that nothing was "
                "chosen by: give folders train/ and test/"
            )
        return as_tensors(load(self.data, "test", size=self.size))

    def sets(self, *, test: bool = True) -> Sets:
        """Return the data that points are found on.

        Args:
            test: Whether the test split is read; else validation pictures stand in its place.
        """
        from merkhet.cnmm.points.scores import Sets

        found = self.examples()
        validation = as_tensors(found.validation)
        own = self.test() if test else validation
        return Sets(found.train.floats(), validation, own, found.ignore)

    def _classification(self) -> Examples:
        """Return pictures with a label each."""
        from merkhet.data import load, splits

        there = splits(self.data)
        found = load(self.data, "all" if there == ("all",) else "train", size=self.size)
        if found.labels is None:
            raise InputError(
                f"--data {self.data} has no label for each picture: give pictures in a folder for "
                "each class, or --task segmentation where every pixel has one"
            )
        found = found.sample(_count(self.limit, len(found), self.data), self.seed)
        if "val" in there:
            return Examples(found, load(self.data, "val", size=self.size), None)
        train, held = _held_out(found, self.seed)
        return Examples(train, held, None)

    def _segmentation(self) -> Examples:
        """Return pictures with a label for each pixel."""
        from merkhet.data import load_segmentation

        found = load_segmentation(
            self.data, "train", size=self.size, limit=self.limit, seed=self.seed
        )
        held = load_segmentation(self.data, "val", size=self.size)
        return Examples(found, held, found.ignore)


def as_tensors(data: Pictures | Segmentation) -> tuple[Tensor, Tensor]:
    """Return pictures (n, channels, height, width) in [0, 1], and int64 labels."""
    masks = getattr(data, "masks", None)
    labels = masks.long() if masks is not None else getattr(data, "labels", None)
    if labels is None:
        raise InputError(f"{data!r} has no labels, by which points are chosen and reported")
    return data.floats(), labels


def _held_out(found: Pictures, seed: int) -> tuple[Pictures, Pictures]:
    """Return pictures to learn from, and a tenth to choose by, drawn uniformly.

    Not the last tenth: a sample takes its classes in turns, so that its end may hold the most
    frequent ones alone.
    """
    import torch

    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    held = len(found) // HELD_OUT
    return found.subset(order[held:]), found.subset(order[:held])


def _count(limit: int | None, there: int, data: str) -> int:
    """Return how many pictures to take."""
    if limit is not None and limit > there:
        raise InputError(f"--limit {limit}: {data} has {there:,} pictures, give that or less")
    if (limit or there) < LEAST:
        raise InputError(f"{limit or there} pictures are too few: give {LEAST} or more")
    return limit or there
