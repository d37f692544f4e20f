"""Experiments: functions that a package's `experiments.py` offers to `merkhet reproduce`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from merkhet.core import discovery
from merkhet.core.errors import InputError, choose
from merkhet.core.files import atomic_file
from merkhet.core.processes import in_processes
from merkhet.report.record import Figure, Goal, Record

if TYPE_CHECKING:
    import matplotlib.figure

SIZES = ("small", "full")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment: a function named for what it shows.

    Attributes:
        run: Fills in a trial.
    """

    run: Callable[[Trial], None]

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return self.run.__name__

    @property
    def package(self) -> str:
        """The package it is evidence for."""
        return self.run.__module__.split(".")[1]

    @property
    def summary(self) -> str:
        """What it shows, in one line."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]


def experiment(run: Callable[[Trial], None]) -> Experiment:
    """Mark a function of a package's `experiments.py` as an experiment."""
    return Experiment(run)


class Trial:
    """One run of an experiment: what it may choose from and where its results go.

    An interrupted trial goes on where it stopped: what `step` returned is kept on disk
    until the trial ends, apart for each commit of the code.

    Args:
        experiment: What is run.
        size: "small" (minutes on two cores) or "full" (the paper's protocol).
        folder: Where `<package>/<name>.json` and its figures go.
        tell: Called with a line of progress now and then.
    """

    def __init__(
        self,
        experiment: Experiment,
        size: str,
        folder: Path | str,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.size = choose("size", size, SIZES)
        self.record = Record(experiment.package, experiment.name, size)
        self.folder = Path(folder) / experiment.package
        self.tell = tell
        code = self.record.commit[:12]
        self._work = self.folder / ".work" / f"{experiment.name}-{size}-{code}"

    def step(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, or what it returned before this trial was interrupted.

        Args:
            key: Names the step and everything it depends on.
            compute: Returns tensors, numbers, strings, and lists and dicts of them.
        """
        path = self._path(key)
        if path.exists():
            return self._kept(path)
        start = time.perf_counter()
        value = compute()
        self._keep(key, value, time.perf_counter() - start)
        return value

    def steps(
        self, computes: Mapping[str, Callable[[], Any]], workers: int | None = None
    ) -> dict[str, Any]:
        """Return what each of several steps computes, some at a time in processes of one thread.

        Args:
            computes: As for `step`, by key; each can be pickled.
            workers: How many at a time; as many as there are cores by default.
        """
        found = {key: self._kept(path) for key in computes if (path := self._path(key)).exists()}
        missing = {key: compute for key, compute in computes.items() if key not in found}
        for key, value, seconds in in_processes(missing, workers):
            self._keep(key, value, seconds)
            found[key] = value
        return {key: found[key] for key in computes}

    def _path(self, key: str) -> Path:
        """Return where a step is kept."""
        return self._work / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pt"

    def _kept(self, path: Path) -> Any:
        """Return what a step that is kept returned."""
        kept = torch.load(path, weights_only=True)
        self.record.seconds += kept["seconds"]
        return kept["value"]

    def _keep(self, key: str, value: Any, seconds: float) -> None:
        """Keep what a step returned, and tell of it."""
        with atomic_file(self._path(key)) as aside:
            torch.save({"value": value, "seconds": seconds}, aside)
        self.record.seconds += seconds
        self.tell(f"{key} ({seconds:.1f} s)")

    def figure(
        self,
        name: str,
        value: float,
        unit: str = "",
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Add a number to the record."""
        self.record.figures[name] = Figure(float(value), unit, interval)

    def goal(self, goal: str, target: str, value: float | str, met: bool) -> None:
        """Add a goal with its outcome to the record."""
        self.record.goals.append(Goal(goal, target, value, bool(met)))

    def picture(self, figure: matplotlib.figure.Figure, suffix: str = "") -> None:
        """Save a figure beside the record as `<name><suffix>.png`."""
        with atomic_file(self.folder / f"{self.record.name}{suffix}.png") as aside:
            figure.savefig(aside, format="png", dpi=110)

    def finish(self, started: float) -> Path:
        """Write the record and forget the steps kept for resuming."""
        self.record.seconds = max(self.record.seconds, time.perf_counter() - started)
        path = self.record.write(self.folder)
        shutil.rmtree(self._work, ignore_errors=True)
        with contextlib.suppress(OSError):  # other experiments may have steps kept there
            self._work.parent.rmdir()
        return path


def experiments() -> dict[str, dict[str, Experiment]]:
    """Return every experiment, by package and name, found in the packages' `experiments.py`."""
    return {
        package: {
            found.name: found for found in vars(module).values() if isinstance(found, Experiment)
        }
        for package, module in discovery.parts("experiments").items()
    }


def select(package: str | None, name: str | None) -> list[Experiment]:
    """Return the experiments asked for: all, a package's, or one.

    Raises:
        InputError: No such package or experiment; names those that exist.
    """
    every = experiments()
    if package is None:
        return [found for group in every.values() for found in group.values()]
    package = package.replace("-", "_")
    group = every[choose("package with experiments", package, every)]
    if name is None:
        return list(group.values())
    return [group[choose(f"experiment of {package}", name.replace("-", "_"), group)]]


def reproduce(
    chosen: Experiment,
    size: str,
    folder: Path | str,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run one experiment and return the path of its record.

    Raises:
        InputError: `size` is not one of `SIZES`.
    """
    if not Path(folder).is_dir():
        raise InputError(f"no folder {folder} for the results: create it or give --out FOLDER")
    trial = Trial(chosen, size, folder, tell)
    started = time.perf_counter()
    chosen.run(trial)
    return trial.finish(started)
