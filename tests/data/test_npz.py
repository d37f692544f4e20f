"""Arrays in .npz files."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.data import load, load_tokens, splits

RNG = np.random.default_rng(0)


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((4, 8, 9), (4, 1, 8, 9)),
        ((4, 3, 8, 9), (4, 3, 8, 9)),
        ((4, 8, 9, 3), (4, 3, 8, 9)),
        ((4, 1, 8, 9), (4, 1, 8, 9)),
        ((4, 8, 9, 1), (4, 1, 8, 9)),
        ((4, 3, 3, 2), (4, 3, 3, 2)),
    ],
)
def test_layouts_are_told_apart_by_their_channels(save, shape, wanted):
    values = RNG.integers(0, 256, shape, dtype=np.uint8)
    images = load(save(images=values)).images
    assert images.shape == wanted
    assert images.dtype == torch.uint8
    last = len(shape) == 4 and shape[1] not in (1, 3)
    assert np.array_equal(
        images.numpy(), values.transpose(0, 3, 1, 2) if last else values.reshape(wanted)
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 8, 3), np.uint8), "could come second or last"),
        (np.zeros((2, 4, 8, 5), np.uint8), "neither the second nor the last"),
        (np.zeros((2, 4), np.uint8), r"give \(n, h, w\)"),
        (np.zeros((0, 4, 4), np.uint8), "hold nothing"),
        (np.zeros((2, 4, 4), bool), "integers from 0 to 255"),
        (np.full((2, 4, 4), 256), "integers from 0 to 255"),
        (np.full((2, 4, 4), -1), "integers from 0 to 255"),
        (np.full((2, 4, 4), 1j), "give floats"),
        (np.full((2, 4, 4), "a"), "give floats"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(save, array, message):
    with pytest.raises(InputError, match=message):
        load(save(images=array))


def test_floats_keep_their_values_and_integers_become_bytes(save):
    values = RNG.normal(size=(3, 4, 5))
    floats = load(save(x=values)).images
    assert floats.dtype == torch.float32
    assert np.allclose(floats[:, 0].numpy(), values)
    whole = load(save(x=np.arange(16).reshape(1, 4, 4)))
    assert whole.images.dtype == torch.uint8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("key", ["images", "signals"])
def test_the_first_number_that_is_none_is_named(save, bad, key):
    values = np.zeros((3, 2, 5))
    values[1, 0, 4] = bad
    values[2, 1, 1] = bad
    index = r"\(1, 0, 4\)" if key == "signals" else r"\(1, 0, 0, 4\)"
    with pytest.raises(InputError, match=rf"{key} hold .* at index {index}"):
        load(save(**{key: values}))


def test_labels_and_names(save):
    path = save(x=np.zeros((3, 4, 4)), y=np.array([2, 0, 1]), classes=np.array(["a", "b", "c"]))
    assert load(path).labels.tolist() == [2, 0, 1]
    assert load(path).classes == ("a", "b", "c")
    assert load(save(x=np.zeros((2, 4, 4)), labels=np.array([3, 0]))).classes == tuple("0123")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1]), r"give integers \(3,\)"),
        (np.array([0.0, 1.0, 2.0]), "float64"),
        (np.array([0, -1, 0]), "start at 0"),
        (np.array([0, 2**40, 0]), "start at 0"),
        (np.array([0, 2**30, 0]), "number the classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(save, labels, message):
    with pytest.raises(InputError, match=message):
        load(save(x=np.zeros((3, 4, 4)), y=labels))


def test_a_label_without_a_name_is_refused(save):
    path = save(x=np.zeros((2, 4, 4)), y=np.array([0, 2]), classes=np.array(["a", "b"]))
    with pytest.raises(InputError, match="names only 2"):
        load(path)


def test_signals(save):
    values = RNG.normal(size=(5, 2, 7)).astype(np.float32)
    path = save(signals=values, y=np.arange(5))
    signals = load(path, limit=3)
    assert signals.images.shape == (3, 2, 7)
    assert np.allclose(signals.images.numpy(), values[signals.labels.numpy()])
    with pytest.raises(InputError, match="leave size"):
        load(path, size=(2, 2))


def test_pictures_are_resized(save):
    assert load(save(x=np.ones((2, 4, 4))), size=(3, 9)).images.shape == (2, 1, 3, 9)


def test_files_named_for_splits_are_splits(tmp_path):
    for value, split in enumerate(("train", "test")):
        np.savez(tmp_path / f"{split}.npz", images=np.full((2, 4, 4), value, np.uint8))
    assert splits(tmp_path) == ("train", "test")
    assert int(load(tmp_path, "test").images.max()) == 1
    assert int(load(tmp_path, "train").images.max()) == 0


@pytest.mark.parametrize("keys", [{}, {"a": 1}, {"x": 1, "images": 1}])
def test_files_without_one_set_of_pictures_are_told(save, keys):
    with pytest.raises(InputError, match="give exactly one of images, x, signals"):
        load(save(**dict.fromkeys(keys, np.zeros((1, 4, 4)))))


def test_nothing_is_unpickled(save):
    path = save(images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"plain arrays"):
        load(path)


def _header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    told = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue()


def _zipped(path, data: bytes, name: str = "images.npy") -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        _header((10**9, 10**6)),
        _header((2, 4, 4)) + b"\0" * 100,
        b"\x93NUMPY\x09\x00" + _header((1,))[8:],
    ],
    ids=["empty", "no magic", "absurd", "cut", "version"],
)
def test_damaged_arrays_are_told_before_memory_is_asked_for(tmp_path, data):
    path = tmp_path / "set.npz"
    _zipped(path, data)
    with pytest.raises(InputError, match=r"set\.npz"):
        load(path)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_cut_files_are_told(save, keep):
    path = save(images=np.zeros((2, 4, 4)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"not an .npz file"):
        load(path)


def test_an_entry_that_is_no_array_is_told(tmp_path):
    _zipped(tmp_path / "set.npz", b"text", "images.txt")
    with pytest.raises(InputError, match=r"not an array|give exactly one"):
        load(tmp_path / "set.npz")


def test_tokens(save):
    path = save(tokens=np.arange(6, dtype=np.uint16).reshape(2, 3))
    tokens = load_tokens(path)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="load_tokens"):
        load(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 2))}, r"tokens \(n, length\) are needed"),
        ({"tokens": np.zeros((2, 2))}, "give integers"),
        ({"tokens": np.zeros(4, int)}, r"\(n, length\)"),
        ({"tokens": np.zeros((0, 4), int)}, r"\(n, length\)"),
        ({"tokens": np.array([[0, -1]])}, "give 0 to"),
    ],
)
def test_tokens_that_are_none_are_refused(save, arrays, message):
    with pytest.raises(InputError, match=message):
        load_tokens(save(**arrays))


def test_floats_that_were_meant_as_bytes_are_refused(save):
    pictures = RNG.uniform(0, 255, (4, 3, 8, 9))
    with pytest.raises(InputError, match="divide by 255, or store integers"):
        load(save(images=pictures))
    assert load(save(images=(pictures / 255 - 0.5) / 0.05)).images.max() > 1
