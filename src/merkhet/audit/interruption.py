"""Ctrl-C and SIGTERM: asked once, a command writes what it has; asked twice, it ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from merkhet.core.signals import STOPPING, Handlers, give_back_signals, take_signals

EXIT = 130


class Interruption:
    """While the block runs, the first SIGINT or SIGTERM raises KeyboardInterrupt, once.

    Python runs handlers between its own instructions, which may be long to wait for. So a thread
    counts the signals as they come, and ends the process at the second, though never while files
    are written. Outside the main thread, where Python allows no handlers, nothing is caught.

    Attributes:
        asked: Whether a signal has come. A library may have swallowed the exception: `check`
            raises it again.
    """

    def __init__(self) -> None:
        self.asked = False
        self._keeping = False
        self._writing = threading.Lock()
        self._before: Handlers = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._count, args=(self._pipe[0],), daemon=True).start()
            self._before = take_signals(self._note)
        return self

    def __exit__(self, *_exception: object) -> None:
        give_back_signals(self._before)
        self._before = {}
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # which ends the thread
            self._pipe = None

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come, for what may have swallowed it."""
        if self.asked:
            raise KeyboardInterrupt

    def telling(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        """Return what tells a line, unless a signal has come that something swallowed."""

        def told(line: str) -> None:
            self.check()
            tell(line)

        return told

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Take note of a first signal, without raising, while results are made ready."""
        self._keeping = True
        try:
            yield
        finally:
            self._keeping = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let files be written whole: a second signal waits for the end of the block."""
        with self.keeping(), self._writing:
            yield

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        """Take note of a signal; raise at the first."""
        first, self.asked = not self.asked, True
        if first and not self._keeping:
            raise KeyboardInterrupt

    def _count(self, pipe: int) -> None:
        """End the process at the second signal, at whatever the main thread is busy with."""
        seen = 0
        while byte := os.read(pipe, 1):
            seen += byte[0] in STOPPING
            if seen == 2:
                with self._writing:
                    os._exit(EXIT)
        os.close(pipe)
