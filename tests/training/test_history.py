from __future__ import annotations

from pathlib import Path

import pytest

from merkhet.core.errors import InputError
from merkhet.training.history import History


def written(path: Path, count: int) -> tuple[History, list[int]]:
    """Return a history of `count` rows and the file's size after each."""
    history, sizes = History(path, writes=True), [0]
    history.open(0)
    for step in range(1, count + 1):
        history.append({"step": step, "loss": step / 3})
        sizes.append(history.flush())
    return history, sizes


def test_what_was_flushed_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    history, sizes = written(tmp_path / "losses.jsonl", 5)
    again = History(tmp_path / "losses.jsonl")
    again.read(sizes[3])
    assert again.rows == history.rows[:3]
    again.read()
    assert again.rows == history.rows
    history.close()


def test_going_on_cuts_off_what_came_after_even_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    history, sizes = written(path, 4)
    history.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = History(path, writes=True)
    again.read(sizes[2])
    again.open(sizes[2])
    for step in (3, 4):
        again.append({"step": step, "loss": step / 3})
    again.close()
    assert path.read_bytes() == whole


def test_without_a_path_rows_are_kept_in_memory() -> None:
    history = History()
    history.open(0)
    history.append({"step": 1})
    assert (history.flush(), history.rows) == (0, [{"step": 1}])


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    history = History(tmp_path / "losses.jsonl", writes=False)
    history.open(0)
    history.append({"step": 1})
    history.close()
    assert not (tmp_path / "losses.jsonl").exists()


@pytest.mark.parametrize("text", [b"", b'{"step": 1', b'not json at all\n{"step": 2}\n'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"losses.jsonl is damaged, begin anew"):
        History(path).read(12)


def test_an_absent_file_is_refused_unless_nothing_is_wanted(tmp_path: Path) -> None:
    history = History(tmp_path / "losses.jsonl")
    history.read(0)
    with pytest.raises(InputError, match="damaged"):
        history.read(1)
