"""Pictures: a torch data set whose parts fit together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from merkhet.core.errors import InputError
from merkhet.data.pictures import Pictures, Segmentation, numbered


def _set(counts: list[int]) -> Pictures:
    """Return pictures of the given class counts; the picture's pixels tell its index."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels)).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    names = tuple("abcdefghij"[: len(counts)])
    return Pictures(images.to(torch.uint8).contiguous(), labels, names)


def test_bytes_become_fractions_and_floats_stay_as_they_are():
    images = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8)
    pictures = Pictures(images, torch.tensor([0]), ("a",))
    assert torch.equal(pictures.floats(), torch.tensor([[[[0, 0.2], [0.4, 1]]]]))
    assert torch.equal(pictures[0][0], pictures.floats()[0])
    wild = torch.tensor([[[[-3.0, 7.0]]]])
    assert torch.equal(Pictures(wild).floats(), wild)


def test_floats_of_bytes_share_no_memory_with_the_set():
    pictures = _set([2])
    pictures.floats().zero_()
    assert pictures.images[1].max() == 1


def test_items_come_through_a_loader_in_order():
    images, labels = next(iter(DataLoader(_set([3, 2]), batch_size=5)))
    assert images.shape == (5, 1, 2, 2)
    assert images.dtype == torch.float32
    assert labels.tolist() == [0, 0, 0, 1, 1]


def test_iteration_ends_and_an_index_beyond_the_end_is_an_index_error():
    assert len(list(_set([2, 1]))) == 3
    with pytest.raises(IndexError):
        _set([2])[2]


def test_a_picture_without_label_says_minus_one():
    assert Pictures(torch.zeros(1, 1, 2, 2))[0][1] == -1


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(0, 50),
    st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_a_sample_is_balanced_nested_and_without_repetition(counts, n, seed):
    pictures = _set(counts)
    n = 1 + n % len(pictures)
    drawn = pictures.sample(n, seed)
    got = drawn.labels.bincount(minlength=len(counts)).tolist()
    most = max(got)
    assert all(g >= min(most - 1, c) for g, c in zip(got, counts, strict=True))
    indices = drawn.images[:, 0, 0, 0].tolist()
    assert len(set(indices)) == n
    assert torch.equal(drawn.images, pictures.sample(len(pictures), seed).images[:n])
    assert torch.equal(pictures.labels[indices], drawn.labels)


def test_samples_differ_by_seed_and_leave_the_global_generator_alone():
    pictures = _set([50, 50])
    before = torch.get_rng_state()
    first, second = pictures.sample(20, 0), pictures.sample(20, 1)
    assert not torch.equal(first.images, second.images)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unlabelled_sample_is_uniform():
    pictures = Pictures(torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1))
    first = torch.stack([pictures.sample(1, seed).images.flatten() for seed in range(400)])
    # Each of 4 is expected 100 times; 40 is more than 4.6 standard deviations.
    assert ((first.flatten().bincount(minlength=4) - 100).abs() < 40).all()


@pytest.mark.parametrize("n", [0, 4])
def test_a_sample_of_more_or_less_than_there_is_is_refused(n):
    with pytest.raises(InputError, match="give a number from 1 to 3"):
        _set([3]).sample(n)


def test_a_subset_keeps_order_and_names():
    part = _set([2, 2]).subset([3, 0])
    assert part.images[:, 0, 0, 0].tolist() == [3, 0]
    assert part.labels.tolist() == [1, 0]
    assert part.classes == ("a", "b")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 2), r"pictures are float32 \(2, 2\)"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.float64), "float64"),
        (torch.zeros(1, 1, 9, dtype=torch.uint8), "float32 signals"),
        (torch.zeros(0, 1, 2, 2), "none of them 0"),
    ],
)
def test_tensors_that_are_no_pictures_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        Pictures(images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], r"give int64 \(2,\)"),
        ([0, 2], "from 0 to 1"),
        ([-1, 0], "labels go from -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        Pictures(torch.zeros(2, 1, 2, 2), torch.tensor(labels), ("a", "b"))


def test_signals_are_pictures_of_one_dimension():
    signals = Pictures(torch.randn(3, 2, 7), torch.tensor([0, 1, 0]), ("a", "b"))
    assert signals[1][0].shape == (2, 7)
    assert "3 of 2x7" in repr(signals)


def test_a_segmentation_gives_pixels_their_labels():
    images = torch.full((2, 3, 4, 5), 255, dtype=torch.uint8)
    masks = torch.ones(2, 4, 5, dtype=torch.uint8)
    scenes = Segmentation(images, masks, ("a", "b"), ignore=11)
    image, mask = scenes[1]
    assert image.max() == 1
    assert mask.dtype == torch.int64
    assert mask.shape == (4, 5)
    assert len(scenes.subset([1])) == 1
    assert scenes.floats([0]).shape == (1, 3, 4, 5)


def test_masks_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"give uint8 \(1, 4, 4\)"):
        Segmentation(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            torch.zeros(1, 4, 5, dtype=torch.uint8),
            ("a",),
            1,
        )


def test_numbers_that_cannot_be_classes_are_refused():
    assert numbered(torch.tensor([2, 0])) == ("0", "1", "2")
    with pytest.raises(InputError, match="number the classes"):
        numbered(torch.tensor([2**31]))
