"""What the checks of variation share: the function of raw inputs, sample sizes, yardsticks."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.graph import Network, Node
from merkhet.core.modes import evaluating
from merkhet.report import Subject
from merkhet.rkhs.certified import DENSE_WORK
from merkhet.rkhs.prepared import Prepared

FEWEST = 8  # inputs below which a median says nothing
PASSES = 3  # that are measured
WEIGHTED = ("convolution", "dense")
DENSE_SPEED, BLOCK_SPEED = 8e8, 6e8  # multiplications a second, by certified_norm on one core


def has_no_lengths(subject: Subject) -> str | None:
    """Say why changes of inputs and outputs cannot be compared, or return None."""
    if subject.kind == "tokens":
        return "the inputs are tokens, whose changes have no length"
    output = subject.output
    if not output.is_floating_point() or not output.dim() or not output.numel():
        return f"the network's output has shape {tuple(output.shape)} and {output.dtype}"
    if len(subject.inputs) < FEWEST:
        return f"{len(subject.inputs)} inputs are too few: {FEWEST} at least"
    return None


def has_no_classes(subject: Subject) -> str | None:
    """Say why there are no predictions to change, or return None."""
    refusal = has_no_lengths(subject)
    if refusal:
        return refusal
    output = subject.output
    if output.dim() != 2 or output.shape[1] < 2:
        return f"the network's output has shape {tuple(output.shape)}, not scores by class"
    if subject.labels is not None and int(subject.labels.max()) >= output.shape[1]:
        return f"labels go to {int(subject.labels.max())}, the network has {output.shape[1]} scores"
    return None


def function_of(subject: Subject) -> Prepared:
    """Return the network as a function of raw inputs, so that lengths are in their units."""
    return Prepared(subject.module, subject.preprocess, subject.inputs[:1])


def affordable(subject: Subject, seconds: float, passes: float) -> int:
    """Return how many inputs fit the time when each goes through so many times.

    Args:
        subject: The network and its inputs.
        seconds: The time.
        passes: Forward passes of each input, a backward pass counted as two.

    Raises:
        InputError: Fewer than say anything.
    """
    each = _seconds_of_one(subject, seconds)
    fitting = int(seconds / (passes * each))
    if fitting < FEWEST:
        raise InputError(
            f"{FEWEST} inputs, the fewest that say anything, need about "
            f"{math.ceil(FEWEST * passes * each)} s and {seconds:.0f} s are left for it: allow "
            "more seconds, or give smaller inputs"
        )
    return min(len(subject.inputs), fitting)


def _seconds_of_one(subject: Subject, seconds: float) -> float:
    """Return the time of a forward pass of one input: the least of up to three measurements.

    The first pass warms up, and any may wait for other work on the machine.
    """
    count = min(len(subject.inputs), subject.batch_size)
    taken: list[float] = []
    with evaluating(subject.module):
        while len(taken) < PASSES and sum(taken) <= seconds / 10:
            start = time.perf_counter()
            subject.forward(subject.inputs[:count])
            taken.append(time.perf_counter() - start)
    return max(min(taken) / count, 1e-9)


def seconds_to_certify(network: Network) -> float:
    """Return about how long certified norms of all weights take, on one core."""
    return sum(
        _seconds_of(network, node)
        for node in network.nodes
        if node.kind in WEIGHTED and "weight" in node.parameters and node.inputs
    )


def _seconds_of(network: Network, node: Node) -> float:
    """Return about how long the certified norm of one layer takes.

    Of a small layer the whole matrix is taken; a larger convolution, or one of single pixels, has
    a block of out x in numbers at each place, whose singular values take some multiples of
    out * in * the lesser of both.
    """
    weight = network.tensors[node.parameters["weight"]]
    before, after = network.node(node.inputs[0]).shape[1:], node.shape[1:]
    sides = sorted((math.prod(before), math.prod(after)))
    whole = sides[0] ** 2 * sides[1]
    pixels = math.prod(weight.shape[2:])
    if weight.dim() == 2 or (pixels > 1 and whole <= DENSE_WORK):
        return whole / DENSE_SPEED
    rows, columns = weight.shape[:2]
    return 0.1 + 4.0 * math.prod(after[1:]) * rows * columns * min(rows, columns) / BLOCK_SPEED


def predictions(subject: Subject, inputs: Tensor) -> Tensor:
    """Return the classes that the network predicts, (n,) int64."""
    with evaluating(subject.module):
        parts = [subject.forward(part).argmax(1) for part in inputs.split(subject.batch_size)]
    return torch.cat(parts)


def half_distances(inputs: Tensor, labels: Tensor) -> Tensor | None:
    """Return half the distance of each input to the nearest one of another label.

    No classifier that is right on both is certified, or robust, beyond it on both.

    Args:
        inputs: (n, ...) inputs.
        labels: (n,) labels.

    Returns:
        (n,) in float64, or None where there is one label only.
    """
    flat, own = inputs.flatten(1).double().cpu(), labels.cpu()
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    apart[own[:, None] == own[None]] = math.inf
    nearest = apart.amin(1) / 2
    return nearest if bool(nearest.isfinite().all()) else None


def units(subject: Subject) -> str:
    """Return the unit of lengths in words."""
    return "pixels of [0, 1]" if subject.kind == "pictures" else "the inputs' units"
