"""The files of a run's folder.

run.json            how the network is made, the configuration, the status
losses.jsonl        what every step measured, one line each
checkpoints/        see `checkpoints`
model.safetensors   the final weights
record.json         the run as evidence, once it is finished
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

import merkhet
from merkhet.core.errors import InputError
from merkhet.core.files import write_text
from merkhet.models.weights import save_weights
from merkhet.training.config import flatten

RUN, LOSSES, MODEL, RECORD = "run.json", "losses.jsonl", "model.safetensors", "record.json"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
RUNNING, INTERRUPTED, FINISHED = "running", "interrupted", "finished"


def read_run(folder: Path | str) -> dict[str, Any]:
    """Return what `run.json` says of a run.

    Returns:
        `status` ("running", also of one that was killed; "interrupted"; "finished"), `about`
        with the `config`, the caller's `spec` and what else makes the run, `running`,
        `merkhet` (the version), and `seconds` once it is finished.

    Raises:
        InputError: There is no run in the folder.
    """
    path = Path(folder) / RUN
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"{folder} holds no run: give a folder that fit wrote to") from error
    return fields


def final_weights(folder: Path | str) -> Path:
    """Return the path of a run's final weights.

    Raises:
        InputError: There is no run in the folder, or it is not finished.
    """
    status = read_run(folder)["status"]
    if status != FINISHED:
        raise InputError(f"the run in {folder} is {status}: finish it by the same call of fit")
    return Path(folder) / MODEL


def save_finished(
    network: nn.Module, about: dict[str, Any], folder: Path, more: dict[str, Any] | None = None
) -> None:
    """Write a network that was not trained here as a finished run, which other commands read.

    Weights first: a folder with `run.json` is whole.

    Args:
        network: Its weights are written.
        about: What makes the run; its `spec` says how the network is built.
        folder: The run's.
        more: Other fields of `run.json`.
    """
    save_weights(network, folder / MODEL)
    fields = {"status": FINISHED, **(more or {}), "about": about, "merkhet": merkhet.__version__}
    write_text(folder / RUN, json.dumps(fields, indent=1) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training into `folder`; a killed process lets go of it."""
    import fcntl

    with (folder / LOCK).open("w") as file:
        try:
            # A record lock, because workers forked from here must not hold it too.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise InputError(
                f"another process trains into {folder}: wait for it, or use another folder"
            ) from error
        yield


def check_same(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run that was another one."""
    before, here = flatten(then), flatten(now)
    for name in {**before, **here}:
        if before.get(name) != here.get(name):
            raise InputError(
                f"{folder} holds a run with {name.removeprefix('config.')} ="
                f" {before.get(name)!r}, not {here.get(name)!r}: use another folder, or the same"
                " settings to go on with that run"
            )


def sweep(folder: Path) -> None:
    """Remove what killed writers of single files left."""
    for name in (RUN, MODEL, RECORD):
        for leftover in folder.glob(f".{name}.*"):
            leftover.unlink()


def digest(about: dict[str, Any]) -> str:
    """Return a digest of what makes a run this run."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
