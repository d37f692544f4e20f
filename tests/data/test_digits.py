"""scikit-learn's digits and their split."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from merkhet.data import load


def test_the_two_splits_are_the_whole_set_once():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1442, 355)
    both = torch.cat([train.images, test.images]).reshape(1797, 64)
    whole = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, whole))


def test_the_split_is_stratified():
    train, test = load("digits", "train"), load("digits", "test")
    share = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert ((share > 0.19) & (share <= 0.2)).all()


def test_ink_goes_from_0_to_255():
    images = load("digits", "train").images
    assert images.dtype == torch.uint8
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert 128 in images.unique()


def test_labels_go_with_their_pictures():
    test = load("digits", "test", limit=30, seed=1)
    bunch = load_digits()
    whole = np.rint(bunch.data * 255 / 16).astype(np.uint8)
    for image, label in zip(test.images.reshape(30, 64).numpy(), test.labels, strict=True):
        assert bunch.target[(whole == image).all(1).argmax()] == label


def test_size_brings_them_to_another():
    assert load("digits", size=(16, 12)).images.shape == (355, 1, 16, 12)
