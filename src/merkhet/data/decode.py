"""Picture files to arrays, and arrays to another size (Pillow).

Shape letters: n pictures, c channels, h height, w width.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from merkhet.core.errors import InputError
from merkhet.data.selection import LARGEST_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 2**34
"""A set larger than this (16 GiB) is refused before memory is asked for."""

# Named, because Pillow would else also run Ghostscript for a file that says it is EPS.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Values of the EXIF orientation tag; from 5 on, rows and columns are swapped.
UPRIGHT = 1
SIDEWAYS = 5
GRAY = frozenset({"1", "L", "LA", "La"})
DEEP = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
# Pillow's own list of what damaged files raise: several plugins let parsing errors through.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)


@dataclass(frozen=True)
class Encoded:
    """A picture still in its file format.

    Attributes:
        name: What errors call it: a path, or a row of a file.
        data: The file, or its bytes.
    """

    name: str
    data: Path | bytes


def decode(pictures: Sequence[Encoded], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return the pictures as bytes, `(n, c, h, w)`.

    One channel where all are gray, three (RGB) otherwise; alpha is dropped, an animation
    gives its first frame, and a camera's orientation tag is obeyed.

    Args:
        pictures: At least one.
        size: `(h, w)` that every picture is brought to, or None if they share one size.

    Raises:
        InputError: A picture is damaged, too large or of more than 8 bits; sizes differ
            and `size` is None.
    """
    shape = size or _size_of(pictures[0])
    check_memory(len(pictures), 3, *shape)
    images = np.empty((len(pictures), *shape, 3), dtype=np.uint8)
    gray = True
    for row, picture in zip(images, pictures, strict=True):
        with _opened(picture) as image:
            gray = gray and image.mode in GRAY
            upright = _upright(image, size)
            if upright.size != shape[::-1]:
                raise _differ(pictures[0], shape, picture, upright.size[::-1])
            row[:] = np.asarray(upright)
    # RGB of a gray picture is its values three times.
    return np.ascontiguousarray((images[..., :1] if gray else images).transpose(0, 3, 1, 2))


def decode_labels(picture: Encoded, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return a label picture, `(h, w)`: gray values or palette indices, never mixed.

    Raises:
        InputError: It is damaged or has more than one channel.
    """
    from PIL import Image

    with _opened(picture) as image:
        if image.mode not in ("L", "P"):
            raise InputError(
                f"{picture.name} is a label picture of mode {image.mode}: give one byte a pixel, "
                "gray (L) or palette (P)"
            )
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.NEAREST)
        return np.array(image, dtype=np.uint8)


def resize(images: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return pictures `(n, c, h, w)` of bytes or floats brought to `size` (bicubic).

    Floats stay within each channel's own range, which bicubic weights alone would leave.
    """
    from PIL import Image

    check_memory(*images.shape[:2], *size, itemsize=images.itemsize)
    if images.shape[2:] == size:
        return images
    out = np.empty((*images.shape[:2], *size), dtype=images.dtype)
    planes = images.reshape(-1, *images.shape[2:])
    for target, plane in zip(out.reshape(-1, *size), planes, strict=True):
        wide = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC)
        target[:] = np.clip(np.asarray(wide), plane.min(), plane.max())
    return out


def check_memory(*shape: int, itemsize: int = 1) -> None:
    """Refuse a set of this shape if it takes more than 16 GiB.

    Raises:
        InputError: It does; says how to load less.
    """
    total = itemsize
    for length in shape:
        total *= length
    if total > MOST_BYTES:
        raise InputError(
            f"pictures of shape {shape} take {total / 2**30:.0f} GiB: give a smaller size, "
            "or a limit to the number of pictures"
        )


def _size_of(picture: Encoded) -> tuple[int, int]:
    """Return a picture's own upright `(h, w)`, without decoding it."""
    with _opened(picture) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= SIDEWAYS else (height, width)


@contextmanager
def _opened(picture: Encoded) -> Iterator[Image]:
    """Yield the picture, its header read and checked; say which one is damaged."""
    from PIL import Image

    source = io.BytesIO(picture.data) if isinstance(picture.data, bytes) else picture.data
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_header(picture.name, image)
            yield image
    except InputError:
        raise
    except (FileNotFoundError, PermissionError):
        raise
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{picture.name} is not a picture or is damaged: {error}") from error


def _check_header(name: str, image: Image) -> None:
    """Refuse pictures too large to be meant, and those whose values need more than a byte."""
    if max(image.size) > LARGEST_SIDE:
        raise InputError(
            f"{name} says it is {_told(image.size[::-1])} pixels: "
            f"sides over {LARGEST_SIDE} are refused"
        )
    if image.mode in DEEP:
        raise InputError(
            f"{name} has more than 8 bits a value (mode {image.mode}): convert it to 8 bits, "
            "or give the values as floats in an .npz file"
        )


def _orientation(image: Image) -> int:
    """Return the camera's orientation tag, 1 if there is none."""
    from PIL.ExifTags import Base

    tag = image.getexif().get(Base.Orientation, UPRIGHT)
    return tag if isinstance(tag, int) else UPRIGHT


def _upright(image: Image, size: tuple[int, int] | None) -> Image:
    """Return the picture upright, in RGB, at `size` if one is given."""
    from PIL import Image as Module
    from PIL import ImageOps

    if _orientation(image) != UPRIGHT:
        image = ImageOps.exif_transpose(image)
    rgb = image.convert("RGB")
    if size is None or rgb.size == size[::-1]:
        return rgb
    return rgb.resize(size[::-1], Module.Resampling.BICUBIC)


def _differ(
    first: Encoded, shape: tuple[int, int], other: Encoded, own: tuple[int, int]
) -> InputError:
    """Return the error for two pictures of different sizes."""
    return InputError(
        f"pictures differ in size ({first.name} is {_told(shape)}, {other.name} is {_told(own)}): "
        "give --size HxW (in Python, size=(height, width))"
    )


def _told(size: tuple[int, int]) -> str:
    """Return `(h, w)` as "HxW"."""
    return f"{size[0]}x{size[1]}"
