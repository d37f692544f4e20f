"""Files that are whole or not there: write aside, then rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when the block succeeds.

    The temporary file lies beside `path` (a rename across file systems is not atomic) and
    is removed when the block fails, so `path` is either as it was or complete.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:  # name the file that was asked for, not the one beside it
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        _flush(aside)
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        if error.filename not in (None, str(aside)):
            raise  # of another file, which the block reads
        said = f"cannot be written ({error.strerror or error})"
        raise OSError(error.errno, said, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block succeeds.

    Raises:
        FileExistsError: `path` exists; folders are never overwritten.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        aside.chmod(0o777 & ~_umask())
        aside.rename(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Wait until `path` is on the disk, so that a rename never outruns its contents."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """Return this process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
