"""Convolutional kernel networks: layers, and one pooling over the group at the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.ckn.fitting import Images, fit_layers, picture_count, pictures
from merkhet.ckn.form import Form
from merkhet.ckn.frames import as_group
from merkhet.ckn.layer import CKNLayer
from merkhet.core.building import as_generator, check_counts
from merkhet.core.errors import InputError
from merkhet.core.groups import Group
from merkhet.core.modes import evaluating
from merkhet.core.progress import progress_bar

LARGEST = 4096  # a side beyond which no smallest size is looked for


class CKN(nn.Module):
    """A convolutional kernel network: its representation of pictures or signals.

    Each layer reads patches of the maps before, maps them to the RKHS of its kernel, projected on
    what its filters span, and pools. The filters come from data without labels
    (`fit_unsupervised`), or from training as those of any network; a fresh network has random
    ones. What it computes is a kernel map: inner products of representations are a kernel between
    pictures, and a linear function of them has a norm (`rkhs_norm`).

    With a group, the first layer reads every patch as each element of the group sees it, the others
    stay with an element (or reach across, `Form(across=True)`), and the end averages over the
    elements, each map turned back: the representation of a turned picture is that of the picture,
    to rounding for groups that only move pixels.

    Shapes: (..., in_channels, height, width) -> (..., filters[-1], height', width'), one axis less
    for signals. Sides shrink by `pooling`, upwards.

    Args:
        in_channels: Channels of the pictures.
        filters: Filters of each layer.
        kernel_size: Side of the patches, one number or one a layer.
        pooling: Scale and step of the Gaussian means, one or one a layer (see `CKNLayer`).
        kernel: "exp", "inverse", "poly" or "relu", one or one a layer.
        sigma: Width of "exp", one or one a layer.
        group: Such as `cyclic(4)` or `dihedral(4)` of `merkhet.core.groups`, or by name "c4",
            "c8", "d4", "reflections"; None for none.
        form: Dimensions, padding, centring and the like, one or one a layer.
        seed: Of the first filters.

    Attributes:
        layers: The layers.
        group: The group or None.

    Raises:
        InputError: Numbers out of range, lists that do not fit, a group that does not act on such
            patches; in `forward`, pictures that are too small (names the layer and the size).

    References:
        Mairal, NeurIPS 2016 (arXiv 1605.06265); Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).

    Example:
        >>> from merkhet.ckn import CKN
        >>> network = CKN(1, filters=(16, 32), pooling=(2, 3))
        >>> network(torch.rand(4, 1, 28, 28)).shape
        torch.Size([4, 32, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        filters: Sequence[int] = (64, 256),
        kernel_size: int | Sequence[int] = 3,
        pooling: Any = (2, 6),
        kernel: str | Sequence[str] = "exp",
        sigma: float | Sequence[float] = 0.6,
        *,
        group: Group | str | None = None,
        form: Form | Sequence[Form] | None = None,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        if not isinstance(filters, Sequence) or not filters:
            raise InputError(
                f"filters = {filters!r}: give the filters of each layer in a tuple, as in (64, 256)"
            )
        count, acting = len(filters), as_group(group)
        generator = as_generator(seed)
        forms = _lifting(each("form", form or Form(), count), acting)
        given = zip(
            (in_channels, *filters[:-1]),
            filters,
            each("kernel_size", kernel_size, count),
            each("pooling", pooling, count),
            each("kernel", kernel, count),
            each("sigma", sigma, count),
            forms,
            strict=True,
        )
        self.group = acting
        self.layers = nn.ModuleList(
            CKNLayer(*numbers, group=acting, form=one, seed=generator) for *numbers, one in given
        )

    @property
    def in_channels(self) -> int:
        """Channels of the pictures."""
        return self.layer(0).patches.channels

    @property
    def dims(self) -> int:
        """2 for pictures, 1 for signals."""
        return self.layer(0).form.dims

    def layer(self, place: int) -> CKNLayer:
        """Return a layer by its place, from 0; -1 is the last."""
        found = self.layers[place]
        assert isinstance(found, CKNLayer)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return representations (..., filters, *size') of pictures (..., in_channels, *size)."""
        self.check(images)
        maps = images
        for layer in self.layers:
            maps = layer(maps)
        return maps if self.group is None else self.over_group(maps)

    def over_group(self, maps: Tensor) -> Tensor:
        """Return the mean (..., filters, *size) of maps (..., elements, filters, *size).

        Each element's maps are turned back first, into its own frame: what stands at u in the mean
        are the maps x(g u, g) of all g, and a turn of the picture permutes its terms.
        """
        assert self.group is not None
        axis = -self.dims - 2
        lead = maps.shape[:axis]
        flat = maps.reshape(-1, *maps.shape[axis:])
        turned = [self.group.act(flat[:, g], self.group.inverse(g)) for g in self.group.elements]
        mean = torch.stack(turned).mean(0)
        return mean.reshape(*lead, *mean.shape[1:])

    def output_shape(self, *size: int) -> tuple[int, ...]:
        """Return (filters, *size') of pictures of (height, width), or of signals of a length.

        Raises:
            InputError: The network reads no pictures of this size.
        """
        self._check_size(size)
        for layer in map(self.layer, range(len(self.layers))):
            size = layer.output_size(size)
        return len(self.layer(-1).filters), *size

    def kernel_map_lipschitz(self, input_shape: tuple[int, ...]) -> float:
        """Return an upper bound of the representation's Lipschitz constant, l2 to l2.

        Args:
            input_shape: (in_channels, *size).

        Returns:
            The bound; inf for a group whose turns interpolate.
        """
        from merkhet.ckn.map_lipschitz import ckn_lipschitz

        self._check_size(tuple(input_shape[1:]))
        return ckn_lipschitz(self, input_shape)

    def lipschitz_constant(self, input_shape: tuple[int, ...]) -> float:
        """Return `kernel_map_lipschitz`: what `merkhet.rkhs.lipschitz` takes the network for."""
        return self.kernel_map_lipschitz(input_shape)

    def fit_unsupervised(
        self,
        images: Images,
        *,
        patches: int = 200_000,
        batch_size: int = 256,
        seed: int | torch.Generator = 0,
        progress: bool = True,
    ) -> CKN:
        """Set the filters to the centres of spherical k-means on patches, layer by layer.

        Patches are drawn uniformly over pictures, positions and elements of the group, of maps that
        the layers before compute a batch at a time: the maps of all pictures are never kept.

        Args:
            images: (n, in_channels, *size), bytes (divided by 255) or floats; or a torch data set
                of such pictures, alone or first of a tuple.
            patches: Drawn for each layer.
            batch_size: Pictures in one pass.
            seed: A seed, or a generator on the CPU.
            progress: Whether a terminal shows progress.

        Returns:
            The network itself.

        Raises:
            InputError: Pictures that are too small or not finite; or a layer finds fewer different
                patches than it has filters, as of constant pictures (names the layer).
        """
        fit_layers(self, images, patches, batch_size, as_generator(seed), progress)
        return self

    def encode(self, images: Images, *, batch_size: int = 256, progress: bool = False) -> Tensor:
        """Return representations (n, filters, *size') of many pictures, without gradients.

        Args:
            images: As in `fit_unsupervised`.
            batch_size: Pictures in one pass.
            progress: Whether a terminal shows progress.
        """
        check_counts(batch_size=batch_size)
        if isinstance(images, Tensor) and images.dim() != self.dims + 2:
            self.check(images)
            raise InputError(f"pictures of shape {tuple(images.shape)}: give several, (n, ...)")
        count = picture_count(images)
        out: Tensor | None = None
        shown = progress_bar("encoding", count, unit="pictures", shown=progress)
        with evaluating(self), shown as advance:
            for start in range(0, count, batch_size):
                rows = torch.arange(start, min(count, start + batch_size))
                found = self(pictures(images, rows, self.layer(0).filters))
                if out is None:
                    out = found.new_empty(count, *found.shape[1:])
                out[start : start + len(rows)] = found
                advance(len(rows))
        assert out is not None
        return out

    @torch.no_grad()
    def renormalise(self) -> None:
        """Bring the filters of all layers back to norm 1, which changes no representation."""
        for place in range(len(self.layers)):
            self.layer(place).renormalise()

    def check(self, images: Tensor) -> None:
        """Refuse pictures (..., channels, *size) that the network does not read.

        Raises:
            InputError: Says what to give instead; names the layer that finds no patch.
        """
        wanted = "height, width" if self.dims == 2 else "length"
        if images.dim() < self.dims + 1 or images.shape[-self.dims - 1] != self.in_channels:
            raise InputError(
                f"pictures of shape {tuple(images.shape)}: give (..., {self.in_channels}, {wanted})"
            )
        self._check_size(tuple(images.shape[-self.dims :]))

    def _check_size(self, size: tuple[int, ...]) -> None:
        """Refuse a size of which a layer finds no patch; say which layer and what is needed."""
        place = self._stops_at(size)
        if place is None:
            return
        needed = next(
            (n for n in range(min(size) + 1, LARGEST) if self._stops_at((n,) * self.dims) is None),
            LARGEST,
        )
        layer = self.layer(place)
        raise InputError(
            f"pictures of {_times(size)}: layer {place} has patches of side {layer.patches.side} "
            f"and padding='valid', and finds none; give {_times((needed,) * self.dims)} or more, "
            "or padding='same'"
        )

    def _stops_at(self, size: tuple[int, ...]) -> int | None:
        """Return the first layer that finds no patch."""
        for place, layer in enumerate(map(self.layer, range(len(self.layers)))):
            size = layer.output_size(size)
            if 0 in size:
                return place
        return None


def each(name: str, given: Any, count: int) -> list[Any]:
    """Return a value for each layer: those given, or the one given for all.

    Raises:
        InputError: There are as many neither as layers nor as one.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise InputError(
            f"{name} = {tuple(given)} for {count} layers: give one value, or one for each layer"
        )
    return list(given)


def _lifting(forms: list[Form], group: Group | None) -> list[Form]:
    """Return the forms of layers of which, with a group, the first lifts."""
    first = dataclasses.replace(forms[0], lifts=group is not None)
    dims = {form.dims for form in forms}
    if len(dims) > 1:
        raise InputError(f"forms with dims {sorted(dims)}: give the same to all layers")
    return list(itertools.chain([first], forms[1:]))


def _times(size: Sequence[int]) -> str:
    """Return a size in words."""
    return "x".join(map(str, size))
