"""The command line `merkhet`: finds the commands of every package, nothing else.

A package's `commands.py` offers `TOP`, functions that become `merkhet NAME`, and `VERBS`,
functions that become `merkhet PACKAGE NAME`; either may be absent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

import merkhet
from merkhet.core import discovery
from merkhet.core.errors import InputError

USER_ERROR = 2
INTERRUPTED = 130


def build() -> typer.Typer:
    """Return the command line with every package's commands."""
    cli = typer.Typer(
        name="merkhet",
        help="Audit any PyTorch network, then change what you find.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    cli.callback()(_options)
    for package, module in discovery.parts("commands").items():
        _add(cli, getattr(module, "TOP", ()))
        verbs = getattr(module, "VERBS", ())
        if verbs:
            group = typer.Typer(help=_first_line(module.__doc__), no_args_is_help=True)
            _add(group, verbs)
            cli.add_typer(group, name=package.replace("_", "-"))
    return cli


def main() -> None:
    """Run the command line: user errors print one line and exit with code 2."""
    try:
        build()()
    except (InputError, OSError) as error:
        if os.environ.get("MERKHET_TRACEBACK"):
            raise
        _say(error)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt as error:  # what was interrupted may say how to go on
        sys.stderr.write(f"interrupted{': ' if str(error) else ''}{error}\n")
        sys.exit(INTERRUPTED)


def _add(app: typer.Typer, functions: tuple[Callable[..., Any], ...]) -> None:
    """Make each function a command of `app`, under its own name with hyphens."""
    for function in functions:
        app.command(function.__name__.rstrip("_").replace("_", "-"))(function)


def _print_version(asked: bool) -> None:
    """Print the version and stop, if asked."""
    if asked:
        sys.stdout.write(f"merkhet {merkhet.__version__}\n")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Audit any PyTorch network, then change what you find."""


def _say(error: Exception) -> None:
    """Print a user's error as one line on standard error."""
    line = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"error: {line}\n")


def _first_line(text: str | None) -> str:
    """Return the first line of a docstring."""
    return (text or "").strip().partition("\n")[0]
