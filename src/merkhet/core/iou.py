"""Intersection over union, from counts over all pictures together."""

from __future__ import annotations

from torch import Tensor


def mean_iou(hits: Tensor, labelled: Tensor, predicted: Tensor) -> Tensor:
    """Return the mean over classes with a label of hits / (labelled + predicted - hits).

    Predicting a class that no label names costs those that are there.

    Args:
        hits: Of each class the pixels that are labelled and predicted as it, (..., classes).
        labelled: Of each class the pixels with its label, (..., classes).
        predicted: Of each class the pixels that are taken for it, (..., classes).

    Returns:
        (...), float64: NaN where there is no label at all.
    """
    hits, labelled, predicted = (counts.double() for counts in (hits, labelled, predicted))
    present = labelled > 0
    shares = hits / (labelled + predicted - hits).clamp(min=1)
    return (shares * present).sum(-1) / present.sum(-1)
