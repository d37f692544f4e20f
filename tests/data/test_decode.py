"""Pictures of every kind, whole and damaged."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from merkhet.core.errors import InputError
from merkhet.data.decode import Encoded, check_memory, decode, decode_labels, resize

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> Encoded:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Encoded(f"a.{kind.lower()}", stream.getvalue())


def test_gray_stays_gray_and_colour_is_rgb():
    gray, colour = _encoded(Image.fromarray(GRAY)), _encoded(Image.fromarray(COLOUR))
    assert np.array_equal(decode([gray, gray], None), np.stack([GRAY[None]] * 2))
    both = decode([gray, colour], None)
    assert both.shape == (2, 3, 5, 7)
    assert all(np.array_equal(plane, GRAY) for plane in both[0])
    assert np.array_equal(both[1], COLOUR.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_are_exact(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    got = decode([_encoded(Image.fromarray(COLOUR), kind, **options)], None)
    assert np.array_equal(got[0], COLOUR.transpose(2, 0, 1))


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
def test_other_modes_are_brought_to_gray_or_rgb(mode, channels):
    image = Image.fromarray(COLOUR).convert("L" if mode in ("1", "LA") else "RGB").convert(mode)
    assert decode([_encoded(image)], None).shape == (1, channels, 5, 7)


def test_alpha_is_dropped():
    rgba = np.concatenate([COLOUR, np.zeros((5, 7, 1), np.uint8)], axis=2)
    got = decode([_encoded(Image.fromarray(rgba))], None)
    assert np.array_equal(got[0], COLOUR.transpose(2, 0, 1))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    picture = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert abs(int(decode([picture], None).max()) - 10) <= 1


def test_the_cameras_orientation_is_obeyed():
    image = Image.fromarray(GRAY)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = decode([_encoded(image, exif=exif)], None)
    assert np.array_equal(turned[0, 0], np.rot90(GRAY, -1))


def test_sixteen_bits_are_refused_not_clipped():
    deep = Image.fromarray(np.full((3, 3), 40_000, np.uint16))
    with pytest.raises(InputError, match=r"more than 8 bits"):
        decode([_encoded(deep)], None)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _vast() -> bytes:
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    end = _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + end


WHOLE = _encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))).data
JPEG = _encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG").data


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", WHOLE[:20], WHOLE[:40], WHOLE[:3000], JPEG[:100], JPEG[:1500], _vast()],
    ids=["empty", "text", "head", "header", "half", "jpeg head", "jpeg half", "vast"],
)
def test_damage_is_told_with_the_pictures_name(data):
    with pytest.raises(InputError, match=r"^row 7 "):
        decode([Encoded("row 7", data)], None)


def test_flipped_bytes_never_give_anything_but_an_input_error():
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        data = bytearray(WHOLE if rng.random() < 0.5 else JPEG)
        for place in rng.integers(0, len(data) // 8, 4):
            data[place] = rng.integers(256)
        try:
            decode([Encoded("x", bytes(data))], (64, 64))
        except InputError:
            refused += 1
    assert refused > 50


def test_differing_sizes_want_a_size():
    pictures = [
        _encoded(Image.new("L", (7, 5))),
        Encoded("b", _encoded(Image.new("L", (5, 7))).data),
    ]
    with pytest.raises(InputError, match=r"a.png is 5x7, b is 7x5\): give --size HxW"):
        decode(pictures, None)
    assert decode(pictures, (4, 6)).shape == (2, 1, 4, 6)


def test_resizing_keeps_constants_and_range():
    flat = np.full((2, 3, 9, 9), 77, np.uint8)
    assert (resize(flat, (4, 20)) == 77).all()
    steps = np.zeros((1, 1, 8, 8), np.float32)
    steps[..., 4:] = 1
    wide = resize(steps, (16, 16))
    assert wide.dtype == np.float32
    assert (wide.min(), wide.max()) == (0, 1)
    assert resize(steps, (8, 8)) is steps


def test_bytes_and_files_are_resized_alike():
    picture = _encoded(Image.fromarray(COLOUR))
    assert np.array_equal(decode([picture], (9, 4)), resize(decode([picture], None), (9, 4)))


def test_label_pictures_keep_their_numbers():
    labels = RNG.integers(0, 12, (6, 8), dtype=np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    for image in (Image.fromarray(labels), palette):
        assert np.array_equal(decode_labels(_encoded(image), None), labels)
    assert set(np.unique(decode_labels(_encoded(palette), (3, 5)))) <= set(np.unique(labels))
    with pytest.raises(InputError, match="one byte a pixel"):
        decode_labels(_encoded(Image.fromarray(COLOUR)), None)


def test_too_much_memory_is_refused_before_it_is_asked_for():
    check_memory(2**20, 2**14)
    with pytest.raises(InputError, match="take 32 GiB"):
        check_memory(2**21, 2**14)
