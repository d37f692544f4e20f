"""Loops that release Python's lock, run in pieces on as many threads as torch uses."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

Part = tuple[int, int]


def in_parallel(loop: Callable[..., Any], parts: Sequence[Part], *given: Any) -> None:
    """Run `loop(low, high, *given)` for every part.

    Results do not depend on the number of threads where parts write to different places.

    Args:
        loop: A compiled function that releases Python's lock.
        parts: What each call goes over.
        given: The other arguments.
    """
    threads = min(torch.get_num_threads(), len(parts))
    shares = [parts[place::threads] for place in range(threads)]
    if threads < 2:
        _each(loop, parts, given)
    elif _openmp() is not None:
        _on_openmp(loop, shares, given)
    else:
        others = [_pool(threads).submit(_each, loop, share, given) for share in shares[1:]]
        _each(loop, shares[0], given)
        for other in others:
            other.result()


def pieces(count: int) -> list[Part]:
    """Return `range(count)` as one part for each thread."""
    threads = torch.get_num_threads()
    cuts = [count * place // threads for place in range(threads + 1)]
    return [(low, high) for low, high in itertools.pairwise(cuts) if low < high]


def _each(loop: Callable[..., Any], parts: Sequence[Part], given: Any) -> None:
    """Run the parts of one thread."""
    for low, high in parts:
        loop(low, high, *given)


def _on_openmp(loop: Callable[..., Any], shares: list[Sequence[Part]], given: Any) -> None:
    """Run the shares on torch's own team of threads.

    After a matrix product the team waits busily for its next work for some milliseconds: other
    threads would share the cores with it.
    """
    openmp = _openmp()
    assert openmp is not None
    errors: list[BaseException] = []

    def run(_data: Any) -> None:
        try:
            for place in range(
                openmp.omp_get_thread_num(), len(shares), openmp.omp_get_num_threads()
            ):
                _each(loop, shares[place], given)
        except BaseException as error:  # must not unwind through the team
            errors.append(error)

    openmp.GOMP_parallel(_Region(run), None, len(shares), 0)
    if errors:
        raise errors[0]


_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """Return the OpenMP library that torch brings and uses, where it is GNU's."""
    path = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    return ctypes.CDLL(str(path)) if path.is_file() else None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads of our own."""
    return ThreadPoolExecutor(threads, "merkhet")


# A forked child has none of its parent's threads: it starts its own.
os.register_at_fork(after_in_child=_pool.cache_clear)
