"""Which pictures are kept."""

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.data.selection import Selection, parse_size


def test_without_a_limit_all_are_kept_in_order():
    for limit in (None, 5, 6):
        assert Selection(limit).rows(5).tolist() == [0, 1, 2, 3, 4]


def test_a_limit_draws_without_repetition_and_nested():
    short, long = Selection(10, seed=3).rows(100), Selection(40, seed=3).rows(100)
    assert torch.equal(short, long[:10])
    assert len(set(long.tolist())) == 40
    assert not torch.equal(short, Selection(10, seed=4).rows(100))


def test_sizes_are_height_by_width():
    assert parse_size("20x32") == (20, 32)
    assert parse_size(" 1X9 ") == (1, 9)


@pytest.mark.parametrize("text", ["", "32", "32x", "axb", "-1x3", "3.5x2", "0x4", "4x99999"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="size"):
        parse_size(text)


def test_a_limit_below_one_is_refused():
    with pytest.raises(InputError, match="give 1 or more"):
        Selection(limit=0)
