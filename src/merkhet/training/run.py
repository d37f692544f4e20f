"""A run: where it stands, kept so that it can go on, and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

import merkhet
from merkhet.core.errors import InputError
from merkhet.core.files import write_text
from merkhet.models.weights import load_weights, save_weights
from merkhet.report.record import Figure, Record
from merkhet.training import checkpoints
from merkhet.training.checkpoints import State
from merkhet.training.config import TrainingConfig
from merkhet.training.folder import (
    CHECKPOINTS,
    FINISHED,
    INTERRUPTED,
    LOSSES,
    MODEL,
    RECORD,
    RUN,
    RUNNING,
    check_same,
    digest,
    locked,
    read_run,
    sweep,
)
from merkhet.training.history import History, Row


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        history: What each step measured: "step", "loss", "rate", and what was logged.
        seconds: Seconds of training, over all resumptions; work that a kill undid is left out.
        folder: The run's folder, or None.
    """

    history: list[Row] = field(repr=False)
    seconds: float
    folder: Path | None = None

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [row["loss"] for row in self.history]

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self.history)


class Run:
    """A run, kept in a folder or, where there is none, in memory only.

    Of several processes of one run, all read the folder and only the main one writes.

    Args:
        folder: The run's folder, or None.
        about: What makes it this run: JSON-able, the same at every resumption.
        config: How it is looked after is taken from here.
        main: Whether this is the main process.
        wait: Waits for the other processes.

    Attributes:
        history: What each step measured.
        finished: Whether it was finished before.

    Raises:
        InputError: The folder holds another run.
    """

    def __init__(
        self,
        folder: Path | None,
        about: dict[str, Any],
        config: TrainingConfig,
        *,
        main: bool = True,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._about, self._config = folder, about, config
        self._main, self._wait = main, wait
        self._before, self._started = 0.0, time.perf_counter()
        self.history = History(folder / LOSSES if folder else None, writes=main)
        self.finished = False
        if folder is None:
            return
        if (folder / RUN).exists():
            found = read_run(folder)
            check_same(folder, found["about"], about)
            self.finished = found["status"] == FINISHED
        if main and not self.finished:
            self._record = Record("training", folder.resolve().name, "full")
            sweep(folder)
            self._note(RUNNING)

    def restore(self, module: nn.Module, optimiser: Optimizer) -> int:
        """Bring network and optimiser to the newest good checkpoint; return the steps made."""
        state = State()
        if self._folder is not None:
            path = self._newest(self._folder / CHECKPOINTS)
            if path:
                state = checkpoints.load(path, module, optimiser)
                self._check_mine(path, state)
            self.history.read(state.history_bytes)
            self.history.open(state.history_bytes)
        self._before, self._started = state.seconds, time.perf_counter()
        return state.step

    def save(self, step: int, module: nn.Module, optimiser: Optimizer) -> None:
        """Write a checkpoint and remove the oldest beyond those to keep."""
        if self._main and self._folder is not None:
            folder = self._folder / CHECKPOINTS
            state = State(step, self.seconds, self.history.flush(), digest(self._about))
            checkpoints.save(folder, state, module, optimiser)
            checkpoints.prune(folder, self._config.running.keep)
        self._wait()

    @property
    def kept(self) -> str:
        """What to say of a run that was interrupted, after the step it stopped at."""
        if self._folder is None:
            return ""
        return f"; {self._folder} keeps it, and the same call or command goes on"

    def interrupt(self) -> None:
        """Note that the run stopped before its end."""
        self._note(INTERRUPTED)

    def finish(self, module: nn.Module) -> TrainingResult:
        """Write the final weights and the record; return the result."""
        result = TrainingResult(self.history.rows, self.seconds, self._folder)
        if self._main and self._folder is not None:
            self.history.flush()
            with checkpoints.disk_errors(self._folder / MODEL):
                save_weights(module, self._folder / MODEL)
            self._write_record(result)
            self._note(FINISHED, seconds=result.seconds)
        self._wait()
        return result

    def result(self, module: nn.Module) -> TrainingResult:
        """Bring the network to the final weights of a finished run; return its result."""
        assert self._folder is not None, "only a kept run is found finished"
        load_weights(module, self._folder / MODEL)
        self.history.read()
        return TrainingResult(self.history.rows, read_run(self._folder)["seconds"], self._folder)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all resumptions."""
        return self._before + time.perf_counter() - self._started

    def _newest(self, folder: Path) -> Path | None:
        """Return the newest good checkpoint, the same in all processes."""
        path = checkpoints.newest(folder) if self._main else None
        if self._main:
            checkpoints.tidy(folder, path)
        self._wait()
        return path if self._main else checkpoints.newest(folder)

    def _check_mine(self, path: Path, state: State) -> None:
        """Refuse a checkpoint that came from another run."""
        if state.run != digest(self._about):
            raise InputError(f"{path} is a checkpoint of another run: begin in another folder")

    def _note(self, status: str, **more: float) -> None:
        """Write what the run is and where it stands."""
        if self._main and self._folder is not None:
            running = self._config.to_dict()["running"]
            fields = {"status": status, **more, "about": self._about, "running": running}
            text = json.dumps({**fields, "merkhet": merkhet.__version__}, indent=1)
            write_text(self._folder / RUN, text + "\n")

    def _write_record(self, result: TrainingResult) -> None:
        """Write the run as evidence."""
        assert self._folder is not None, "only a kept run has a record"
        record, seconds = self._record, result.seconds
        record.seeds, record.seconds = [self._config.seed], seconds
        record.settings = {**self._about, "running": self._config.to_dict()["running"]}
        record.figures = {
            "final_loss": Figure(result.losses[-1]),
            "steps_per_second": Figure(result.steps / seconds, "1/s"),
            "seconds": Figure(seconds, "s"),
        }
        record.write(self._folder, RECORD)


@contextmanager
def open_run(
    folder: Path | None,
    about: dict[str, Any],
    config: TrainingConfig,
    *,
    main: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> Iterator[Run]:
    """Yield the run of a folder, which no other process can train into meanwhile.

    The arguments are those of `Run`.

    Raises:
        InputError: The folder holds another run, or another process trains into it.
    """
    with ExitStack() as held:
        if folder is not None and main:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder))
        run = Run(folder, about, config, main=main, wait=wait)
        held.callback(run.history.close)
        yield run
