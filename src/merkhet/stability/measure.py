"""Measuring how far representations move when their inputs do: `stability_curve(s)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.stability.curves import StabilityCurve, curve
from merkhet.stability.distances import (
    Yardsticks,
    check_labels,
    measure_yardsticks,
    relative_distances,
)
from merkhet.stability.kinds import (
    DEFAULTS,
    Conditions,
    Moves,
    apply,
    checked_sizes,
    draw,
    unit_of,
)
from merkhet.stability.layers import (
    Layer,
    Preprocess,
    Reader,
    Representation,
    reading,
    refuse_not_finite,
    say,
)


def stability_curve(
    representation: Representation,
    inputs: Tensor,
    kind: str,
    sizes: Sequence[float],
    *,
    labels: Tensor | None = None,
    preprocess: Preprocess | None = None,
    yardsticks: Yardsticks | None = None,
    conditions: Conditions = DEFAULTS,
) -> StabilityCurve:
    """Return how far one representation moves under deformations of growing size.

    Each input is deformed along one random direction, sign or smooth field, the same for every
    size, and the relative distance `|Phi(x') - Phi(x)| / |Phi(x)|` is averaged over the inputs.
    A network runs in evaluation mode, without gradients, and is left as it was.

    Args:
        representation: A network (its output), `Layer(network, path)`, or any callable from a
            batch of inputs to a tensor, or to a mapping or Hugging Face output with one.
        inputs: (count, channels, height, width) pictures or (count, channels, length) signals.
        kind: "translation" and "deformation" (sizes in pixels), "rotation" (degrees),
            "scaling" (relative change: 0.1 makes 1.1 or 1/1.1 times as large).
        sizes: Increasing sizes above 0; at 0 every distance is 0.
        labels: (count,) integers, for the same-label yardstick.
        preprocess: Maps raw inputs to what the network expects, after the deformation.
        yardsticks: As measured before; by default they are measured.
        conditions: Seed, batch size, padding, number of pairs and the like.

    Returns:
        The curve. Inputs whose representation is 0 are left out and counted.

    Raises:
        InputError: An unknown or unsuitable kind, sizes, labels or layer; a representation that
            is NaN or infinite (names layer and input) or 0 on every input.

    References:
        Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), Sections 2 and 3, bound what this
        measures for convolutional kernel networks.
    """
    path = representation.path if isinstance(representation, Layer) else ""
    curves = _curves(
        representation,
        (path,),
        inputs,
        kind,
        sizes,
        labels,
        preprocess,
        None if yardsticks is None else {path: yardsticks},
        conditions,
    )
    return curves[path]


def stability_curves(
    module: nn.Module,
    inputs: Tensor,
    kind: str,
    sizes: Sequence[float],
    *,
    layers: Sequence[str] = ("",),
    labels: Tensor | None = None,
    preprocess: Preprocess | None = None,
    yardsticks: Mapping[str, Yardsticks] | None = None,
    conditions: Conditions = DEFAULTS,
) -> dict[str, StabilityCurve]:
    """Return the stability curves of several layers, all read in one pass a deformed batch.

    Arguments are those of `stability_curve`, but for two; to measure several kinds, call
    `measure_yardsticks` once and hand its result to each call.

    Args:
        module: The network.
        inputs: (count, channels, height, width) pictures or (count, channels, length) signals.
        kind: What moves the inputs.
        sizes: Increasing sizes above 0.
        layers: Paths as `named_modules()` has them; "" is the output.
        labels: (count,) integers or None.
        preprocess: Maps raw inputs to what the network expects.
        yardsticks: What `measure_yardsticks` returned for these layers.
        conditions: Seed, batch size, padding, number of pairs and the like.

    Returns:
        The curve of each layer, by its path.

    Raises:
        InputError: As `stability_curve`; or `yardsticks` lack a layer.
    """
    return _curves(module, layers, inputs, kind, sizes, labels, preprocess, yardsticks, conditions)


def _curves(
    representation: Representation,
    layers: Sequence[str],
    inputs: Tensor,
    kind: str,
    sizes: Sequence[float],
    labels: Tensor | None,
    preprocess: Preprocess | None,
    yardsticks: Mapping[str, Yardsticks] | None,
    conditions: Conditions,
) -> dict[str, StabilityCurve]:
    """Return the curves by layer."""
    sizes = checked_sizes(sizes)
    check_labels(labels, inputs)
    moves = draw(inputs, kind, conditions)
    if yardsticks is None:
        yardsticks = measure_yardsticks(
            representation,
            inputs,
            layers=layers,
            labels=labels,
            preprocess=preprocess,
            conditions=conditions,
        )
    missing = [path for path in layers if path not in yardsticks]
    if missing:
        raise InputError(f"no yardsticks of {say(missing[0])}: measure them with the same layers")
    with reading(representation, layers, preprocess) as reader:
        distances = _distances(reader, inputs, moves, sizes, conditions)
    norms = [moves.norms(size) for size in sizes]
    description = {
        "kind": kind,
        "unit": unit_of(kind, inputs),
        "sizes": sizes,
        "max_displacement": tuple(norm[0] for norm in norms),
        "max_gradient": tuple(norm[1] for norm in norms),
    }
    return {
        path: curve(
            distances[path],
            {**description, "layer": path},
            yardsticks[path],
            conditions.generator(),
            conditions.resamples,
        )
        for path in layers
    }


def _distances(
    reader: Reader, inputs: Tensor, moves: Moves, sizes: Sequence[float], conditions: Conditions
) -> dict[str, Tensor]:
    """Return the relative distances of all inputs at all sizes by layer, (count, sizes)."""
    found = {
        path: torch.empty(len(inputs), len(sizes), dtype=torch.float64) for path in reader.paths
    }
    for start in range(0, len(inputs), conditions.batch_size):
        part = slice(start, start + conditions.batch_size)
        batch = inputs[part]
        indices = range(start, start + len(batch))
        reference = reader(batch)
        for path, values in reference.items():
            refuse_not_finite(values, path, indices)
        for column, size in enumerate(sizes):
            moved = reader(apply(batch, moves.field(size, part), conditions))
            for path, values in moved.items():
                refuse_not_finite(values, path, indices)
                found[path][part, column] = relative_distances(values, reference[path])
    for path, values in found.items():
        defined = int((~values.isnan().any(1)).sum())
        if defined < 2:
            raise InputError(
                f"{say(path)} is not 0 on {defined} of {len(inputs)} inputs: a mean relative "
                "distance with an interval needs at least 2"
            )
    return found
