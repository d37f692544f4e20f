"""Street scenes: pictures and label pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from merkhet.core.errors import InputError
from merkhet.data import load, load_segmentation

RNG = np.random.default_rng(0)


@pytest.fixture
def street(tmp_path, monkeypatch):
    root = tmp_path / "camvid"
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for number in range(count):
            labels = RNG.integers(0, 12, (6, 8), dtype=np.uint8)
            # The picture tells its labels, so that a mix-up shows.
            colours = np.stack([labels * 20] * 2 + [labels], axis=2)
            Image.fromarray(colours).save(root / split / f"scene{number}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"scene{number}.png")
    monkeypatch.setenv("MERKHET_DATA", str(tmp_path))
    return root


@pytest.mark.parametrize("limit", [None, 3])
def test_pictures_and_masks_belong_together(street, limit):
    scenes = load_segmentation("camvid", "train", limit=limit)
    assert len(scenes) == (limit or 5)
    assert torch.equal(scenes.images[:, 2], scenes.masks)
    assert (scenes.name, len(scenes.classes), scenes.ignore) == ("camvid", 11, 11)


def test_load_gives_the_pictures_without_labels(street):
    pictures = load("camvid", "val")
    assert pictures.labels is None
    assert torch.equal(pictures.images, load_segmentation("camvid", "val").images)


def test_resizing_invents_no_labels(street):
    scenes = load_segmentation(street, "test", size=(13, 5))
    assert scenes.images.shape == (3, 3, 13, 5)
    assert scenes.masks.shape == (3, 13, 5)
    assert scenes.masks.max() <= 11


def test_gray_scenes_have_three_channels(street):
    for path in (street / "val").iterdir():
        Image.open(path).convert("L").save(path)
    assert load_segmentation("camvid", "val").images.shape[1] == 3


def _remove(root):
    (root / "testannot" / "scene1.png").unlink()


def _shrink(root):
    Image.new("L", (4, 4)).save(root / "testannot" / "scene1.png")


def _mislabel(root):
    Image.new("L", (8, 6), 12).save(root / "testannot" / "scene1.png")


def _colour(root):
    Image.new("RGB", (8, 6)).save(root / "testannot" / "scene1.png")


def _cut(root):
    path = root / "testannot" / "scene1.png"
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, "scene1.png has no label picture"),
        (_shrink, "is 4x4 and its picture 6x8"),
        (_mislabel, "holds the label 12"),
        (_colour, "mode RGB"),
        (_cut, r"testannot.scene1.png is not a picture or is damaged"),
    ],
)
def test_damage_is_told(street, damage, message):
    damage(street)
    with pytest.raises(InputError, match=message):
        load_segmentation("camvid", "test")


def test_an_empty_split_is_told(street):
    for path in (street / "val").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="val holds no pictures"):
        load("camvid", "val")


def test_sets_without_masks_are_told_what_to_do(tmp_path):
    with pytest.raises(InputError, match="read it with load"):
        load_segmentation("mnist")
    with pytest.raises(InputError, match="trainannot"):
        load_segmentation(tmp_path)


def test_the_real_streets(need_data):
    need_data("camvid")
    scenes = load_segmentation("camvid", "val")
    assert scenes.images.shape == (101, 3, 180, 240)
    shares = scenes.masks.flatten().bincount(minlength=12) / scenes.masks.numel()
    # Roads, buildings, trees and sky make up most of every street.
    assert shares[[0, 1, 3, 5]].sum() > 0.7
