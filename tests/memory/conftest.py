"""What tests of memories share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def text(tmp_path: Path, monkeypatch) -> Path:
    """Return a folder of little texts, and keep what is made of them in the test's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(150):
        words = " ".join(str(number * factor % 97) for factor in range(1, 60))
        (folder / f"{number}.txt").write_text(f"text {number}: {words}\n")
    return folder
