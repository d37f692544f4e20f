"""Relative distances between representations, and the yardsticks to hold them against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.intervals import Z95
from merkhet.stability.kinds import DEFAULTS, Conditions
from merkhet.stability.layers import (
    Preprocess,
    Reader,
    Representation,
    reading,
    refuse_not_finite,
    say,
)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """The interval, as records take it."""
        return self.low, self.high


@dataclass(frozen=True)
class Yardsticks:
    """Mean relative distances between different inputs of a data set, in one representation.

    Attributes:
        same_label: Between inputs of one label; None without labels or without such pairs.
        all_label: Between inputs of any labels; None with fewer than three inputs.
    """

    same_label: Estimate | None = None
    all_label: Estimate | None = None


def relative_distances(moved: Tensor, reference: Tensor, expected: Tensor | None = None) -> Tensor:
    """Return `|Phi(x') - Phi(x)| / |Phi(x)|` for each input, (batch,) float64.

    NaN where `|Phi(x)|` is 0: the relative distance is not defined there.

    Args:
        moved: (batch, ...) representations of the deformed inputs.
        reference: (batch, ...) representations of the inputs.
        expected: (batch, ...) what to measure the distance from, where that is not `reference`.

    Raises:
        InputError: The shapes differ.
    """
    target = reference if expected is None else expected
    if moved.shape != target.shape:
        raise InputError(
            f"representations of shapes {tuple(moved.shape)} and {tuple(target.shape)} cannot be "
            "compared: give inputs of one size"
        )
    moved, target, scale = _wide(moved), _wide(target), _norm(_wide(reference))
    return torch.where(scale > 0, _norm(moved - target) / scale, torch.nan).cpu()


def measure_yardsticks(
    representation: Representation,
    inputs: Tensor,
    *,
    layers: Sequence[str] = ("",),
    labels: Tensor | None = None,
    preprocess: Preprocess | None = None,
    conditions: Conditions = DEFAULTS,
) -> dict[str, Yardsticks]:
    """Return, by layer, how far different inputs are apart: the scale of a stability curve.

    About `conditions.pairs` ordered pairs are drawn so that every input is in the same number
    of them. The interval is the delete-one-input jackknife's, which knows that pairs share
    inputs; it is somewhat too wide rather than too narrow.

    Args:
        representation: A network, or any callable (then the only layer is "").
        inputs: (count, ...) inputs, not deformed.
        layers: Paths inside the network.
        labels: (count,) integer labels, or None.
        preprocess: Maps raw inputs to what the network expects.
        conditions: Its seed, batch_size and pairs are used; no pairs, no yardsticks.

    Raises:
        InputError: A layer or the labels do not fit, or a representation is not finite or is 0
            on all inputs.
    """
    check_labels(labels, inputs)
    with reading(representation, layers, preprocess) as reader:
        one = torch.zeros(len(inputs), dtype=torch.int64)
        every = _estimates(reader, inputs, one, conditions)
        same = {} if labels is None else _estimates(reader, inputs, labels.cpu(), conditions)
        return {path: Yardsticks(same.get(path), every.get(path)) for path in reader.paths}


def check_labels(labels: Tensor | None, inputs: Tensor) -> None:
    """Refuse labels that are not one integer an input.

    Args:
        labels: (count,), or None.
        inputs: (count, ...).

    Raises:
        InputError: They are not.
    """
    if labels is None:
        return
    if labels.shape != inputs.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} for {len(inputs)} inputs: "
            f"give ({len(inputs)},) integers"
        )


def draw_pairs(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return about `count` random ordered pairs of different inputs of one label, (pairs, 2).

    The inputs of a label are put in a random circle and each is paired with its next few
    neighbours: every ordered pair is equally likely, every input is in as many pairs, and pairs
    that follow each other share inputs, so that few representations are held at a time.

    Args:
        labels: (inputs,), all equal for pairs of any labels.
        count: Wanted number of pairs.
        generator: Draws the circle.
    """
    steps = math.ceil(count / len(labels))
    order = torch.randperm(len(labels), generator=generator)
    pairs = []
    for label in labels.unique():
        circle = order[labels[order] == label]
        ahead = torch.arange(1, min(steps, len(circle) - 1) + 1)
        place = torch.arange(len(circle))[:, None]
        right = circle[(place + ahead) % len(circle)]
        pairs.append(torch.stack((circle[:, None].expand_as(right), right), -1).reshape(-1, 2))
    return torch.cat(pairs)


def jackknife(pairs: Tensor, distances: Tensor) -> Estimate | None:
    """Return the mean over pairs with the delete-one-input jackknife interval.

    None with fewer than three inputs: leaving one out leaves no pair.

    Args:
        pairs: (pairs, 2) indices of inputs.
        distances: (pairs,).
    """
    inputs, place = pairs.unique(return_inverse=True)
    if len(inputs) < 3:
        return None
    doubled = distances[:, None].expand(-1, 2)
    own = torch.zeros(len(inputs), dtype=torch.float64)
    own = own.index_add(0, place.flatten(), doubled.flatten())
    left = len(pairs) - place.flatten().bincount(minlength=len(inputs))
    if not bool((left > 0).all()):
        return None
    without = (distances.sum() - own) / left
    spread = without.var(correction=0) * (len(inputs) - 1)
    value, margin = float(distances.mean()), Z95 * math.sqrt(float(spread))
    return Estimate(value, max(0.0, value - margin), value + margin)


def _estimates(
    reader: Reader, inputs: Tensor, labels: Tensor, conditions: Conditions
) -> dict[str, Estimate | None]:
    """Return the mean relative distance between inputs of one label, by layer."""
    if conditions.pairs < 1:
        return {}
    pairs = draw_pairs(labels, conditions.pairs, conditions.generator())
    if not len(pairs):
        return {}
    found: dict[str, list[Tensor]] = {}
    steps = math.ceil(conditions.pairs / len(inputs))
    for chunk in pairs.split(steps * max(conditions.batch_size, steps)):
        for path, distances in _pair_distances(
            reader, inputs, chunk, conditions.batch_size
        ).items():
            found.setdefault(path, []).append(distances)
    return {path: _defined(pairs, torch.cat(parts), path) for path, parts in found.items()}


def _defined(pairs: Tensor, distances: Tensor, path: str) -> Estimate | None:
    """Return the estimate over the pairs whose first representation is not 0."""
    keep = ~distances.isnan()
    if not bool(keep.any()):
        raise InputError(f"{say(path)} is 0 on every input: no relative distance is defined")
    return jackknife(pairs[keep], distances[keep])


def _pair_distances(
    reader: Reader, inputs: Tensor, pairs: Tensor, batch_size: int
) -> dict[str, Tensor]:
    """Return the relative distances of pairs by layer, reading each input once."""
    needed, place = pairs.unique(return_inverse=True)
    parts: dict[str, list[Tensor]] = {}
    for batch in needed.split(batch_size):
        for path, values in reader(inputs[batch.to(inputs.device)]).items():
            refuse_not_finite(values, path, batch.tolist())
            parts.setdefault(path, []).append(values)
    distances = {}
    for path in parts:
        every = torch.cat(parts[path])
        chunks = (chunk.unbind(1) for chunk in place.to(every.device).split(batch_size))
        rows = [relative_distances(every[second], every[first]) for first, second in chunks]
        distances[path] = torch.cat(rows)
    return distances


def _wide(values: Tensor) -> Tensor:
    """Return representations in float32 or wider, where the device has float64, (batch, n)."""
    values = values.cpu() if values.device.type == "mps" else values
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return wide.reshape(len(values), -1)


def _norm(values: Tensor) -> Tensor:
    """Return Euclidean norms, accumulated in float64."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
    return norms
