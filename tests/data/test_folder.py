"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from merkhet.core.errors import InputError
from merkhet.data import folder as module
from merkhet.data import load, splits


def _picture(path: Path, value: int = 0, size: tuple[int, int] = (4, 6), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode == "L" else (value, 0, 0)).save(path)


def test_class_folders_are_sorted_and_gray_stays_gray(tmp_path):
    for value, place in enumerate(("dog/1.png", "dog/0.png", "cat/a.PNG", "cat/deep/b.png")):
        _picture(tmp_path / place, value)
    pictures = load(tmp_path)
    assert pictures.classes == ("cat", "dog")
    assert pictures.labels.tolist() == [0, 0, 1, 1]
    assert pictures.images[:, 0, 0, 0].tolist() == [2, 3, 1, 0]
    assert pictures.images.shape == (4, 1, 4, 6)
    assert pictures.split == "all"


def test_one_coloured_picture_makes_all_rgb(tmp_path):
    _picture(tmp_path / "a" / "1.png")
    _picture(tmp_path / "b" / "2.bmp", 9, mode="RGB")
    assert load(tmp_path).images.shape == (2, 3, 4, 6)


def test_a_flat_folder_has_no_labels_and_other_files_are_left_out(tmp_path):
    _picture(tmp_path / "a.png")
    _picture(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    pictures = load(tmp_path)
    assert (len(pictures), pictures.labels, pictures.classes) == (1, None, ())


def test_train_and_test_above_the_classes(tmp_path):
    _picture(tmp_path / "train/cat/1.png", 1)
    _picture(tmp_path / "train/fox/2.png", 2)
    _picture(tmp_path / "test/fox/3.png", 3)
    assert splits(tmp_path) == ("train", "test")
    test = load(tmp_path, "test")
    # A label means the same in every split, even where a class is missing from one.
    assert test.classes == ("cat", "fox")
    assert test.labels.tolist() == [1]
    assert load(tmp_path, "train").images[:, 0, 0, 0].tolist() == [1, 2]


def test_val_serves_for_test_where_there_is_none(tmp_path):
    _picture(tmp_path / "train/cat/1.png", 1)
    _picture(tmp_path / "validation/cat/2.png", 2)
    test = load(tmp_path, "test")
    assert test.split == "val"
    assert int(test.images.max()) == 2
    assert torch.equal(load(tmp_path, "valid").images, test.images)
    _picture(tmp_path / "test/cat/3.png", 3)
    assert int(load(tmp_path, "test").images.max()) == 3


def test_a_class_may_be_called_train(tmp_path):
    _picture(tmp_path / "train/1.png")
    _picture(tmp_path / "bus/1.png")
    assert load(tmp_path).classes == ("bus", "train")


def test_splits_of_flat_folders(tmp_path):
    _picture(tmp_path / "train/1.png", 5)
    _picture(tmp_path / "test/1.png", 6)
    train = load(tmp_path, "train")
    assert train.labels is None
    assert int(train.images.max()) == 5


def test_what_is_not_divided_never_serves_for_train(tmp_path):
    _picture(tmp_path / "cat/1.png")
    assert load(tmp_path, "all").split == "all"
    with pytest.raises(InputError, match="ask for 'all', or divide it"):
        load(tmp_path, "train")


def test_a_limit_opens_only_the_files_it_keeps(tmp_path, monkeypatch):
    for value in range(30):
        _picture(tmp_path / ("a" if value % 2 else "b") / f"{value:02}.png", value)
    opened = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda p, s: (opened.extend(p), real(p, s))[1])
    part = load(tmp_path, limit=8, seed=5)
    assert len(opened) == len({picture.name for picture in opened}) == 8
    for value, label in zip(part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True):
        assert part.classes[label] == ("a" if value % 2 else "b")


def test_sizes_that_differ_want_a_size(tmp_path):
    _picture(tmp_path / "1.png")
    _picture(tmp_path / "2.png", size=(9, 3))
    with pytest.raises(InputError, match="give --size HxW"):
        load(tmp_path)
    assert load(tmp_path, size=(5, 5)).images.shape == (2, 1, 5, 5)


def test_a_damaged_picture_is_named(tmp_path):
    _picture(tmp_path / "a/1.png")
    (tmp_path / "a/2.jpg").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"a.2\.jpg is not a picture or is damaged"):
        load(tmp_path)


def _mixed(root):
    _picture(root / "1.png")
    _picture(root / "cat/2.png")


def _hollow(root):
    _picture(root / "cat/1.png")
    (root / "dog").mkdir()


def _hollow_split(root):
    _picture(root / "train/cat/1.png")
    (root / "test").mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_mixed, "both pictures and folders"),
        (_hollow, "class folder .*dog holds no pictures"),
        (_hollow_split, "test holds no pictures in class folders"),
        (lambda root: None, "holds no pictures: .bmp, .gif"),
    ],
)
def test_folders_that_cannot_be_meant_are_told(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_photographs_keep_their_values(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    for number, value in enumerate(values):
        Image.fromarray(value).save(tmp_path / f"{number}.png")
    assert np.array_equal(load(tmp_path).images.numpy(), values.transpose(0, 3, 1, 2))
