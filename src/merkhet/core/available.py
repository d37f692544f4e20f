"""What memory and disk have room for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from merkhet.core.errors import InputError

_MEMINFO, _LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
_USED = Path("/sys/fs/cgroup/memory.current")


def available_memory() -> int:
    """Return the bytes of memory that a program may still take.

    On Linux what the system says is available, within the limit of the program's control group;
    elsewhere all that the machine has.
    """
    if not _MEMINFO.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0])
    if _LIMIT.is_file() and _USED.is_file() and (limit := _LIMIT.read_text().strip()) != "max":
        free = min(free, int(limit) - int(_USED.read_text()))
    return free


def refuse_too_large(what: str, needed: int, remedy: str) -> None:
    """Refuse what memory has no room for, before the work starts.

    Raises:
        InputError: Says how much is needed, how much there is, and the remedy.
    """
    free = available_memory()
    if needed > free:
        raise InputError(
            f"{what} takes {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: "
            f"{remedy}"
        )


def refuse_full_disk(what: str, needed: int, folder: Path) -> None:
    """Refuse what a folder's disk has no room for, before the work starts.

    Raises:
        InputError: Says how much is needed and how much there is.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{what} takes {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left: "
            "name another folder"
        )
