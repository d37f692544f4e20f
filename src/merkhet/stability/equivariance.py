"""How far a representation is from commuting with a group, or from ignoring it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.groups import Group
from merkhet.core.intervals import bootstrap
from merkhet.stability.distances import Estimate, relative_distances
from merkhet.stability.layers import (
    Preprocess,
    Representation,
    reading,
    refuse_not_finite,
    say,
)

Expected = Callable[[Tensor, int], Tensor]


def equivariance_error(
    representation: Representation,
    inputs: Tensor,
    group: Group,
    *,
    batch_size: int = 64,
    preprocess: Preprocess | None = None,
    seed: int = 0,
) -> dict[int, Estimate]:
    """Return the mean of `|Phi(g x) - g Phi(x)| / |Phi(x)|` for each element g.

    For a discrete group that only moves pixels it is rounding where the representation is
    equivariant; where `group.exact` is False the group's own interpolation is part of it.

    Args:
        representation: A network, `Layer(network, path)` or a callable, whose values are maps
            (batch, channels, height, width), or (batch, group, channels, height, width) of a
            group network, which are also permuted along the group; one axis less for signals.
        inputs: (count, channels, height, width) or (count, channels, length).
        group: The group.
        batch_size: Inputs in one forward pass.
        preprocess: Maps raw inputs to what the network expects, after the group acted.
        seed: Of the bootstrap.

    Returns:
        The mean by element, with its 95 % bootstrap interval over the inputs. Inputs whose
        representation is 0 are left out.

    Raises:
        InputError: The representation has no maps that the group could act on, is not finite,
            or is 0 on every input.

    References:
        Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), Section 3.
    """

    def expected(maps: Tensor, element: int) -> Tensor:
        if maps.dim() == inputs.dim() + 1 and maps.shape[1] == group.order:
            return group.act_on_maps(maps, element)
        if maps.dim() == inputs.dim():
            return group.act(maps, element)
        raise InputError(
            f"a representation of shape {tuple(maps.shape)} has no maps for {group.name} to act "
            "on: choose an earlier layer, or use invariance_error"
        )

    return _errors(representation, inputs, group, expected, batch_size, preprocess, seed)


def invariance_error(
    representation: Representation,
    inputs: Tensor,
    group: Group,
    *,
    batch_size: int = 64,
    preprocess: Preprocess | None = None,
    seed: int = 0,
) -> dict[int, Estimate]:
    """Return the mean of `|Phi(g x) - Phi(x)| / |Phi(x)|` for each element g.

    Args:
        representation: A network, `Layer(network, path)` or a callable; values of any shape
            (batch, ...).
        inputs: (count, channels, height, width) or (count, channels, length).
        group: The group.
        batch_size: Inputs in one forward pass.
        preprocess: Maps raw inputs to what the network expects, after the group acted.
        seed: Of the bootstrap.

    Returns:
        As `equivariance_error`.

    Raises:
        InputError: The representation is not finite or is 0 on every input.
    """
    return _errors(
        representation, inputs, group, lambda maps, _: maps, batch_size, preprocess, seed
    )


def _errors(
    representation: Representation,
    inputs: Tensor,
    group: Group,
    expected: Expected,
    batch_size: int,
    preprocess: Preprocess | None,
    seed: int,
) -> dict[int, Estimate]:
    """Return the mean relative distance from what is expected, by element."""
    found: dict[int, list[Tensor]] = {element: [] for element in group.elements}
    with reading(representation, preprocess=preprocess) as reader:
        (path,) = reader.paths
        for start in range(0, len(inputs), batch_size):
            batch = inputs[start : start + batch_size]
            maps = reader(batch)[path]
            refuse_not_finite(maps, path, range(start, start + len(batch)))
            for element in group.elements:
                moved = reader(group.act(batch, element))[path]
                refuse_not_finite(moved, path, range(start, start + len(batch)))
                found[element].append(relative_distances(moved, maps, expected(maps, element)))
    return {element: _estimate(torch.cat(parts), path, seed) for element, parts in found.items()}


def _estimate(errors: Tensor, path: str, seed: int) -> Estimate:
    """Return the mean over the inputs whose representation is not 0, with its interval."""
    kept = errors[~errors.isnan()]
    if not len(kept):
        raise InputError(f"{say(path)} is 0 on every input: no relative error is defined")
    low, high = bootstrap(kept, torch.Generator().manual_seed(seed))
    return Estimate(float(kept.mean()), low, high)
