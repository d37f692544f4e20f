"""Downloads from official sources, checked before they count."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from merkhet.core.errors import InputError
from merkhet.core.files import atomic_file
from merkhet.data.sources import Remote, Source

CHUNK = 2**18
PATIENCE = 30.0
"""Seconds without a byte after which a server counts as silent."""


class _MismatchError(OSError):
    """What arrived is not what was published."""


def download(source: Source, folder: Path) -> None:
    """Get a data set's files into `folder`; those already there and whole are kept.

    Each file is written aside, its checksum verified, and only then given its name, so an
    interrupted download leaves whole files alone and continues with the next.

    Raises:
        InputError: The data set has no published checksum, so it cannot be downloaded.
        ConnectionError: No place gave the file as published; says what each gave.
    """
    if not source.files:
        raise InputError(
            f"{source.name} cannot be downloaded: no checksum is published to check it by: "
            f"get it yourself and put it into $MERKHET_DATA/{source.name}"
        )
    with _progress() as progress:
        for remote in source.files:
            path = folder / remote.name
            if not (path.is_file() and file_digest(path, _algorithm(remote)) == remote.checksum):
                _get(remote, path, progress)


def file_digest(path: Path, algorithm: str) -> str:
    """Return "ALGORITHM:HEX" of a file's bytes."""
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, lambda: _hash(algorithm)).hexdigest()}"


def _get(remote: Remote, path: Path, progress: Progress) -> None:
    """Get one file from the first of its places that gives it as published."""
    failures = []
    for url in remote.urls:
        try:
            with atomic_file(path) as aside:
                _stream(url, aside, remote, progress)
            return
        # An HTTPException is a broken answer (IncompleteRead) that is no OSError.
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
    raise ConnectionError(f"could not download {remote.name}: {'; '.join(failures)}")


def _stream(url: str, aside: Path, remote: Remote, progress: Progress) -> None:
    """Copy what `url` gives into `aside`, and check it."""
    digest = _hash(_algorithm(remote))
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer, aside.open("wb") as out:
        task = progress.add_task(remote.name, total=_length(answer))
        while part := answer.read(CHUNK):
            out.write(part)
            digest.update(part)
            progress.advance(task, len(part))
    found = f"{_algorithm(remote)}:{digest.hexdigest()}"
    if found != remote.checksum:
        raise _MismatchError(f"its checksum is {found}, published is {remote.checksum}")


def _length(answer: IO[bytes]) -> int | None:
    """Return how many bytes the server says will come."""
    told = getattr(answer, "headers", {}).get("Content-Length", "")
    return int(told) if told and told.isdigit() else None


def _algorithm(remote: Remote) -> str:
    """Return the checksum's algorithm."""
    return remote.checksum.partition(":")[0]


def _hash(algorithm: str) -> hashlib._Hash:
    """Return a fresh digest; md5 is used against damage here, not against an enemy."""
    return hashlib.new(algorithm, usedforsecurity=False)


def _progress() -> Progress:
    """Return a progress display on standard error that leaves no trace."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
