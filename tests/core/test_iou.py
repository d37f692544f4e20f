"""Mean intersection over union against sets of pixels."""

from __future__ import annotations

import torch

from merkhet.core.iou import mean_iou
from merkhet.training import mean_iou as of_confusion


def test_it_is_that_of_sets_of_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    true, guess = torch.randint(3, (2, 200), generator=draw)
    guess[:20] = 3  # a class that no label names costs the others, and is no class of the mean
    pairs = [(true == label, guess == label) for label in range(4)]
    shares = [float((a & b).sum() / (a | b).sum()) for a, b in pairs[:3]]
    counts = [torch.stack([(a & b).sum(), a.sum(), b.sum()]) for a, b in pairs]
    found = mean_iou(*torch.stack(counts).unbind(-1))
    torch.testing.assert_close(found, torch.tensor(sum(shares) / 3, dtype=torch.float64))
    confusion = torch.bincount(true * 4 + guess, minlength=16).view(4, 4)
    assert of_confusion(confusion) == float(found)
    assert mean_iou(*torch.zeros(3, 4)).isnan()
