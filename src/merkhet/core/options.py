"""Options of the command line: numbers and JSON in text, with errors that show the right form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from merkhet.core.errors import InputError

Number = TypeVar("Number", int, float)


def numbers(
    text: str, option: str, separator: str, kind: Callable[[str], Number]
) -> tuple[Number, ...]:
    """Return the numbers in an option's text.

    Args:
        text: Such as "0.5,0.4" or "3x32x32".
        option: The option's name, for the message.
        separator: "," or "x".
        kind: `int` or `float`.

    Raises:
        InputError: The text is not numbers with separators; shows an example.
    """
    try:
        return tuple(kind(part) for part in text.lower().split(separator))
    except ValueError as error:
        by_comma = "3,5" if kind is int else "0.5,0.4,0.3"
        example = "3x32x32" if separator == "x" else by_comma
        raise InputError(f"{option} takes numbers, as in {example}, not {text!r}") from error


def json_object(text: str, option: str, example: str) -> dict[str, Any]:
    """Return the JSON object in an option's text.

    Raises:
        InputError: The text is not JSON, or not an object; shows the example.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{option} is not JSON ({error}): write '{example}'") from error
    if not isinstance(found, dict):
        raise InputError(f"{option} must be a JSON object, as in '{example}'")
    return found


def check_run_folder(out: Path) -> None:
    """Refuse a place that no run can be written to.

    Raises:
        InputError: It is a file, lies under one, or under a folder without write permission.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder for the run")
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"--out {out}: {there} is no folder that can be written to")
