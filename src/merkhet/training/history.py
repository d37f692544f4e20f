"""The history of a run: what every step measured, in memory and one line each in a file."""

from __future__ import annotations

import json
import os
from io import BufferedWriter
from pathlib import Path

from merkhet.core.errors import InputError

Row = dict[str, float]


class History:
    """What each step measured, the first step first.

    Args:
        path: The file that holds one JSON object a line, or None to keep no file.
        writes: Whether this process is the one that writes the file.

    Attributes:
        rows: A dict for each step, with "step", "loss", "rate" and whatever else was logged.
    """

    def __init__(self, path: Path | None = None, *, writes: bool = False) -> None:
        self.rows: list[Row] = []
        self._path, self._writes = path, writes
        self._file: BufferedWriter | None = None

    def read(self, size: int | None = None) -> None:
        """Read the file's first `size` bytes, or all of it, in place of `rows`.

        Raises:
            InputError: The file is shorter, or not made of JSON objects.
        """
        assert self._path is not None, "only a kept run is read"
        try:
            text = self._path.read_bytes() if size != 0 else b""
            if len(text) < (size or 0):
                raise ValueError(f"{len(text)} bytes where {size} were written")
            self.rows = [json.loads(line) for line in text[:size].splitlines()]
        except (ValueError, FileNotFoundError) as error:
            raise InputError(
                f"the history {self._path} is damaged, begin anew in another folder: {error}"
            ) from error

    def open(self, size: int) -> None:
        """Cut the file back to its first `size` bytes and be ready to append."""
        if self._path is not None and self._writes:
            self._file = self._path.open("ab")
            self._file.truncate(size)

    def append(self, row: Row) -> None:
        """Add a step."""
        self.rows.append(row)
        if self._file:
            self._file.write(json.dumps(row).encode() + b"\n")

    def flush(self) -> int:
        """Wait until the file is on the disk; return its size in bytes."""
        if not self._file:
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None
