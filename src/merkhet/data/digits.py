"""scikit-learn's embedded digits: 1,797 handwritten digits of 8x8 pixels, always at hand.

They have no split of their own. Here every fifth picture of each class, in scikit-learn's
order, is for testing: 1,442 for training, 355 for testing, stratified, the same everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from merkhet.data.decode import resize
from merkhet.data.pictures import Pictures
from merkhet.data.selection import Selection

CLASSES = tuple("0123456789")
INK = 16
"""The largest value of the source, whose pixels count 0 to 16."""


def read(split: str, selection: Selection) -> Pictures:
    """Return the digits of `split`, "train" or "test": uint8 `(n, 1, 8, 8)`, 0..16 as 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    test = _is_test(labels)
    kept = (test if split == "test" else ~test).nonzero().squeeze(1)
    kept = kept[selection.rows(len(kept))]
    images = np.rint(bunch.images[kept.numpy(), None] * (255 / INK)).astype(np.uint8)
    if selection.size is not None:
        images = resize(images, selection.size)
    return Pictures(torch.from_numpy(images), labels[kept], CLASSES, "digits", split)


def _is_test(labels: Tensor) -> Tensor:
    """Mark every fifth picture of each class, bool `(n,)`."""
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(CLASSES)):
        test[(labels == label).nonzero().squeeze(1)[4::5]] = True
    return test
