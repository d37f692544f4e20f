"""Options of the command line: what they refuse, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from merkhet.core.errors import InputError
from merkhet.core.options import check_run_folder, json_object, numbers


def test_numbers_and_json_are_read_as_they_are_written() -> None:
    assert numbers("3,5", "--k", ",", int) == (3, 5)
    assert numbers("3x32X32", "--size", "x", int) == (3, 32, 32)
    assert json_object('{"a": 1}', "--arguments", "{}") == {"a": 1}


@pytest.mark.parametrize("text", ["[1]", "{", "1"])
def test_what_is_no_object_shows_the_example(text: str) -> None:
    with pytest.raises(InputError, match=r'"classes": 10'):
        json_object(text, "--arguments", '{"classes": 10}')


def test_a_run_goes_into_a_folder(tmp_path: Path) -> None:
    check_run_folder(tmp_path)
    check_run_folder(tmp_path / "new" / "deeper")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder"):
        check_run_folder(tmp_path / "file")
    with pytest.raises(InputError, match="file is no folder that can be written to"):
        check_run_folder(tmp_path / "file" / "run")
