"""Independent pieces of work, several at a time, each in a process with one thread."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

Work = Callable[[], Any]


def in_processes(
    work: Mapping[str, Work], workers: int | None = None
) -> Iterator[tuple[str, Any, float]]:
    """Yield (name, what its function returned, its share of the time) as each one is done.

    Small networks gain little from a second thread; two of them at once take half the time.
    What was not begun is dropped when the caller stops early or a function raises.

    Args:
        work: Functions without arguments by name; they and what they return can be pickled.
        workers: How many at a time; as many as there are cores by default.
    """
    workers = min(workers or os.cpu_count() or 1, len(work))
    if not workers:
        return
    # Forked processes would share the state of torch's thread pools.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin)
    try:
        waiting = {pool.submit(_timed, function): name for name, function in work.items()}
        for done in as_completed(waiting):
            value, seconds = done.result()
            yield waiting[done], value, seconds / workers
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Begin in a process: one thread, and an end when the parent ends, even if it is killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process once its parent has: nobody is there to take what it returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _timed(function: Work) -> tuple[Any, float]:
    """Return what a function returns, and the seconds it took."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start
