"""How good a network is, with what the sample leaves open."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from merkhet.core import iou
from merkhet.core.errors import InputError
from merkhet.core.intervals import Z95, wilson
from merkhet.core.modes import in_mode
from merkhet.core.outputs import main_tensor
from merkhet.report.record import Figure
from merkhet.training.order import count_examples, fetch


def accuracy(module: nn.Module, dataset: Dataset[Any], batch_size: int = 256) -> Figure:
    """Return the fraction of examples whose largest logit is the label's.

    Args:
        module: Gives logits `(batch, classes)`; evaluated in evaluation mode.
        dataset: Of pairs (input, label); int64 labels `()`.
        batch_size: Examples in one forward pass.

    Returns:
        The fraction, with Wilson's 95 % interval.
    """
    right = total = 0
    for logits, labels in predictions(module, dataset, batch_size):
        right += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    return Figure(right / total, "", wilson(right, total))


def confusion_matrix(
    module: nn.Module,
    dataset: Dataset[Any],
    classes: int,
    batch_size: int = 16,
    ignore_index: int = 255,
) -> Tensor:
    """Count which class was taken for which, over the whole data set.

    Args:
        module: Gives logits `(batch, classes, ...)`, such as one for each pixel.
        dataset: Of pairs (input, labels); integer labels `(...)`.
        classes: How many classes there are.
        batch_size: Examples in one forward pass.
        ignore_index: Label of places that count for nothing.

    Returns:
        int64 `(classes, classes)`: rows are the labels, columns what was predicted.

    Raises:
        InputError: A label or a prediction is out of range.
    """
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for logits, labels in predictions(module, dataset, batch_size):
        counts += count_pairs(labels, logits.argmax(1), classes, ignore_index).cpu()
    return counts


def count_pairs(labels: Tensor, predicted: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Count pairs of label and prediction of the same shape, int64 `(classes, classes)`.

    Raises:
        InputError: A label that is not ignored, or a prediction, is out of range.
    """
    counted = labels != ignore_index
    true, guess = labels[counted].long(), predicted[counted].long()
    for name, values in (("label", true), ("prediction", guess)):
        wrong = values[(values < 0) | (values >= classes)]
        if len(wrong):
            raise InputError(f"{name} {int(wrong[0])} where there are {classes} classes")
    return torch.bincount(true * classes + guess, minlength=classes**2).view(classes, classes)


def mean_iou(confusion: Tensor) -> float:
    """Return the mean over classes of intersection over union, from one confusion matrix.

    Classes that no label names are left out; predicting them costs those that were there.

    Args:
        confusion: Counts `(classes, classes)`, rows the labels, columns the predictions.

    Raises:
        InputError: The matrix is empty.
    """
    if not confusion.any():
        raise InputError("the confusion matrix is empty: no place has a label that counts")
    return float(iou.mean_iou(confusion.diagonal(), confusion.sum(1), confusion.sum(0)))


def perplexity(
    module: nn.Module, dataset: Dataset[Any], batch_size: int = 16, ignore_index: int = -100
) -> Figure:
    """Return the exponential of the mean negative log-likelihood of a token.

    Args:
        module: Gives logits `(batch, length, vocabulary)`.
        dataset: Of pairs (tokens, targets), int64 `(length,)` each.
        batch_size: Sequences in one forward pass.
        ignore_index: Target of places that count for nothing.

    Returns:
        The perplexity, with a 95 % interval that takes sequences as independent and the
        tokens of one as they come (the linearised variance of a ratio of sums; Cochran,
        Sampling Techniques, 1977, section 6.3); None as interval for a single sequence.

    Raises:
        InputError: No target counts.
    """
    losses, tokens = [], []
    for logits, targets in predictions(module, dataset, batch_size):
        loss = F.cross_entropy(
            logits.transpose(1, 2).float(), targets, reduction="none", ignore_index=ignore_index
        )
        losses.append(loss.double().sum(1).cpu())
        tokens.append((targets != ignore_index).sum(1).double().cpu())
    loss, count = torch.cat(losses), torch.cat(tokens)
    if not count.sum():
        raise InputError("no target counts: every one of them is ignored")
    mean = float(loss.sum() / count.sum())
    if len(loss) < 2:
        return Figure(math.exp(mean))
    spread = float((loss - mean * count).square().sum() * len(loss) / (len(loss) - 1))
    margin = Z95 * math.sqrt(spread) / float(count.sum())
    return Figure(math.exp(mean), "", (math.exp(mean - margin), math.exp(mean + margin)))


def predictions(
    module: nn.Module, dataset: Dataset[Any], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the network's main output and the targets, batch by batch, on its device.

    The network is in evaluation mode meanwhile, and afterwards as it was.

    Args:
        module: The network.
        dataset: Of pairs (input, target).
        batch_size: Examples in one forward pass.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    count = count_examples(dataset)
    with in_mode(module, training=False):
        for first in range(0, count, batch_size):
            inputs, targets = fetch(dataset, range(first, min(first + batch_size, count)))
            with torch.no_grad():
                output = main_tensor(module(inputs.to(device)))
            yield output, targets.to(device)
