"""Ctrl-C and SIGTERM: asked once, a run stops after its step; asked twice, at once."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

from merkhet.core.signals import Handlers, give_back_signals, take_signals


class StopSignals:
    """While the block runs, takes note of SIGINT and SIGTERM instead of dying of them.

    The second signal raises at once. The handlers before are put back at the end of the
    block, or just before a second signal raises. Outside the main thread, where Python
    allows no handlers, nothing is caught.

    Attributes:
        received: The first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: Handlers = {}

    def __enter__(self) -> Self:
        self._before = take_signals(self._note)
        return self

    def __exit__(self, *_exception: object) -> None:
        give_back_signals(self._before)
        self._before = {}

    def stopped(self, message: str) -> BaseException:
        """Return what to raise: SystemExit(143) after SIGTERM, else KeyboardInterrupt."""
        if self.received is signal.SIGTERM:
            return SystemExit(128 + signal.SIGTERM)
        return KeyboardInterrupt(message)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Take note of the first signal; give up at the second."""
        again, self.received = self.received is not None, signal.Signals(number)
        if again:
            self.__exit__()
            raise self.stopped("stopped at once")
