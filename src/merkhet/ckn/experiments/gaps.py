"""Generalisation gaps under random labels, and how measures of complexity order them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from merkhet.core.intervals import student
from merkhet.report import Trial

CLASSES = 10
ORDER = "rank correlation with the gap"
Run = dict[str, float]
Pair = tuple[Tensor, Tensor]


def labelled(labels: Tensor, count: int, share: float, seed: int) -> Pair:
    """Return which pictures of a pool are labelled, (count,), and their labels, some random.

    With one seed, fewer pictures are among more, and what is random at a small share is so at a
    larger one, alike.

    Args:
        labels: (n,) true labels of the pool.
        count: Pictures that are drawn.
        share: Of the labels, that are drawn anew: all classes alike, the true one among them.
        seed: Of all draws.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(labels), generator=generator)[:count]
    others = torch.randint(CLASSES, labels.shape, generator=generator)
    anew = torch.rand(labels.shape, generator=generator) < share
    return drawn, torch.where(anew, others, labels)[drawn]


def gap(train: Pair, test: Pair, share: float) -> float:
    """Return test error less training error, for test labels as random as those trained with.

    Theory compares errors under one distribution. A share of labels drawn anew is missed with
    probability 0.9 whatever the scores are, so that no test label need be drawn.

    Args:
        train: Scores (n, classes), and the labels trained with.
        test: Scores (m, classes), and true labels.
        share: Of random labels.
    """
    own, other = (float((s.argmax(1) != labels).double().mean()) for s, labels in (train, test))
    return (1 - share) * other + share * (1 - 1 / CLASSES) - own


def middle_margin(margins: Tensor) -> float:
    """Return the median of the margins (n,) that are positive; 0 where none is."""
    right = margins[margins > 0]
    return float(right.median()) if len(right) else 0.0


def record_mean(trial: Trial, name: str, values: list[float]) -> tuple[float, tuple[float, float]]:
    """Record the mean over seeds with Student's interval, and return both."""
    mean, interval = statistics.mean(values), student(values)
    trial.figure(name, mean, "", interval)
    return mean, interval


def record_order(
    trial: Trial,
    name: str,
    found: Mapping[Any, list[Run]],
    measure: Callable[[Any, Run], float],
) -> tuple[float, tuple[float, float]]:
    """Record the rank correlation of a measure with the gap over settings, mean over seeds.

    A measure, or gap, that is the same for all settings orders nothing, and counts as 0.

    Args:
        trial: The trial.
        name: Of what measures.
        found: By setting, what each seed found, with its "gap".
        measure: Of a setting and what was found; may be infinite, which ranks last.
    """
    from scipy.stats import spearmanr

    values = []
    for place in range(len(trial.record.seeds)):
        runs = [(key, by_seed[place]) for key, by_seed in found.items()]
        ours, gaps = [measure(*one) for one in runs], [run["gap"] for _, run in runs]
        constant = len(set(ours)) == 1 or len(set(gaps)) == 1
        values.append(0.0 if constant else float(spearmanr(ours, gaps).statistic))
    mean, (low, high) = statistics.mean(values), student(values)
    interval = max(low, -1.0), min(high, 1.0)  # no correlation lies beyond
    trial.figure(f"{ORDER}, {name}", mean, "", interval)
    return mean, interval
