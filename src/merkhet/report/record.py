"""The record: one JSON file for one experiment or benchmark, as evidence."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from merkhet.core.errors import InputError
from merkhet.core.files import write_text
from merkhet.core.machine import processor_name

LIBRARIES = ("torch", "numpy", "scipy", "numba", "scikit-learn", "transformers")


@dataclass(frozen=True)
class Figure:
    """One number of a result.

    Attributes:
        value: The number.
        unit: Its unit, empty for a pure number.
        interval: Its 95 % interval (low, high), or None where it is exact or a single run.
    """

    value: float
    unit: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Goal:
    """A goal set beforehand, and what came of it; unmet goals stay in.

    Attributes:
        goal: What was to be reached, in words.
        target: The target, in words ("below 0.05", "6 minutes").
        value: What was reached.
        met: Whether the value meets the target.
    """

    goal: str
    target: str
    value: float | str
    met: bool


@dataclass
class Record:
    """What one run of an experiment or a benchmark showed, and how it was run.

    Attributes:
        package: The package it is evidence for.
        name: The experiment's name.
        size: "small" or "full".
        seeds: Every seed used.
        settings: What was chosen: data, widths, repeats.
        figures: The numbers, by name.
        goals: The goals with their outcomes.
        notes: Anything a reader must know, in words.
        seconds: Wall-clock seconds that the run took.
        command: The command line that runs it again.
        commit: The commit of the code, "-dirty" appended where files had changed.
        started: When it started, ISO 8601 in UTC.
        machine: Processor, cores, memory in GiB, GPU or None.
        versions: Versions of Python and of the libraries that decide results.
    """

    package: str
    name: str
    size: str
    seeds: list[int] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: str = ""
    seconds: float = 0.0
    command: str = field(default_factory=lambda: command_line())
    commit: str = field(default_factory=lambda: commit())
    started: str = field(default_factory=lambda: now())
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def write(self, folder: Path | str, filename: str | None = None) -> Path:
        """Write the record as `folder`/`filename` (by default its name), atomically."""
        path = Path(folder) / (filename or f"{self.name}.json")
        write_text(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path


def read_record(path: Path | str) -> Record:
    """Read a record that `Record.write` wrote.

    Raises:
        InputError: The file is not JSON, or lacks or has fields that a record does not.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        fields["figures"] = {name: _figure(of) for name, of in fields["figures"].items()}
        fields["goals"] = [Goal(**goal) for goal in fields["goals"]]
        return Record(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a record of merkhet: {error}") from error


def command_line() -> str:
    """Return the command that runs this program again, without this machine's paths."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return shlex.join([program.name, *sys.argv[1:]])
    script = program.resolve()
    below = script.is_relative_to(Path.cwd())
    named = script.relative_to(Path.cwd()) if below else Path(script.name)
    return shlex.join(["python", str(named), *sys.argv[1:]])


def commit() -> str:
    """Return the commit of the code in use, or "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", "src", ":/src")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("-dirty" if changed else "")


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, memory in GiB, GPU or None."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, merkhet and the libraries that decide results."""
    found = {"python": platform.python_version(), "merkhet": metadata.version("merkhet")}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _figure(fields: dict[str, Any]) -> Figure:
    """Return a figure from its JSON form, where intervals are lists."""
    interval = fields["interval"]
    return Figure(fields["value"], fields["unit"], tuple(interval) if interval else None)


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says in `folder`."""
    call = ["git", "-C", str(folder), *arguments]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()
