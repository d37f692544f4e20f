"""CIFAR-10's binary archive, packed and unpacked, whole and damaged."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from merkhet.core.errors import InputError
from merkhet.data import cifar, load

NAMES = [*cifar.MEMBERS["train"], *cifar.MEMBERS["test"]]


def _records(count: int, seed: int) -> np.ndarray:
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records


def _unpacked(root: Path, count: int = 4) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(_records(count, seed).tobytes())
    return folder


def _packed(root: Path, names=NAMES, count: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for seed, name in reversed(list(enumerate(names))):
            data = _records(count, seed).tobytes()
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("make", [_unpacked, _packed])
def test_packed_and_unpacked_give_every_record_in_order(tmp_path, monkeypatch, make):
    make(tmp_path / "cifar10")
    monkeypatch.setenv("MERKHET_DATA", str(tmp_path))
    train, test = load("cifar10", "train"), load("cifar10", "test")
    wanted = np.concatenate([_records(4, seed) for seed in range(5)])
    assert np.array_equal(train.images.reshape(20, -1).numpy(), wanted[:, 1:])
    assert train.labels.tolist() == wanted[:, 0].tolist()
    assert np.array_equal(test.images.reshape(4, -1).numpy(), _records(4, 5)[:, 1:])
    assert test.images.shape == (4, 3, 32, 32)
    assert test.classes[3] == "cat"


def test_the_folder_and_the_archive_are_read_by_their_paths(tmp_path):
    inner, archive = _unpacked(tmp_path / "a"), _packed(tmp_path / "b")
    assert np.array_equal(load(inner).images.numpy(), load(archive).images.numpy())


def test_nothing_of_the_archive_is_written_to_the_disk(tmp_path):
    path = _packed(tmp_path)
    load(path)
    assert list(tmp_path.iterdir()) == [path]


def test_red_comes_before_green_and_blue(tmp_path):
    folder = _unpacked(tmp_path)
    record = bytes([6]) + b"\x01" * 1024 + b"\x02" * 1024 + b"\x03" * 1024
    (folder / "test_batch.bin").write_bytes(record)
    image = load(folder).images[0]
    assert [int(plane.unique()) for plane in image] == [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged: 0 bytes"),
        (b"\0" * 3072, "is damaged: 3072 bytes"),
        (b"\0" * 3073 + b"\x0a" * 3073, "is damaged: picture 1 has the label 10"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, data, message):
    folder = _unpacked(tmp_path)
    (folder / "test_batch.bin").write_bytes(data)
    with pytest.raises(InputError, match=rf"test_batch.bin {message}"):
        load(folder)


def test_a_training_file_cut_by_whole_pictures_is_noticed(tmp_path):
    folder = _unpacked(tmp_path)
    (folder / "data_batch_5.bin").write_bytes(_records(3, 0).tobytes())
    with pytest.raises(InputError, match="4, 4, 4, 4, 3 pictures"):
        load(folder, "train")


def test_an_absurdly_long_file_is_refused_unread(tmp_path):
    folder = _unpacked(tmp_path)
    with (folder / "test_batch.bin").open("r+b") as stream:
        stream.truncate(2**40)
    with pytest.raises(InputError, match="at most"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, 20_000])
def test_a_cut_archive_is_named(tmp_path, keep):
    path = _packed(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cifar-10-binary.tar.gz is damaged"):
        load(path)


def test_an_archive_with_a_flipped_byte_is_named(tmp_path):
    path = _packed(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cifar-10-binary.tar.gz"):
        load(path, "train")


def test_another_archive_is_not_taken_for_it(tmp_path):
    with pytest.raises(InputError, match=r"does not hold test_batch.bin"):
        load(_packed(tmp_path, names=["readme.html"]))
