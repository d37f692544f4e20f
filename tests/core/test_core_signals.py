"""Handlers of signals: taken in the main thread alone, and put back."""

from __future__ import annotations

import os
import signal
import threading

from merkhet.core.signals import STOPPING, give_back_signals, take_signals


def test_signals_are_taken_and_put_back() -> None:
    before = {number: signal.getsignal(number) for number in STOPPING}
    seen: list[int] = []
    taken = take_signals(lambda number, _frame: seen.append(number))
    try:
        for number in STOPPING:
            os.kill(os.getpid(), number)
    finally:
        give_back_signals(taken)
    assert seen == list(STOPPING)
    assert {number: signal.getsignal(number) for number in STOPPING} == before


def test_outside_the_main_thread_nothing_is_taken() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(take_signals(lambda *_: None)))
    thread.start()
    thread.join()
    assert found == [{}]
    assert signal.getsignal(signal.SIGINT) == before
