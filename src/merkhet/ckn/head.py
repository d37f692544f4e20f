"""A linear classifier of given features by a convex solve: one-versus-all squared hinge.

Features are centred and divided by one number, their mean norm, so that the norm in the RKHS of
what is learned stays a multiple of |w|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.ckn.hinge import Task, squared_hinge
from merkhet.core.building import as_generator, check_positive
from merkhet.core.errors import InputError

PENALTIES = tuple(10 ** (-half / 2) for half in range(2, 14))  # 0.1 to 3e-7
PATIENCE = 3  # penalties without a gain on held-out inputs, after which the path ends


@dataclass(frozen=True)
class Head:
    """A linear classifier, and how it was chosen.

    Attributes:
        linear: From raw features (..., d) to scores (..., classes); the largest is the class's.
        penalty: The penalty that it was learned with.
        penalties: Those that were tried, from the largest.
        accuracies: The share of held-out inputs that each got right; empty of a single penalty.
    """

    linear: nn.Linear
    penalty: float
    penalties: tuple[float, ...]
    accuracies: tuple[float, ...]


def fit_head(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    penalty: float | Sequence[float] | None = None,
    held_out: tuple[Tensor, Tensor] | int = 6,
    seed: int | torch.Generator = 0,
) -> Head:
    """Return the linear classifier of least squared hinge loss, each class against all others.

    It minimises mean_i sum_k max(0, 1 - y_ik (w_k x_i + b_k))^2 + penalty / 2 |w|^2, x the features
    centred and divided by the mean norm of what is left. They are not copied; products are in
    their own type, the solve (L-BFGS) is in float64. Of several penalties the path is followed
    from the largest, until three in a row gain nothing; the one that is most accurate on held-out
    inputs (of equally accurate ones that of the least loss there, then the largest) is learned
    anew with all inputs but those of a pair `held_out`.

    Args:
        features: (n, d), float32 or float64, on any device.
        labels: (n,) integers from 0 to classes - 1.
        classes: How many classes there are.
        penalty: A number, several, or None for twelve from 0.1 to 3e-7.
        held_out: Inputs to choose the penalty on: features (m, d) and labels (m,) to learn nothing
            else from; or one in so many of the given ones, drawn class by class.
        seed: Of the draw of held-out inputs.

    Raises:
        InputError: Features or labels do not fit, are not finite, all equal or of one class; or a
            penalty is not positive.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.2, 1.1], [1.0, 0.0], [1.1, 0.3]])
        >>> head = fit_head(x, torch.tensor([0, 0, 1, 1]), 2, penalty=0.01)
        >>> head.linear(x).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    penalties, features = _checked_penalties(penalty), features.detach()
    _check(features, labels, classes)
    if labels.min() == labels.max():
        raise InputError(f"labels are all {int(labels[0])}: give inputs of two classes or more")
    task = Task(features, labels, classes)
    if len(penalties) == 1:
        return Head(_linear(task, task.solve(penalties[0])), penalties[0], penalties, ())
    if isinstance(held_out, tuple):
        _check(*held_out, classes)
        _check_alike(features, held_out[0])
        path = _path(task, penalties, held_out, None)
    else:
        apart = _drawn(task.labels, held_out, as_generator(seed))
        path = _path(task, penalties, (features, task.labels), apart)
    weights, place, accuracies = path
    chosen = penalties[place]
    weights = task.solve(chosen, weights)
    tried = penalties[: len(accuracies)]
    return Head(_linear(task, weights), chosen, tried, tuple(accuracies))


def _path(
    task: Task, penalties: Sequence[float], held: tuple[Tensor, Tensor], apart: Tensor | None
) -> tuple[Tensor, int, list[float]]:
    """Return the best weights (K, d + 1) of a path, their place, and accuracies to where it ends.

    Args:
        task: All inputs.
        penalties: From the largest.
        held: Features and labels to choose on.
        apart: (n,) which inputs those are among the task's, where they are.
    """
    features, labels = held[0], held[1].to(held[0].device)
    weights, best = None, None
    found: list[tuple[float, float]] = []
    task.learned = None if apart is None else ~apart
    for penalty in penalties:
        weights = task.solve(penalty, weights, coarse=True)
        scores = task.scores(weights, features)
        found.append(_accuracy_and_gain(scores, labels, apart))
        if found.index(max(found)) == len(found) - 1:
            best = weights
        if len(found) - found.index(max(found)) > PATIENCE:
            break
    task.learned = None
    assert best is not None
    return best, found.index(max(found)), [accuracy for accuracy, _ in found]


def _accuracy_and_gain(scores: Tensor, labels: Tensor, apart: Tensor | None) -> tuple[float, float]:
    """Return the share of inputs (of those marked) that are right, and minus their mean loss."""
    if apart is not None:
        scores, labels = scores[apart], labels[apart]
    right = (scores.argmax(1) == labels).double().mean()
    return float(right), -float(squared_hinge(scores.double(), labels))


def _drawn(labels: Tensor, one_in: int, generator: torch.Generator) -> Tensor:
    """Return which inputs are held out, (n,): one in so many of the classes, one after the other.

    Raises:
        InputError: There are fewer inputs, or what is left to learn from is of one class.
    """
    if isinstance(one_in, bool) or not isinstance(one_in, int) or one_in < 2:
        raise InputError(f"held_out = {one_in!r}: give (features, labels), or a number from 2 on")
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[labels[order].argsort(stable=True)]
    apart = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    apart[order[one_in - 1 :: one_in]] = True
    left = labels[~apart]
    if not bool(apart.any()) or left.min() == left.max():
        raise InputError(
            f"{len(labels)} inputs are too few to hold one in {one_in} out: give a single penalty, "
            "such as penalty=0.01"
        )
    return apart


def _linear(task: Task, weights: Tensor) -> nn.Linear:
    """Return the classifier of raw features."""
    matrix, shift = task.on_raw(weights)
    made: nn.Linear = nn.utils.skip_init(nn.Linear, *matrix.mT.shape, dtype=matrix.dtype)
    made.to(matrix.device)
    with torch.no_grad():
        made.weight.copy_(matrix)
        made.bias.copy_(shift)
    return made


def _checked_penalties(given: float | Sequence[float] | None) -> tuple[float, ...]:
    """Return penalties from the largest."""
    found = PENALTIES if given is None else given
    found = tuple(found) if isinstance(found, Sequence) else (found,)
    if not found:
        raise InputError("penalty = (): give a number, several, or None")
    for number in found:
        check_positive(penalty=number)
    return tuple(sorted(set(map(float, found)), reverse=True))


def _check(features: Tensor, labels: Tensor, classes: int) -> None:
    """Refuse features and labels that do not fit."""
    if features.dim() != 2 or features.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"features are {features.dtype} {tuple(features.shape)}: give (n, d) in float32 or "
            "float64, as ckn.encode(images).flatten(1)"
        )
    if labels.shape != features.shape[:1] or labels.dtype not in (torch.int64, torch.int32):
        raise InputError(
            f"labels are {labels.dtype} {tuple(labels.shape)}: for these features give int64 "
            f"({len(features)},)"
        )
    if 0 in features.shape:
        raise InputError(f"features of shape {tuple(features.shape)}: give one or more")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels go from {low} to {high}: with classes = {classes} they must be from 0 to "
            f"{classes - 1}"
        )


def _check_alike(features: Tensor, others: Tensor) -> None:
    """Refuse held-out features of another kind, or that are not finite."""
    if others.shape[1] != features.shape[1] or others.dtype != features.dtype:
        raise InputError(
            f"held-out features are {others.dtype} (m, {others.shape[1]}): give {features.dtype} "
            f"(m, {features.shape[1]})"
        )
    if not bool(others.sum(dtype=torch.float64).isfinite()):
        raise InputError("held-out features hold NaN or infinity: remove or mend them")
