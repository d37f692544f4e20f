"""One layer of a convolutional kernel network: patches, kernel map, pooling, projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.ckn import engines
from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.form import Form
from merkhet.ckn.frames import as_group
from merkhet.ckn.plain import safe_root
from merkhet.ckn.reading import Reading
from merkhet.ckn.roots import inverse_root
from merkhet.core.building import as_generator, check_counts, draw_normal
from merkhet.core.errors import InputError
from merkhet.core.groups import Group
from merkhet.core.pooling import gaussian_windows


class CKNLayer(nn.Module):
    """Patches to the RKHS of their kernel, projected on what the filters span, then pooled.

    With the kernel K(z, z') = |z| |z'| k(cos(z, z')) and filters W of unit norm,

        psi(z) = |z| k(W W^T)^(-1/2) k(W z / |z|) / sqrt(|S|)

    of each patch z of |S| positions, so that |psi(z)| <= |z| / sqrt(|S|), with equality where z
    lies along a filter; then Gaussian means, which commute with the projection and come first.
    psi(z) . psi(z') is Nystrom's approximation of K(z, z') / |S|. Patches of norm 0 give 0.

    Filters are kept of any norm and count by their direction; `renormalise` brings them back to 1.

    Shapes: (..., channels, height, width) -> (..., filters, height', width'), one axis less for
    signals. With a group, maps have an axis of its elements before the channels; a layer that
    lifts reads pictures without it.

    Args:
        in_channels: Channels of the input.
        filters: Filters, and channels of the output.
        kernel_size: Side of the patches.
        pooling: Scale s of the Gaussian means, and their step: sigma = s / sqrt(2) and windows of
            2 s + 1; 1 pools nothing. (scale, step) sets the step apart.
        kernel: "exp", "inverse", "poly" or "relu" (see `DotProductKernel`).
        sigma: Width of "exp".
        group: Rotations and reflections that the layer commutes with: `cyclic(4)`, `cyclic(8)`,
            `dihedral(4)`, `reflections()` of `merkhet.core.groups`, or "c4", "c8", "d4",
            "reflections".
        form: Dimensions, padding, centring, the root and its ridge.
        seed: Of the filters' first directions.

    Attributes:
        filters: (filters, d), the filters W, in the coordinates of what the kernel sees.
        reading: (d, p) from raw patches to that, where patches are whitened; None otherwise.

    Raises:
        InputError: A number is out of its range, or the group does not act on such patches.

    References:
        Mairal, NeurIPS 2016 (arXiv 1605.06265); Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).

    Example:
        >>> layer = CKNLayer(1, 16, 3, pooling=2)
        >>> layer(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 16, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int,
        pooling: int | tuple[int, int] = 1,
        kernel: str = "exp",
        sigma: float = 0.6,
        *,
        group: Group | str | None = None,
        form: Form | None = None,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, filters=filters, kernel_size=kernel_size)
        self.form = form or Form()
        self.kernel = DotProductKernel(kernel, sigma)
        self.pooling = _scale_and_step(pooling)
        self.patches = Reading(in_channels, kernel_size, as_group(group), self.form)
        self.filters = nn.Parameter(torch.empty(filters, self.patches.size))
        self.reading: Tensor | None
        whitened = self.form.patches == "whitened"
        start = self.patches.start().to(self.filters.dtype) if whitened else None
        self.register_buffer("reading", start)
        draw_normal(self.filters, 1.0, as_generator(seed))
        self.renormalise()

    @property
    def group(self) -> Group | None:
        """The group that the layer commutes with."""
        return self.patches.group

    @torch.no_grad()
    def renormalise(self) -> None:
        """Bring every filter back to norm 1, which changes nothing that the layer computes."""
        self.filters.copy_(F.normalize(self.filters.double(), dim=1))

    def root(self) -> Tensor:
        """Return k(W W^T)^(-1/2) or another root of the inverse, (filters, filters), float64."""
        unit = F.normalize(self.filters.double(), dim=1)
        among = self.kernel.value(unit @ unit.mT)
        ridge = self.form.ridge * torch.eye(len(among), dtype=among.dtype, device=among.device)
        return inverse_root(among + ridge, self.form.root)

    def raw_filters(self) -> Tensor:
        """Return filters (filters, p) whose product with a raw patch is that with what is read."""
        unit = F.normalize(self.filters, dim=1)
        return self.patches.raw(unit) if self.reading is None else unit @ self.reading

    def seen(self, raw: Tensor) -> Tensor:
        """Return what the kernel sees (n, d) of raw patches (n, p): centred or whitened."""
        return self.patches.seen(raw) if self.reading is None else raw @ self.reading.mT

    def forward(self, maps: Tensor) -> Tensor:
        """Return the layer's maps (..., filters, height', width') of maps or pictures."""
        self._check(maps)
        outer = 1 + self.form.dims + self.patches.over_group
        lead, flat = maps.shape[: maps.dim() - outer], maps.reshape(-1, *maps.shape[-outer:])
        found = engines.forward(self, flat)
        return found.reshape(*lead, *found.shape[1:])

    def readings(self, maps: Tensor, element: int) -> tuple[Tensor, Tensor]:
        """Return products W z and norms |z| of all patches z as an element of the group reads them.

        Args:
            maps: (N, [elements,] channels, *size).
            element: The element; 0 without a group.

        Returns:
            (N, filters, *size) and (N, 1, *size).
        """
        read = self.patches.frame(maps, element)
        weights = self.patches.weights(self.raw_filters(), element)
        if self.form.dims == 2 and not engines.traced():
            layout = torch.channels_last
            read, weights = (one.contiguous(memory_format=layout) for one in (read, weights))
        products = self.patches.convolve(read, weights)
        # Squares leave the range of half precision at once.
        wide = torch.promote_types(read.dtype, torch.float32)
        reading = None if self.reading is None else self.reading.to(wide)
        with torch.autocast(read.device.type, enabled=False):
            squares = self.patches.squared_norms(read.to(wide), element, reading)
        return products, safe_root(squares)

    def pool(self, maps: Tensor) -> Tensor:
        """Return Gaussian means of maps (..., *size), along each side."""
        scale, step = self.pooling
        if self.pooling == (1, 1):
            return maps
        for axis in range(-self.form.dims, 0):
            weights = gaussian_windows(maps.shape[axis], scale, step).to(maps)
            maps = (maps.movedim(axis, -1) @ weights.mT).movedim(-1, axis)
        return maps

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the maps that come of maps of a size; 0 where nothing is left."""
        lost = self.patches.side - 1 if self.form.padding == "valid" else 0
        return tuple(-(-max(0, length - lost) // self.pooling[1]) for length in size)

    def extra_repr(self) -> str:
        """Return what the layer is made of."""
        named = self.kernel.kind + (f", sigma={self.kernel.sigma}" if named_width(self) else "")
        of = f", {self.group.name}" if self.group is not None else ""
        side, (scale, step) = self.patches.side, self.pooling
        return (
            f"{self.patches.channels}, {len(self.filters)}, kernel_size={side}, "
            f"pooling={(scale, step) if scale != step else scale}, kernel={named}{of}"
        )

    def _check(self, maps: Tensor) -> None:
        """Refuse maps that the layer cannot read."""
        dims, side = self.form.dims, self.patches.side
        if maps.dim() < 1 + dims + self.patches.over_group:
            raise InputError(f"maps of shape {tuple(maps.shape)}: give {self._wanted()}")
        if maps.dtype != self.filters.dtype and not torch.is_autocast_enabled(maps.device.type):
            raise InputError(
                f"maps in {maps.dtype} and filters in {self.filters.dtype}: give maps.to("
                f"{self.filters.dtype}); bytes are to be divided by 255"
            )
        size, channels = maps.shape[-dims:], maps.shape[-dims - 1]
        elements = maps.shape[-dims - 2] if self.patches.over_group else None
        if channels != self.patches.channels or elements not in (None, len(self.patches.elements)):
            raise InputError(f"maps of shape {tuple(maps.shape)}: give {self._wanted()}")
        if self.form.padding == "valid" and min(size) < side:
            raise InputError(
                f"maps of {'x'.join(map(str, size))} have no patch of side {side}: give larger "
                "ones, or padding='same'"
            )
        if self.group is not None and self.group.axes == 2 and size[0] != size[1]:
            raise InputError(
                f"maps of {size[0]}x{size[1]} are not mapped onto themselves by {self.group.name}: "
                "give square ones, or reflections()"
            )

    def _wanted(self) -> str:
        """Return the shape that the layer reads, in words."""
        group = f"{len(self.patches.elements)}, " if self.patches.over_group else ""
        size = "height, width" if self.form.dims == 2 else "length"
        return f"(..., {group}{self.patches.channels}, {size})"


def named_width(layer: CKNLayer) -> bool:
    """Tell whether the layer's kernel has a width."""
    return layer.kernel.kind == "exp"


def _scale_and_step(pooling: int | tuple[int, int]) -> tuple[int, int]:
    """Return scale and step of the pooling."""
    if not isinstance(pooling, tuple | list) or len(pooling) != 2:
        pooling = (pooling, pooling)
    scale, step = pooling
    check_counts(pooling=scale, step=step)
    return scale, step
