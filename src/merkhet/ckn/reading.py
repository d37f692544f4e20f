"""What a layer reads of its inputs: patches in frames of a group, centred or whitened; norms.

N pictures, G elements of the group, C channels, K side of a patch, s elements that a patch reaches,
p = s C K^dims numbers of a raw patch, d numbers of what is left of it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.ckn.form import Form
from merkhet.ckn.frames import is_permutation, reached, turned_patch
from merkhet.core.errors import InputError
from merkhet.core.groups import Group


class Reading:
    """How patches are read: their geometry, without parameters.

    Args:
        channels: C, of each element of the group.
        side: K.
        group: The group, or None.
        form: The layer's form.

    Attributes:
        elements: The frames that patches are read in.
        reach: s.
        positions: Over which a patch extends, s K^dims; |S| in the papers.
        raw_size: p.
        size: d.

    Raises:
        InputError: Nothing is left of a patch, or the group does not act on it.
    """

    def __init__(self, channels: int, side: int, group: Group | None, form: Form) -> None:
        self.channels, self.side, self.group, self.form = channels, side, group, form
        self.elements = range(1) if group is None else group.elements
        across = form.across and not form.lifts and group is not None
        self.reach = group.order if group is not None and across else 1
        self.positions = self.reach * side**form.dims
        self.raw_size = channels * self.positions
        self.centred = form.patches != "raw"
        self.size = self.raw_size - (channels * self.reach if self.centred else 0)
        if self.size == 0:
            raise InputError(
                f"patches of one position less their mean leave nothing: give patches = 'raw', "
                f"or a kernel_size above {side}"
            )
        _check_group(group, form)
        # Made once, outside whatever traces a forward pass; patches not mapped are refused here.
        with torch.inference_mode(False):
            self.turns = [turned_patch(group, g, side, form.dims) for g in self.elements]
            self.basis = without_mean(side**form.dims)
        self.exact = [is_permutation(turn) for turn in self.turns]
        self.outer = [round(turn.shape[1] ** (1 / form.dims)) for turn in self.turns]

    @property
    def over_group(self) -> bool:
        """Whether what is read are maps over the group."""
        return self.group is not None and not self.form.lifts

    def start(self) -> Tensor:
        """Return the first (d, p) matrix from raw patches to what the kernel sees, float64.

        Rows are orthonormal, so that norms are those of the centred patches.
        """
        if not self.centred:
            return torch.eye(self.raw_size, dtype=torch.float64, device="cpu")
        blocks = torch.eye(self.channels * self.reach, dtype=torch.float64, device="cpu")
        return torch.kron(blocks, self.basis)

    def frame(self, maps: Tensor, element: int) -> Tensor:
        """Return the maps (N, s C, *size) that an element of the group reads."""
        if not self.over_group:
            return maps
        assert self.group is not None
        return maps[:, list(reached(self.group, element, self.reach > 1))].flatten(1, 2)

    def weights(self, matrix: Tensor, element: int) -> Tensor:
        """Return rows (n, p) of raw patches as a convolution of what an element reads."""
        rows = matrix.unflatten(1, (-1, self.side**self.form.dims))
        turned = rows if element == 0 else rows @ self.turns[element].to(matrix)
        return self._squares(turned, element)

    def convolve(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Return the products (N, n, *size) of all patches of maps (N, s C, *size) with weights."""
        convolution = F.conv2d if self.form.dims == 2 else F.conv1d
        before, after = self.margins(weights.shape[-1])
        if before < after:  # of an even side; convolutions pad alike on both sides
            maps = F.pad(maps, (0, after - before) * self.form.dims)
        found: Tensor = convolution(maps, weights, padding=before)
        return found

    def margins(self, outer: int) -> tuple[int, int]:
        """Return the zeros before and after each side, where squares of side `outer` are read."""
        if self.form.padding == "same":
            return (outer - 1) // 2, outer // 2
        return ((outer - self.side) // 2,) * 2

    def raw(self, seen: Tensor) -> Tensor:
        """Return rows (n, p) whose product with a raw patch is that of (n, d) with the centred."""
        if not self.centred:
            return seen
        basis = self.basis.to(seen)
        found: Tensor = seen.unflatten(1, (-1, len(basis))) @ basis
        return found.flatten(1)

    def seen(self, raw: Tensor) -> Tensor:
        """Return what the kernel sees (n, d) of raw patches (n, p), whitening apart."""
        if not self.centred:
            return raw
        basis = self.basis.to(raw)
        found: Tensor = raw.unflatten(1, (-1, basis.shape[1])) @ basis.mT
        return found.flatten(1)

    def squared_norms(self, maps: Tensor, element: int, matrix: Tensor | None) -> Tensor:
        """Return |patch|^2 at each position, (N, 1, *size), of maps (N, s C, *size).

        They are sums of squares, so that nothing cancels: the variance of a patch of nearly one
        value is not the difference of two large numbers.

        Args:
            maps: What the element reads.
            element: The element.
            matrix: (d, p) of whitened patches, None of others.
        """
        if matrix is not None:
            whitened = self.convolve(maps, self.weights(matrix, element))
            found: Tensor = whitened.square().sum(1, keepdim=True)
            return found
        if not self.centred and self.exact[element]:
            box = maps.new_ones(1, 1, *(self.side,) * self.form.dims)
            return self.convolve(maps.square().sum(1, keepdim=True), box)
        return self._by_channel(maps, element)

    def _by_channel(self, maps: Tensor, element: int) -> Tensor:
        """Return |patch|^2 by the components of each channel's patch in a basis."""
        turn = self.turns[element]
        rows = (self.basis @ turn if self.centred else turn).to(maps)
        weights = self._squares(rows[:, None], element)
        apart = maps.flatten(0, 1)[:, None]
        squares: Tensor = self.convolve(apart, weights).square().sum(1, keepdim=True)
        total: Tensor = squares.unflatten(0, maps.shape[:2]).sum(1)
        return total

    def _squares(self, rows: Tensor, element: int) -> Tensor:
        """Return rows (n, c, K'^dims) as weights (n, c, K', ...)."""
        found: Tensor = rows.unflatten(-1, (self.outer[element],) * self.form.dims)
        return found


def without_mean(count: int) -> Tensor:
    """Return an orthonormal basis (count - 1, count) of the vectors of mean 0, float64.

    Helmert's: row i compares entry i + 1 with the mean of those before.
    """
    rows = torch.zeros(count - 1, count, dtype=torch.float64, device="cpu")
    for i in range(1, count):
        rows[i - 1, :i], rows[i - 1, i] = 1.0, -float(i)
        rows[i - 1] /= math.sqrt(i * (i + 1))
    return rows


def _check_group(group: Group | None, form: Form) -> None:
    """Refuse a group that does not act on what is read, or a form that needs one."""
    if group is None:
        if form.across or form.lifts:
            raise InputError("across or lifts without a group: give group=cyclic(4), for example")
        return
    if group.axes > form.dims:
        raise InputError(f"{group.name} on signals: give reflections(), which reverse them")
    if "translations" in group.name:
        raise InputError(
            f"{group.name}: patches and pooling see to translations; give cyclic, dihedral or "
            "reflections"
        )
