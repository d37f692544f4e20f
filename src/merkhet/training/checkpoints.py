"""Checkpoints: folders that are whole or not there, and that prove that they are undamaged.

    checkpoints/step-00000100/
        model.safetensors   weights and buffers; tied tensors once
        optimiser.pt        the optimiser's state, loadable with weights_only=True
        state.json          the step, and where the rest of the run stood
        SHA256SUMS          of these three; `sha256sum -c SHA256SUMS` checks it by hand

There are no states of random generators: a step's randomness depends on the seed and the
step alone (see `randomness`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from merkhet.core.errors import InputError
from merkhet.core.files import atomic_folder
from merkhet.models.weights import load_weights, save_weights

MODEL, OPTIMISER, STATE, SUMS = "model.safetensors", "optimiser.pt", "state.json", "SHA256SUMS"
NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class State:
    """Where a run stood.

    Attributes:
        step: Steps made.
        seconds: Seconds that they took, over all resumptions.
        history_bytes: Size of the history's file then; what came later is cut off.
        run: Digest of what makes the run this run; another run's checkpoint is refused.
    """

    step: int = 0
    seconds: float = 0.0
    history_bytes: int = 0
    run: str = ""


def save(folder: Path, state: State, module: nn.Module, optimiser: Optimizer) -> Path:
    """Write the checkpoint of `state.step` into `folder` and return its path.

    Raises:
        OSError: It could not be written; nothing of it is left, and the others are as before.
    """
    path = folder / f"step-{state.step:08d}"
    with disk_errors(path), atomic_folder(path) as aside:
        save_weights(module, aside / MODEL)
        torch.save(optimiser.state_dict(), aside / OPTIMISER)
        (aside / STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        (aside / SUMS).write_text(_sums(aside), encoding="utf-8")
    return path


def load(path: Path, module: nn.Module, optimiser: Optimizer) -> State:
    """Bring the network and its optimiser to where they were, and return the rest.

    Raises:
        InputError: The checkpoint is of another network or optimiser.
    """
    load_weights(module, path / MODEL)
    try:
        optimiser.load_state_dict(
            torch.load(path / OPTIMISER, map_location="cpu", weights_only=True)
        )
    except ValueError as error:
        raise InputError(f"{path / OPTIMISER} is of another optimiser: {error}") from error
    return State(**json.loads((path / STATE).read_text(encoding="utf-8")))


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole and undamaged, or None if there are none.

    Newer ones that are damaged are told in a warning.

    Raises:
        InputError: There are checkpoints, and all are damaged.
    """
    found = _all(folder)
    for path in reversed(found):
        fault = _fault(path)
        if not fault:
            return path
        warnings.warn(f"the checkpoint {path} is passed over: {fault}", stacklevel=2)
    if found:
        raise InputError(f"all checkpoints in {folder} are damaged: begin anew in another folder")
    return None


def tidy(folder: Path, current: Path | None) -> None:
    """Remove what killed writers left, and set aside the damaged ones newer than `current`."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)
    for path in _all(folder):
        if current and path.name > current.name:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in _all(folder)[:-keep]:
        # Renamed first: a kill in the middle must not leave half a checkpoint by this name.
        shutil.rmtree(path.rename(path.with_name(f".{path.name}.old")))


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint, or return None."""
    for name in (SUMS, MODEL, OPTIMISER, STATE):
        if not (path / name).is_file():
            return f"{name} is absent"
    if (path / SUMS).read_bytes() != _sums(path).encode():
        return f"a file does not have its checksum in {SUMS}"
    return None


def _sums(path: Path) -> str:
    """Return the checksums of a checkpoint's files, as `sha256sum` writes them."""
    return "".join(f"{_digest(path / name)}  {name}\n" for name in (MODEL, OPTIMISER, STATE))


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise what torch and safetensors raise for a full disk as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(path.parent).free // 2**20
        raise OSError(
            f"the checkpoint {path} could not be written ({free} MiB are free there): {error}"
        ) from error
