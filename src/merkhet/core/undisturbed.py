"""A network left as it was, whatever its forward pass wrote into it."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTAINERS = (dict, list, set)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run a network for a look at it, and put it and the random generators back afterwards.

    Forward passes write: counters in buffers, caches made at the first call, features that are
    collected in a list. Every attribute of every part is put back, with the values of buffers
    and tensors and with the entries of lists, dicts and sets; parameters are assumed to keep
    their values. Objects of other classes that the network holds are not looked into.

    Args:
        module: Any network whose parameters are initialised.
    """
    with _generators():
        parts = [_State(part) for part in module.modules()]
        try:
            yield
        finally:
            for part in parts:
                part.restore()


class _State:
    """What one module itself holds, without the modules inside."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        scripted = isinstance(part, torch.jit.ScriptModule)  # its attributes are compiled
        self.attributes = {} if scripted else dict(vars(part))
        held = [value for value in self.attributes.values() if isinstance(value, CONTAINERS)]
        self.contents = [(container, _entries(container)) for container in held]
        tensors = [*part.buffers(recurse=False), *self.attributes.values()]
        self.tensors = [
            (tensor, tensor.detach().clone())
            for tensor in tensors
            if isinstance(tensor, Tensor) and not tensor.is_meta
        ]

    def restore(self) -> None:
        """Put it back."""
        if self.attributes:
            for name in vars(self.part).keys() - self.attributes.keys():
                del vars(self.part)[name]
            vars(self.part).update(self.attributes)
        for container, entries in self.contents:
            _refill(container, entries)
        for tensor, value in self.tensors:
            if tensor.layout != torch.strided or not torch.equal(tensor, value):
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(value)


@contextmanager
def _generators() -> Iterator[None]:
    """Put the generators of torch, NumPy and Python back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - theirs, not ours
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _entries(held: Any) -> list[Any]:
    """Return the entries of a container in order, keys and values of a dict in turns."""
    return list(chain.from_iterable(held.items()) if isinstance(held, dict) else held)


def _refill(held: Any, entries: list[Any]) -> None:
    """Give a container the entries it had, unless it has them still."""
    now = _entries(held)
    if len(now) == len(entries) and all(map(operator.is_, now, entries)):
        return
    held.clear()
    if isinstance(held, list):
        held.extend(entries)
    elif isinstance(held, set):
        held.update(entries)
    else:
        held.update(zip(entries[::2], entries[1::2], strict=True))
