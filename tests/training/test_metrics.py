from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.core.errors import InputError
from merkhet.core.intervals import wilson
from merkhet.training.metrics import (
    accuracy,
    confusion_matrix,
    count_pairs,
    mean_iou,
    perplexity,
    predictions,
)


class Given(nn.Module):
    """Gives back its input as logits."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def logits_for(classes: Tensor, count: int) -> Tensor:
    """Return logits (batch, count, ...) that are largest at `classes` (batch, ...)."""
    return F.one_hot(classes, count).movedim(-1, 1).float()


def segmentation(seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (5, 3, 6), generator=generator)
    guess = torch.randint(classes, (5, 3, 6), generator=generator)
    return truth, torch.where(torch.rand(5, 3, 6, generator=generator) < 0.5, truth, guess)


def test_accuracy_counts_over_ragged_batches() -> None:
    labels = torch.arange(10) % 3
    guess = labels.clone()
    guess[:3] = (guess[:3] + 1) % 3
    found = accuracy(Given(), TensorDataset(logits_for(guess, 3), labels), batch_size=4)
    assert found.value == 0.7
    assert found.interval == wilson(7, 10)


def test_the_confusion_matrix_is_sklearn_s_whatever_the_batches() -> None:
    truth, guess = segmentation(0)
    data = TensorDataset(logits_for(guess, 4), truth)
    expected = torch.from_numpy(sklearn_confusion(truth.flatten(), guess.flatten()))
    for batch_size in (1, 2, 5):
        assert torch.equal(confusion_matrix(Given(), data, 4, batch_size), expected)


def test_mean_iou_is_sklearn_s_over_all_places_at_once() -> None:
    truth, guess = segmentation(1)
    counts = count_pairs(truth, guess, 4, 255)
    expected = jaccard_score(truth.flatten(), guess.flatten(), average="macro")
    assert mean_iou(counts) == pytest.approx(expected)
    by_picture = [mean_iou(count_pairs(t, g, 4, 255)) for t, g in zip(truth, guess, strict=True)]
    assert mean_iou(counts) != pytest.approx(sum(by_picture) / 5, abs=1e-6)


def test_ignored_places_count_for_nothing() -> None:
    truth, guess = segmentation(2)
    masked = truth.clone().to(torch.uint8)
    masked[:, 0] = 255
    assert torch.equal(
        count_pairs(masked, guess, 4, 255), count_pairs(truth[:, 1:], guess[:, 1:], 4, 255)
    )


def test_classes_that_never_occur_are_left_out_of_the_mean() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    guess = torch.tensor([0, 2, 1, 1])  # class 2 is predicted, class 3 not even that
    assert mean_iou(count_pairs(truth, guess, 4, 255)) == (1 / 2 + 1) / 2


@pytest.mark.parametrize(("truth", "guess"), [(4, 0), (-1, 0), (0, 4)])
def test_labels_out_of_range_are_refused(truth: int, guess: int) -> None:
    with pytest.raises(InputError, match="where there are 4 classes"):
        count_pairs(torch.tensor([truth]), torch.tensor([guess]), 4, 255)


def test_an_empty_confusion_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        mean_iou(torch.zeros(3, 3))


def test_the_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    targets = torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(0))
    found = perplexity(Given(), TensorDataset(torch.zeros(6, 5, 11), targets))
    assert found.value == pytest.approx(11)
    assert found.interval == pytest.approx((11, 11))


def test_perplexity_is_the_exponential_of_the_mean_over_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, 11, generator=generator)
    targets = torch.randint(11, (6, 5), generator=generator)
    targets[2, 1:] = -100  # sequences of unequal length
    found = perplexity(Given(), TensorDataset(logits, targets), batch_size=4)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100).exp()
    assert found.value == pytest.approx(expected.item(), rel=1e-6)
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert found.interval[0] * found.interval[1] == pytest.approx(found.value**2)


def test_the_interval_of_equal_sequences_is_that_of_their_means() -> None:
    logits = torch.randn(40, 5, 7, generator=torch.Generator().manual_seed(1))
    targets = torch.zeros(40, 5, dtype=torch.int64)
    found = perplexity(Given(), TensorDataset(logits, targets))
    means = -logits.log_softmax(2)[..., 0].mean(1)
    margin = 1.96 * means.std().item() / math.sqrt(40)
    assert found.interval is not None
    assert math.log(found.interval[1] / found.value) == pytest.approx(margin, rel=1e-3)


def test_perplexity_of_one_sequence_has_no_interval_and_of_none_no_value() -> None:
    one = TensorDataset(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.int64))
    assert perplexity(Given(), one).interval is None
    none = TensorDataset(torch.zeros(2, 3, 4), torch.full((2, 3), -100))
    with pytest.raises(InputError, match="every one of them is ignored"):
        perplexity(Given(), none)


def test_predictions_leave_the_network_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    data = TensorDataset(torch.randn(5, 2), torch.zeros(5))
    outputs = [output for output, _ in predictions(module, data, 2)]
    assert [len(output) for output in outputs] == [2, 2, 1]
    assert not any(output.requires_grad for output in outputs)
    assert [part.training for part in module] == [True, False, True]
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
