"""Errors for users: what was given, what is allowed, what to write instead."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """What the user gave cannot be used; the message says what to give instead.

    The command line prints it as one line and exits with code 2. Broken invariants of
    merkhet itself raise AssertionError instead.
    """


class MissingExtraError(InputError, ImportError):
    """A library that an optional part of merkhet needs is not installed."""


def choose(what: str, given: str, allowed: Iterable[str]) -> str:
    """Return `given` if it is one of `allowed`.

    Args:
        what: The thing chosen, in words, for the message ("data set", "kind").
        given: The user's choice.
        allowed: The names that exist.

    Raises:
        InputError: `given` is not allowed; names the allowed ones and the nearest.
    """
    names = sorted(allowed)
    if given in names:
        return given
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"no {what} {given!r}: choose one of {', '.join(names)}.{hint}")


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, which comes with merkhet's optional `extra`.

    Raises:
        MissingExtraError: It is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is needed here and is not installed: pip install 'merkhet[{extra}]' "
            f"('.[{extra}]' in a checkout)"
        ) from error
