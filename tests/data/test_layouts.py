"""Which layout a path has, and which split serves for the one asked."""

import pytest

from merkhet.core.errors import InputError
from merkhet.data.layouts import choose_split, layout_of


@pytest.mark.parametrize(
    ("asked", "there", "given"),
    [
        ("train", ("train", "test"), "train"),
        ("test", ("train", "test", "val"), "test"),
        ("test", ("train", "val"), "val"),
        ("validation", ("train", "val"), "val"),
        ("test", ("all",), "all"),
        ("all", ("all",), "all"),
    ],
)
def test_a_split_that_is_there_or_serves(asked, there, given):
    assert choose_split("x", asked, there) == given


@pytest.mark.parametrize(
    ("asked", "there"),
    [("train", ("all",)), ("train", ("test",)), ("val", ("train", "test")), ("all", ("train",))],
)
def test_no_other_split_ever_serves(asked, there):
    with pytest.raises(InputError, match=f"no split '{asked}'"):
        choose_split("x", asked, there)


def test_a_path_without_layout_is_told_what_can_be_read(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(InputError, match="cannot be read: give a folder"):
        layout_of(tmp_path / "a.csv")
    with pytest.raises(InputError, match="does not exist"):
        layout_of(tmp_path / "none")
    assert layout_of(tmp_path).name == "folder"
