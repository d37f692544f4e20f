"""`merkhet audit` and `merkhet demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from merkhet.core.command_options import MODEL, Mean, Seed, Size, Std, Weights
from merkhet.core.errors import InputError
from merkhet.report.commands import print_line

PAGE, COMPARISON = Path("report.html"), Path("comparison.html")


def audit(
    model: Annotated[str | None, typer.Argument(help=MODEL)] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, folder of class folders, or .npz (see `merkhet data`); for a language "
            "model python, a folder of text or a file."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The page to write, report.html; its JSON goes beside."),
    ] = None,
    weights: Weights = None,
    arguments: Annotated[
        str, typer.Option(help="""Arguments of the callable, as JSON: '{"classes": 10}'.""")
    ] = "{}",
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="With --graph, instead of --data: one input's shape, 3x32x32, or 64:int64 tokens."
        ),
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the network's graph and stop.")
    ] = False,
    checks: Annotated[str | None, typer.Option(help="Names of checks, with commas; all.")] = None,
    samples: Annotated[int, typer.Option(help="Inputs drawn from the data.", min=2)] = 256,
    seconds: Annotated[float, typer.Option(help="Time budget of the checks.", min=0)] = 120,
    seed: Seed = 0,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 where a figure or finding is beyond a limit, "
            '"stability(rotation,10)>0.3", and with 2 where it was not measured; repeatable.'
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Instead of MODEL: two networks, or the JSON of earlier reports, side by side in "
            "comparison.html.",
        ),
    ] = None,
) -> None:
    """Audit a network on data: one report, report.html, with its JSON beside it.

    Interrupted, it writes what it has and exits with 130.

    Example: merkhet audit merkhet.models:SmallCNN --data digits
    """
    from merkhet.audit.interruption import Interruption

    with Interruption() as stop:
        from merkhet.audit.case import Case
        from merkhet.audit.graph_listing import graph_listing
        from merkhet.audit.working import Limits, audit_case, compare_cases
        from merkhet.core.options import json_object

        given = json_object(arguments, "--arguments", '{"classes": 10}')
        file = None if weights is None else str(weights)
        case = Case(model or "", data, file, given, mean, std, size, samples, seed)
        names = None if checks is None else [name.strip() for name in checks.split(",")]
        limits = Limits(names, seconds, tuple(fail_on or ()), stop, print_line)
        if (model is None) == (compare is None):
            raise InputError("give one of MODEL and --compare A B, as in `merkhet audit MODEL`")
        if compare is not None:
            compare_cases(case, compare, out or COMPARISON, limits)
        elif graph:
            sys.stdout.write(graph_listing(case, shape) + "\n")
        else:
            audit_case(case, out or PAGE, limits)


def demo(
    out: Annotated[Path, typer.Option(help="The page to write; others begin as it does.")] = PAGE,
    data: Annotated[
        str | None, typer.Option(help="Data set; by default the best that is here.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Audit a network, train a remedy of its report, audit again, and show before and after.

    Example: merkhet demo
    """
    from merkhet.audit.interruption import Interruption

    with Interruption() as stop:
        from merkhet.audit.demo import show

        show(out, data, seed, stop)


TOP = (audit, demo)
