"""`merkhet reproduce`: run experiments and write their records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    package: Annotated[str | None, typer.Argument(help="A package; all by default.")] = None,
    experiment: Annotated[
        str | None, typer.Argument(help="One of its experiments; all by default.")
    ] = None,
    size: Annotated[
        str, typer.Option(help="small (minutes on two cores) or full (the paper's protocol).")
    ] = "small",
    out: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("docs/results"),
    list_only: Annotated[bool, typer.Option("--list", help="List experiments and stop.")] = False,
) -> None:
    """Run experiments and write a record, with figures, for each; resumes where it stopped.

    Example: merkhet reproduce --list
    """
    from merkhet.report.record import read_record
    from merkhet.report.trial import reproduce as run
    from merkhet.report.trial import select

    for chosen in select(package, experiment):
        title = f"{chosen.package} {chosen.name}"
        if list_only:
            sys.stdout.write(f"{title}: {chosen.summary}\n")
            continue
        sys.stdout.write(f"{title} ({size})\n")
        path = run(chosen, size, out, lambda line: print_line(f"  {line}"))
        for goal in read_record(path).goals:
            met = "met" if goal.met else "NOT MET"
            print_line(f"  {met}: {goal.goal}: {goal.value} (target: {goal.target})")
        print_line(f"  {path}")


def print_line(line: str) -> None:
    """Print a line at once, so that a log file shows progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


TOP = (reproduce,)
