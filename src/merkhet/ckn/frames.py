"""How a group reads patches: around u, seen from element g, `P x(u, g)(v) = x(u + g v)`.

Of maps over the group, element g reads `x(u + g v, g r)` for each r that the patch reaches. Each
reading is linear: a matrix from the square that holds the turned patch to the patch.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.core.groups import Group, cyclic, dihedral, reflections

GROUPS: dict[str, Callable[[], Group]] = {
    "c4": lambda: cyclic(4),
    "c8": lambda: cyclic(8),
    "d4": lambda: dihedral(4),
    "reflections": reflections,
}


def as_group(given: Group | str | None) -> Group | None:
    """Return a group, also by its name: "c4", "c8", "d4" or "reflections"; None is none.

    Raises:
        InputError: There is no such group; names those there are.
    """
    if given is None or isinstance(given, Group):
        return given
    return GROUPS[choose("group", given, GROUPS)]()


def turned_patch(group: Group | None, element: int, side: int, dims: int) -> Tensor:
    """Return the matrix that reads a patch as an element of the group sees it.

    Args:
        group: The group; None reads the patch as it lies.
        element: The element g.
        side: Positions along a side of the patch.
        dims: 2 for pictures, 1 for signals.

    Returns:
        (side^dims, outer^dims), float64: a permutation where the element only moves pixels
        (outer = side); otherwise it interpolates, and outer is the side of what it reads.

    Raises:
        InputError: The group does not map patches of this side onto themselves.
    """
    if group is None or element == 0:
        return torch.eye(side**dims, dtype=torch.float64, device="cpu")
    _check_side(group, side)
    outer = side if group.exact else side + 2 * (side // 2) + 2
    units = torch.eye(outer**dims, dtype=torch.float64, device="cpu")
    pictures = units.reshape(-1, 1, *(outer,) * dims)
    # Turn a picture with one lit pixel o back by g: at v stands the weight of x(o) in x(g v).
    with torch.device("cpu"):
        weights = group.act(pictures, group.inverse(element))[:, 0]
    margin = (outer - side) // 2
    inner = slice(margin, margin + side)
    read = weights[:, inner] if dims == 1 else weights[:, inner, inner]
    return _trimmed(read.flatten(1).mT, outer, side, dims)


def is_permutation(matrix: Tensor) -> bool:
    """Tell whether a matrix of `turned_patch` only moves the pixels of a patch."""
    return matrix.shape[0] == matrix.shape[1] and bool(((matrix == 0) | (matrix == 1)).all())


def reached(group: Group, element: int, across: bool) -> Sequence[int]:
    """Return which elements of the group a patch at `element` reads, in the order of its own."""
    return [group.compose(element, r) for r in group.elements] if across else [element]


def _trimmed(matrix: Tensor, outer: int, side: int, dims: int) -> Tensor:
    """Return the matrix without the rings of the square that it does not read."""
    clean = torch.where(matrix.abs() < 1e-12, 0, matrix)  # rounding of the coordinates
    clean = torch.where((clean - 1).abs() < 1e-12, 1, clean)
    grid = clean.reshape(len(clean), *(outer,) * dims)
    while outer > side:
        inside = grid[(slice(None), *(slice(1, -1),) * dims)]
        if inside.abs().sum() != grid.abs().sum():
            break
        grid, outer = inside, outer - 2
    return grid.flatten(1)


def _check_side(group: Group, side: int) -> None:
    """Refuse patches that have no central pixel to turn about."""
    if side % 2 == 0:
        raise InputError(
            f"patches of side {side} have no pixel at their centre, about which {group.name} turn: "
            f"give an odd kernel_size, such as {side + 1}"
        )
