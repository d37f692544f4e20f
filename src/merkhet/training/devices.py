"""What accelerate is asked for: the device, the other processes, the tracker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from merkhet.core.errors import InputError, choose
from merkhet.training.config import Running

if TYPE_CHECKING:
    from accelerate import Accelerator

SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_MLU", "MULTI_HPU")


def start(running: Running, folder: Path | None) -> tuple[Accelerator, torch.device]:
    """Return accelerate's view of this process, and the device to train on.

    Raises:
        InputError: The tracker cannot be used, or accelerate is already set up otherwise in
            this process, or for a way of splitting one network that is not supported.
    """
    from accelerate import Accelerator

    _check_tracker(running.tracker, folder)
    # Alone, the CPU is chosen without telling accelerate, whose choice holds for the rest
    # of the process; together, it decides how the processes talk.
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        accelerator = Accelerator(
            cpu=running.cpu and together,
            mixed_precision="no",
            log_with=running.tracker,
            project_dir=folder,
        )
    except ValueError as error:
        raise InputError(
            f"accelerate is set up otherwise in this process, train in a new one: {error}"
        ) from error
    kind = str(accelerator.distributed_type.value)
    if kind not in SUPPORTED:
        raise InputError(f"accelerate is set up for {kind}: train with plain data parallelism")
    return accelerator, torch.device("cpu") if running.cpu else accelerator.device


def _check_tracker(name: str | None, folder: Path | None) -> None:
    """Refuse a tracker that accelerate would leave out without a word."""
    if name is None:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

    choose("tracker", name, LOGGER_TYPE_TO_CLASS)
    if folder is None:
        raise InputError(f"the tracker {name} needs a place: give fit(..., folder=...)")
    if not filter_trackers([name], folder):
        raise InputError(f"the tracker {name} is not installed: pip install {name}")
