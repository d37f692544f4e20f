"""Networks that initialise themselves: every module's own reset_parameters, from a seed."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from merkhet.core.errors import InputError

METHODS = "reset_parameters", "_reset_parameters"
LARGEST_SEED = 2**32 - 1  # numpy's


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise a network as its modules do themselves, in place.

    Inner modules come first, as when a network is built: each calls its `reset_parameters` (or
    torch's private `_reset_parameters`), with the generator if it takes one; modules of a Hugging
    Face network are given to its `_init_weights`. The global generators, from which torch's
    modules draw, are seeded from `generator` for the time and put back.

    Raises:
        InputError: Parameters are left that nothing has initialised; names them.
    """
    values = dict(module.named_parameters())
    for value in values.values():
        if value.is_floating_point():
            value.fill_(torch.nan)  # what nothing initialises stays so
    with seeded(generator):
        _reset(module, None, generator)
    left = [name for name, value in values.items() if bool(value.isnan().any())]
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        raise InputError(
            f"nothing initialises {', '.join(left[:4])}{more}: give their modules a method "
            "reset_parameters(self), or take a prior that draws them, as 'gaussian'"
        )


def _reset(module: nn.Module, init: Callable[[nn.Module], Any] | None, g: torch.Generator) -> None:
    """Initialise a module after those inside it.

    Args:
        module: The module.
        init: What the nearest Hugging Face network around it initialises modules by.
        g: For modules that take a generator.
    """
    init = getattr(module, "_init_weights", init)
    for inner in module.children():
        _reset(inner, init, g)
    method = next((getattr(module, name) for name in METHODS if hasattr(module, name)), None)
    if init is not None:
        init(module)
    elif method is not None:
        _call(method, g)


def _call(method: Callable[..., Any], generator: torch.Generator) -> None:
    """Call a module's method, unless it wants more than a generator: an outer module gives that."""
    needed = [
        name
        for name, given in inspect.signature(method).parameters.items()
        if given.default is given.empty and given.kind is given.POSITIONAL_OR_KEYWORD
    ]
    if not needed:
        method()
    elif needed == ["generator"]:
        method(generator)


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python for the time, and put them back after."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - theirs, not ours
    drawn = torch.randint(LARGEST_SEED, (), generator=generator, device=generator.device)
    seed = int(drawn)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
