"""The data that operating points are chosen and measured on, and the scores on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.points.data_checks import (
    TASKS,
    check_labels,
    check_part,
    check_pictures,
    is_whole,
    one_output,
    which_count,
)
from merkhet.core.errors import InputError
from merkhet.core.intervals import wilson
from merkhet.core.iou import mean_iou
from merkhet.core.modes import evaluating

BATCH = 128  # pictures in one forward pass, less than twice as many,
PIXELS = 2**19  # and pixels of them
RESAMPLES = 1000


@dataclass(frozen=True)
class Sets:
    """Pictures with labels, in three parts that share none.

    Attributes:
        train: Pictures that the mixture was trained on, without augmentation, (n, channels,
            height, width): for the statistics of batch norms; some hundreds are enough. None for
            mixtures without batch norms.
        validation: Pictures and integer labels: what points are chosen by. Labels (n,) of the
            pictures, or (n, height, width) of their pixels.
        test: The same: what the chosen points are measured on.
        ignore: The label that counts for nothing; None where every label counts.

    Raises:
        InputError: A part is empty, is no tensors of these shapes and kinds, or has no label that
            counts; or the label that counts for nothing is no whole number.
    """

    train: Tensor | None
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not (self.ignore is None or is_whole(self.ignore)):
            raise InputError(f"ignore = {self.ignore!r}: give the label that counts for nothing")
        for name in ("validation", "test"):
            check_part(name, getattr(self, name), self.ignore)
        if self.train is not None:
            check_pictures("train", self.train)
        if self.validation[1].dim() != self.test[1].dim():
            raise InputError("labels of pictures and labels of pixels: give one kind in both parts")

    @property
    def task(self) -> str:
        """What the labels are for: "classification" or "segmentation"."""
        return TASKS[self.validation[1].dim()]

    def check(self, model: CNMM) -> None:
        """Refuse labels that do not fit what a mixture gives.

        Args:
            model: The mixture; run on one picture.

        Raises:
            InputError: Pictures that it does not run on, classes beyond the head, or scores of
                other shape than the labels.
        """
        if self.train is not None and len(self.train):
            one_output("train", self.train, model)
        for name, (x, labels) in (("validation", self.validation), ("test", self.test)):
            check_labels(name, labels, one_output(name, x, model), self.ignore)


@dataclass(frozen=True)
class Score:
    """How good a network is on some data.

    Attributes:
        value: Accuracy or mean IoU, in [0, 1].
        interval: At 95 %; None of a single picture's mean IoU.
    """

    value: float
    interval: tuple[float, float] | None


def score(
    network: CNMM, gates: Sequence[Gates], data: tuple[Tensor, Tensor], ignore: int | None
) -> Score:
    """Return the accuracy, or for labels of pixels the mean IoU.

    The mean over the classes that a label names of intersection over union, from counts over all
    pictures together; predicting a class that is nowhere costs those that are there.

    Args:
        network: The mixture, recalibrated for the gates.
        gates: Of the part of it that is run, of each stage; values (T + 1,).
        data: Pictures (n, channels, height, width); labels (n,) or (n, height, width).
        ignore: The label that counts for nothing.

    Returns:
        Accuracy with Wilson's interval; mean IoU with the percentile bootstrap over pictures,
        which takes them as independent.

    Raises:
        InputError: The network's scores are not finite.
    """
    batches = list(_tallies(network, gates, data, ignore))
    if data[1].dim() == 1:
        hits, count = torch.stack([batch.sum(0) for batch in batches]).sum(0).tolist()
        return Score(hits / count, wilson(hits, count))
    tallies = torch.cat(batches).double()
    return Score(float(mean_iou(*tallies.sum(0).unbind(-1))), _bootstrap(tallies))


def batches_of(x: Tensor) -> tuple[Tensor, ...]:
    """Return pictures in batches of nearly one size: of two or more, where there are two.

    Args:
        x: (n, channels, height, width).
    """
    size = max(2, min(BATCH, PIXELS // (x.shape[2] * x.shape[3])))
    return x.tensor_split(max(1, len(x) // size))


def _tallies(
    network: CNMM, gates: Sequence[Gates], data: tuple[Tensor, Tensor], ignore: int | None
) -> Iterator[Tensor]:
    """Yield for each batch (batch, 2) hits and counts, or for pixels (batch, classes, 3)."""
    like = next(network.parameters())
    first = 0
    for x in batches_of(data[0]):
        with evaluating(network):
            output = network(x.to(like), gates)
        if not bool(torch.isfinite(output).all()):
            raise InputError(
                "scores of a network are not finite: its training diverged, or pictures are not "
                "finite; look with torch.isfinite"
            )
        labels = data[1][first : first + len(x)].to(output.device)
        first += len(x)
        yield _tally(output, labels, ignore)


def _tally(output: Tensor, labels: Tensor, ignore: int | None) -> Tensor:
    """Return what one batch adds, on the CPU."""
    guess, counted = output.argmax(1), which_count(labels, ignore)
    right = (guess == labels) & counted
    if labels.dim() == 1:
        return torch.stack([right, counted], 1).long().cpu()
    classes = output.shape[1]
    parts = ((labels, right), (labels, counted), (guess, counted))
    return torch.stack([_by_class(of, where, classes) for of, where in parts], 2).cpu()


def _by_class(of: Tensor, where: Tensor, classes: int) -> Tensor:
    """Return how many pixels of each class there are in each picture, (batch, classes)."""
    safe = torch.where(where, of.long(), classes).flatten(1)  # the others go to one more class
    counts = safe.new_zeros(len(of), classes + 1)
    return counts.scatter_add_(1, safe, torch.ones_like(safe))[:, :classes]


def _bootstrap(tallies: Tensor) -> tuple[float, float] | None:
    """Return the interval of the mean IoU over resamples of pictures with a label that counts."""
    given = tallies[tallies[..., 1].sum(1) > 0]
    if len(given) < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(given), (RESAMPLES, len(given)), generator=generator)
    times = torch.zeros(RESAMPLES, len(given), dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    drawn = (times @ given.flatten(1)).view(RESAMPLES, *given.shape[1:])
    values = mean_iou(*drawn.unbind(-1))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(values, ends).tolist()
    return low, high
