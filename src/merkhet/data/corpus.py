"""Text as documents: which files, where one document ends, and which split it is in."""

from __future__ import annotations

import hashlib
import mmap
import os
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from merkhet.core.errors import InputError

PYTHON = "python"
"""The corpus that is always at hand: the source of Python's standard library."""

PYTHON_SKIPPED = ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.05
"""The share of documents, in expectation, in validation and again in test."""

PIECE = 2**13
"""A single file is cut into documents of about this many bytes, 8 KiB."""

PROBE = 2**13


@dataclass(frozen=True)
class Document:
    """A piece of text in a file.

    Attributes:
        key: The file's path below the corpus, with the offset if the file was cut.
        path: The file.
        start: Where the document starts, in bytes.
        stop: Where it ends, in bytes.
    """

    key: str
    path: Path
    start: int
    stop: int

    def read(self) -> bytes:
        """Return the document's bytes.

        Raises:
            InputError: The file has become shorter since the document was found.
        """
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            data = stream.read(self.stop - self.start)
        if len(data) != self.stop - self.start:
            raise InputError(f"{self.path} became shorter while it was read: try again")
        return data


def documents(
    path_or_name: str | Path,
    *,
    suffixes: Sequence[str] | None = None,
    skip: Collection[str] = (),
) -> list[Document]:
    """Return a corpus's documents in a fixed order, without their text.

    Every file of a folder is a document, sorted by path; hidden files and folders are left
    out. A single file is cut into pieces of about 8 KiB at empty lines (or line ends, or
    spaces), so that it can be split too.

    Args:
        path_or_name: "python" (the standard library's own source, without its tests and
            what was installed beside it), a folder, or a file.
        suffixes: The files to take, for example `(".c", ".h")`; by default those whose
            beginning has no zero byte, which is what tells text from other files.
        skip: Names of folders to leave out.

    Raises:
        InputError: The path does not exist or holds no text; a suffix has no dot.
    """
    for suffix in suffixes or ():
        if not suffix.startswith("."):
            raise InputError(f"suffix {suffix!r}: start it with a dot: {'.' + suffix!r}")
    root = corpus_root(path_or_name)
    if path_or_name == PYTHON:
        suffixes, skip = suffixes or (".py",), (*PYTHON_SKIPPED, *skip)
    if root.is_file():
        found = list(_pieces(root))
    else:
        found = [_whole(root, path) for path in _files(root, suffixes, skip)]
    if not found:
        told = f" with the suffixes {', '.join(suffixes)}" if suffixes else ""
        raise InputError(f"{root} holds no text{told}: give a folder or file of text")
    return found


def corpus_root(path_or_name: str | Path) -> Path:
    """Return the folder or file of a corpus.

    Raises:
        InputError: There is none.
    """
    if path_or_name == PYTHON:
        return Path(sysconfig.get_path("stdlib"))
    root = Path(path_or_name).expanduser()
    if not root.exists():
        raise InputError(
            f"no text at {str(path_or_name)!r}: give {PYTHON!r} or the path of a folder or file"
        )
    return root


def text_of(data: bytes) -> str:
    """Return bytes as text; what is not UTF-8 becomes the replacement character."""
    return data.decode("utf-8", errors="replace")


def split_of(data: bytes) -> str:
    """Return the split of a document with these bytes: "train", "validation" or "test".

    It depends on the bytes alone (BLAKE2b): a document added, moved or removed moves no
    other, and copies of one document are in one split.
    """
    number = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    share = number / 2**64
    if share < HELD_OUT:
        return "test"
    return "validation" if share < 2 * HELD_OUT else "train"


def _files(root: Path, suffixes: Sequence[str] | None, skip: Collection[str]) -> list[Path]:
    """Return the files of a folder that count as text and are not empty, sorted by path."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skip and not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and _is_text(path, suffixes):
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _is_text(path: Path, suffixes: Sequence[str] | None) -> bool:
    """Tell whether a file is to be taken."""
    if not path.is_file() or not path.stat().st_size:
        return False
    if suffixes is not None:
        return path.suffix in suffixes
    with path.open("rb") as stream:
        return b"\0" not in stream.read(PROBE)


def _whole(root: Path, path: Path) -> Document:
    """Return a whole file as a document."""
    return Document(path.relative_to(root).as_posix(), path, 0, path.stat().st_size)


def _pieces(path: Path) -> Iterator[Document]:
    """Cut a file into documents of 8 to 16 KiB."""
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        while start < size:
            stop = _cut(data, start, size)
            yield Document(f"{path.name}@{start}", path, start, stop)
            start = stop


def _cut(data: mmap.mmap, start: int, size: int) -> int:
    """Return where the piece that begins at `start` ends: after the best break there is."""
    latest = start + 2 * PIECE
    if latest >= size:
        return size
    for mark in (b"\n\n", b"\n", b" "):
        place = data.find(mark, start + PIECE, latest)
        if place >= 0:
            return place + len(mark)
    # No break at all: end before a character of UTF-8, not inside one (10xxxxxx continues it).
    while latest > start + PIECE and data[latest] & 0xC0 == 0x80:
        latest -= 1
    return latest
