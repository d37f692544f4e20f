"""IDX files, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.data import load
from merkhet.data.idx import read_idx, splits

RNG = np.random.default_rng(0)


def _bytes(values: np.ndarray, kind: int = 8) -> bytes:
    header = struct.pack(">BBBB", 0, 0, kind, values.ndim)
    return header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def _write(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, zipped=True) -> None:
    folder.mkdir(exist_ok=True)
    for what, values in (("images-idx3", images), ("labels-idx1", labels)):
        data = _bytes(values)
        name = f"{prefix}-{what}-ubyte"
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


@pytest.fixture
def family(tmp_path):
    folder = tmp_path / "letters"
    for prefix, count in (("train", 12), ("t10k", 5)):
        images = RNG.integers(0, 256, (count, 7, 6), dtype=np.uint8)
        _write(folder, prefix, images, np.arange(count, dtype=np.uint8) % 4)
    return folder


def test_what_was_written_is_read(family):
    test = load(family, "test")
    assert test.images.shape == (5, 1, 7, 6)
    assert test.labels.tolist() == [0, 1, 2, 3, 0]
    assert test.classes == ("0", "1", "2", "3")
    stored = gzip.decompress((family / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert test.images.numpy().tobytes() == stored


def test_files_may_be_unpacked_and_named_with_a_dot(tmp_path):
    images = RNG.integers(0, 256, (3, 2, 2), dtype=np.uint8)
    _write(tmp_path, "train", images, np.zeros(3, np.uint8), zipped=False)
    (tmp_path / "train-images-idx3-ubyte").rename(tmp_path / "train-images.idx3-ubyte")
    assert splits(tmp_path) == ("train",)
    assert np.array_equal(load(tmp_path, "train").images[:, 0].numpy(), images)


def test_a_limit_keeps_pictures_and_labels_together(family):
    whole, part = load(family, "train"), load(family, "train", limit=6, seed=2)
    for image, label in part:
        at = [torch.equal(image, other) for other, _ in whole].index(True)
        assert whole.labels[at] == label


def _pack(data: bytes) -> bytes:
    return gzip.compress(data)


GOOD = _bytes(np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
DAMAGED = {
    "empty": (b"", "starts with nothing"),
    "not gzip": (b"plainly not", "gzip"),
    "cut gzip": (_pack(GOOD)[:-9], "gzip"),
    "flipped gzip": (_pack(GOOD)[:-6] + b"\0\0\0\0\0\0", "gzip"),
    "empty inside": (_pack(b""), "starts with nothing"),
    "other magic": (_pack(b"\x01" + GOOD[1:]), "not an IDX file"),
    "labels for pictures": (_pack(_bytes(np.zeros(4, np.uint8))), "3 dimensions"),
    "floats": (_pack(_bytes(np.zeros((1, 2, 2), np.uint8), kind=0x0D)), "unsigned bytes"),
    "cut header": (_pack(GOOD[:10]), "inside its header"),
    "cut values": (_pack(GOOD[:-1]), "says 8 values, it holds 7"),
    "values too many": (_pack(GOOD + b"x"), "says 8 values, it holds more"),
    "nothing": (_pack(_bytes(np.zeros((0, 2, 2), np.uint8))), "from 1 to"),
    "absurd": (_pack(GOOD[:4] + b"\xff" * 12), "from 1 to"),
    "large lie": (_pack(GOOD[:4] + struct.pack(">3I", 2**30, 2, 2)), "it holds 0"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_told_with_the_files_name(tmp_path, damage):
    data, message = DAMAGED[damage]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as told:
        read_idx(path, 3)
    assert str(path) in str(told.value)


def test_a_set_with_more_pictures_than_labels_is_refused(tmp_path):
    _write(tmp_path, "t10k", np.zeros((3, 2, 2), np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(InputError, match=r"3 pictures and .* 2 labels"):
        load(tmp_path)


def test_a_label_that_is_no_class_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MERKHET_DATA", str(tmp_path))
    for prefix in ("train", "t10k"):
        images = np.zeros((2, 2, 2), np.uint8)
        _write(tmp_path / "mnist", prefix, images, np.array([3, 10], np.uint8))
    with pytest.raises(InputError, match=r"labels-idx1-ubyte.gz holds the label 10: .* 0 to 9"):
        load("mnist")


def test_mnist_is_mnist(need_data):
    need_data("mnist")
    train, test = load("mnist", "train"), load("mnist", "test")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    mean = train.images.float().mean() / 255
    assert float(mean) == pytest.approx(0.1307, abs=5e-5)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_fashion_mnist_is_balanced(need_data):
    need_data("fashion-mnist")
    test = load("fashion-mnist", "test")
    assert test.labels.bincount().tolist() == [1000] * 10
    assert test.classes[int(test.labels[0])] == "Ankle boot"
    assert test.name == "fashion-mnist"
