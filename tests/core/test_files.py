from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from merkhet.core import files
from merkhet.core.files import atomic_file, atomic_folder, write_text


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert [found.name for found in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"), atomic_file(path) as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    with pytest.raises(RuntimeError), atomic_folder(path) as aside:
        (aside / "a").write_text("a")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_folder(path) as aside:
        (aside / "a").write_text("a")
        assert not path.exists()
    assert (path / "a").read_text() == "a"
    with pytest.raises(FileExistsError), atomic_folder(path):
        pass


def test_contents_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(files, "_flush", lambda path: order.append("flush"))
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append("rename"))
    with atomic_file(tmp_path / "a"):
        pass
    assert order == ["flush", "rename"]


def test_a_full_disk_is_reported_with_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be written") as found, atomic_file(tmp_path / "r"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert found.value.filename == str(tmp_path / "r")
    assert found.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError) as other, atomic_file(tmp_path / "r"):
        (tmp_path / "absent").read_text()
    assert other.value.filename == str(tmp_path / "absent")
