"""Filters from data without labels: patches drawn over the whole set, k-means, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from merkhet.ckn.kmeans import spherical_kmeans
from merkhet.core.building import check_counts
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.core.progress import progress_bar

if TYPE_CHECKING:
    from merkhet.ckn.layer import CKNLayer
    from merkhet.ckn.network import CKN

Images = Tensor | Dataset[Any]
FLOOR = 0.1  # of the mean variance, added to each component's before it is made equal to others


def fit_layers(
    network: CKN,
    images: Images,
    patches: int,
    batch_size: int,
    generator: torch.Generator,
    progress: bool,
) -> None:
    """Set the filters of each layer in turn (see `CKN.fit_unsupervised`).

    Args:
        network: The network.
        images: (n, channels, *size) or a data set.
        patches: Drawn for each layer.
        batch_size: Pictures in one pass.
        generator: Draws patches and seeds k-means.
        progress: Whether a terminal shows progress.
    """
    check_counts(patches=patches, batch_size=batch_size)
    most = max(len(network.layer(place).filters) for place in range(len(network.layers)))
    if patches < most:
        raise InputError(f"patches = {patches} for {most} filters: give that many or more")
    device = network.layer(0).filters.device.type
    with whole_or_not(network), evaluating(network), torch.autocast(device, enabled=False):
        for place in range(len(network.layers)):
            layer = network.layer(place)
            drawn = draw_patches(network, place, images, patches, batch_size, generator, progress)
            if layer.reading is not None:
                layer.reading.copy_(whitening(drawn, layer.patches.start()))
            layer.filters.copy_(_centres(_seen(layer, drawn), place, layer, generator, progress))


@contextmanager
def whole_or_not(network: CKN) -> Iterator[None]:
    """Put the filters back if what changes them fails, or is interrupted."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        yield
    except BaseException:
        network.load_state_dict(before)
        raise


def draw_patches(
    network: CKN,
    place: int,
    images: Images,
    patches: int,
    batch_size: int,
    generator: torch.Generator,
    progress: bool = False,
) -> Tensor:
    """Return raw patches (patches, p) of a layer's input, drawn uniformly.

    Args:
        network: The network; the layers before `place` compute the maps.
        place: The layer, from 0.
        images: (n, channels, *size) or a data set.
        patches: How many.
        batch_size: Pictures in one pass.
        generator: On the CPU.
        progress: Whether a terminal shows progress.
    """
    layer = network.layer(place)
    count = picture_count(images)
    chosen = torch.randint(count, (patches,), generator=generator).sort().values
    used, which = chosen.unique(return_inverse=True)
    found = torch.empty(patches, layer.patches.raw_size, dtype=layer.filters.dtype)
    what = f"layer {place}, patches"
    with progress_bar(what, len(used), unit="pictures", shown=progress) as advance:
        for low, rows in _batches(used, batch_size):
            maps = pictures(images, rows, layer.filters)
            _refuse_not_finite(maps, rows)
            if not low:
                network.check(maps)
            for before in range(place):
                maps = network.layer(before)(maps)
            mine = (which >= low) & (which < low + len(rows))
            found[mine] = read_patches(layer, maps, which[mine] - low, generator).to(found)
            advance(len(rows))
    return found.to(layer.filters.device)


def read_patches(
    layer: CKNLayer, maps: Tensor, which: Tensor, generator: torch.Generator
) -> Tensor:
    """Return a raw patch (count, p) of each picture named, at a position and element drawn.

    Args:
        layer: The layer.
        maps: (N, [elements,] channels, *size).
        which: (count,) pictures among the N.
        generator: On the CPU.
    """
    reading, dims = layer.patches, layer.form.dims
    lost = reading.side - 1 if layer.form.padding == "valid" else 0
    corners = [
        torch.randint(length - lost, which.shape, generator=generator)
        for length in maps.shape[-dims:]
    ]
    elements = torch.randint(len(reading.elements), which.shape, generator=generator)
    out = maps.new_empty(len(which), reading.raw_size)
    for element in reading.elements:
        mine = elements == element
        turn, outer = reading.turns[element].to(maps), reading.outer[element]
        padded = _padded(reading.frame(maps, element), layer, outer)
        at = [corner[mine].to(maps.device) for corner in corners]
        squares = _gathered(padded, which[mine].to(maps.device), at, outer)
        out[mine] = (squares.flatten(2) @ turn.mT).flatten(1)
    return out


def whitening(raw: Tensor, start: Tensor) -> Tensor:
    """Return the matrix (d, p) from raw patches to components of equal variance.

    Patches count by the direction that they have once they are centred, as in the kernel. A tenth
    of the mean variance is added to each component's: what is nearly constant stays small.

    Args:
        raw: (n, p) patches.
        start: (d, p) of an orthonormal basis of centred patches, float64.
    """
    centred = F.normalize(raw.double() @ start.to(raw.device).mT, dim=1)
    covariance = centred.mT @ centred / len(centred)
    values, vectors = torch.linalg.eigh(covariance)
    mean = values.mean().clamp_min(torch.finfo(torch.float64).tiny)
    scale = ((values + FLOOR * mean) / mean).rsqrt()
    found: Tensor = (vectors * scale) @ vectors.mT @ start.to(raw.device)
    return found


def picture_count(images: Images) -> int:
    """Return how many pictures there are.

    Raises:
        InputError: None, or what was given is neither a tensor nor a data set of tensors.
    """
    indexed = isinstance(images, Tensor) or all(
        hasattr(images, name) for name in ("__len__", "__getitem__")
    )
    count = len(images) if indexed else 0  # type: ignore[arg-type]
    if indexed and not count:
        raise InputError("no pictures: give at least one")
    first = images[0] if indexed else None
    first = first[0] if isinstance(first, tuple | list) else first
    if not isinstance(first, Tensor):
        raise InputError(
            f"pictures in a {type(images).__name__}: give a tensor (n, channels, *size), such as "
            "torch.from_numpy(array), or a data set whose items are tensors, alone or first"
        )
    return count


def pictures(images: Images, rows: Tensor, like: Tensor) -> Tensor:
    """Return some pictures (n, channels, *size) in the type and on the device of a tensor.

    Args:
        images: (count, channels, *size), bytes or floats, or a data set of such pictures.
        rows: (n,) which.
        like: Any tensor.
    """
    if isinstance(images, Tensor):
        found = images[rows.to(images.device)]
    else:
        items = [images[int(row)] for row in rows]
        found = torch.stack([item[0] if isinstance(item, tuple | list) else item for item in items])
    scaled = found.to(like.device, like.dtype)
    return scaled.div(255) if found.dtype == torch.uint8 else scaled


def _batches(used: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the place of the first and the pictures of each batch."""
    for low in range(0, len(used), size):
        yield low, used[low : low + size]


def _padded(maps: Tensor, layer: CKNLayer, outer: int) -> Tensor:
    """Return maps with the zeros around that patches read, as the convolution puts them."""
    return F.pad(maps, layer.patches.margins(outer) * layer.form.dims)


def _gathered(maps: Tensor, which: Tensor, corners: list[Tensor], side: int) -> Tensor:
    """Return squares (count, channels, side, ...) of maps at corners."""
    steps = torch.arange(side, device=maps.device)
    if len(corners) == 1:
        line: Tensor = maps[which[:, None], :, corners[0][:, None] + steps]
        return line.movedim(-1, 1)
    rows = (corners[0][:, None] + steps)[:, :, None]
    columns = (corners[1][:, None] + steps)[:, None]
    squares: Tensor = maps[which[:, None, None], :, rows, columns]
    return squares.movedim(-1, 1)


def _seen(layer: CKNLayer, raw: Tensor) -> Tensor:
    """Return what the kernel sees (n, d) of raw patches (n, p), 0 where that is only rounding."""
    seen = layer.seen(raw)
    rounding = 8 * torch.finfo(raw.dtype).eps * raw.norm(dim=1, keepdim=True)
    return seen.where(seen.norm(dim=1, keepdim=True) > rounding, 0)


def _centres(
    seen: Tensor, place: int, layer: CKNLayer, generator: torch.Generator, progress: bool
) -> Tensor:
    """Return the centres of k-means, or say which layer has too few patches."""
    try:
        return spherical_kmeans(seen, len(layer.filters), seed=generator, progress=progress).centres
    except InputError as error:
        raise InputError(
            f"layer {place}, {len(layer.filters)} filters of "
            f"{len(seen):,} patches ({layer.form.patches}): "
            + str(error).replace("centres=", "filters=")
        ) from error


def _refuse_not_finite(maps: Tensor, rows: Tensor) -> None:
    """Refuse pictures that hold NaN or infinity."""
    finite = maps.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        raise InputError(
            f"picture {int(rows[~finite.cpu()][0])} holds NaN or infinity: remove or mend it"
        )
