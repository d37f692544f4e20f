"""What a run says while it runs: a bar on a terminal, lines to the caller, a tracker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from merkhet.training.config import TrainingConfig, flatten
from merkhet.training.history import Row

if TYPE_CHECKING:
    from accelerate import Accelerator


class Announcer:
    """Announces steps, on the main process only.

    Args:
        config: How many steps there are, how often to tell, whether to show a bar.
        accelerator: Knows whether this is the main process, and the trackers.
        done: Steps made before.
        tell: Called with a line every `log_every` steps and at the end.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        done: int,
        tell: Callable[[str], None] | None,
    ) -> None:
        self._steps, self._running = config.steps, config.running
        self._accelerator, self._done, self._tell = accelerator, done, tell
        self._main = bool(accelerator.is_main_process)
        self._bar: Any = None
        if self._running.tracker:
            accelerator.init_trackers("merkhet", config=_as_trackers_take(config))

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._main and self._running.progress:
            self._bar = _bar(self._done, self._steps)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar:
            self._bar.stop()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def __call__(self, row: Row) -> None:
        """Announce the step that measured `row`."""
        step = int(row["step"])
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, loss=row["loss"])
        if step % self._running.log_every and step != self._steps:
            return
        if self._running.tracker:
            self._accelerator.log({k: v for k, v in row.items() if k != "step"}, step=step)
        if self._main and self._tell:
            self._tell(self._line(step, row))

    def _line(self, step: int, row: Row) -> str:
        """Return a line on one step."""
        speed = (step - self._done) / (time.perf_counter() - self._started)
        values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        return f"step {step}/{self._steps}  {values}  {speed:.3g} steps/s"


def _bar(done: int, steps: int) -> Any:
    """Return a running progress bar, or None where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    loss = TextColumn("loss {task.fields[loss]:.4g}")
    bar = Progress(BarColumn(), MofNCompleteColumn(), loss, Remaining(), console=console)
    bar.add_task("training", total=steps, completed=done, loss=float("nan"))
    bar.start()
    return bar


def _as_trackers_take(config: TrainingConfig) -> dict[str, Any]:
    """Return the configuration as one dict of plain values."""
    fields = flatten(config.to_dict())
    return {
        name: value if isinstance(value, int | float | str) else str(value)
        for name, value in fields.items()
    }
