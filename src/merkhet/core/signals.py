"""Handlers of Ctrl-C and SIGTERM, for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
Handlers = dict[signal.Signals, Any]


def take_signals(handler: Callable[[int, FrameType | None], None]) -> Handlers:
    """Let a handler have SIGINT and SIGTERM; return those before, for `give_back_signals`.

    Outside the main thread, where Python allows no handlers, nothing is taken.

    Args:
        handler: Called with the number of the signal and the frame that it came in.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in STOPPING}


def give_back_signals(before: Mapping[signal.Signals, Any]) -> None:
    """Put handlers back that `take_signals` returned."""
    for number, handler in before.items():
        # A handler that was not installed from Python is None and cannot be put back.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
