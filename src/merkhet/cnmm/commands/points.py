"""`merkhet cnmm points`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from merkhet.cnmm.commands.runs import LATENCIES, POINTS, Opened, open_run
from merkhet.core.errors import InputError, choose

if TYPE_CHECKING:
    from torch import Tensor

    from merkhet.cnmm.costs import CostTable

PICTURE = "points.png"
RUN = "Folder of a run of `merkhet cnmm train`."


def points(
    run: Annotated[Path, typer.Argument(help=RUN)],
    by: Annotated[
        str, typer.Option(help="latency (measured here), multiply_adds or parameters.")
    ] = "latency",
    count: Annotated[int, typer.Option(help="Budgets, from the cheapest on.", min=1)] = 8,
    budgets: Annotated[
        str | None,
        typer.Option(help="Budgets instead, with commas: seconds, multiply-adds, parameters."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="paths: single networks; node-sets: mixtures of some.")
    ] = "paths",
    best: Annotated[int, typer.Option(help="Candidates that are tried for each.", min=1)] = 3,
    gain: Annotated[
        float, typer.Option(help="Least gain of a point's held-out score over a cheaper one's.")
    ] = 0.0,
    batch: Annotated[
        int | None, typer.Option(help="Pictures at a time, of latencies; 1.", min=1)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of latencies; torch's.", min=1)] = None,
    table: Annotated[
        Path | None, typer.Option(help="A table of latencies measured before, as JSON.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for points.json and points.png; the run's.")
    ] = None,
) -> None:
    """Print the best networks of a mixture by cost, chosen on held-out data, reported on test data.

    Example: merkhet cnmm points cnmm-run --by multiply_adds --count 6
    """
    from merkhet.cnmm.points.operating_points import operating_points
    from merkhet.core.files import write_text
    from merkhet.core.options import numbers

    choose("--by", by, ("latency", "multiply_adds", "parameters"))
    choose("--kind", kind, ("paths", "node-sets"))
    _check_latency_options(by, {"--batch": batch, "--threads": threads, "--table": table})
    if out is not None and not out.is_dir():
        raise InputError(f"no folder {out}: create it or leave --out away")
    levels = count if budgets is None else numbers(budgets, "--budgets", ",", float)
    opened, folder = open_run(run), out or run
    sets = opened.source.sets()
    how = (batch or 1, threads)
    costs, note = _costs(opened, sets.validation[0][:1], by, how, table, folder)
    found = operating_points(
        opened.model, costs, levels, sets, kind=kind.replace("-", "_"), best=best, gain=gain
    )
    found = dataclasses.replace(found, notes=(*found.notes, *note))
    sys.stdout.write(f"{found}\n")
    write_text(folder / POINTS, found.to_json() + "\n")
    _draw(found, folder / PICTURE)
    sys.stdout.write(
        f"{folder / POINTS}, {folder / PICTURE}; `merkhet cnmm export {run} --within COST` writes "
        "the best within a cost, `--nodes NODES` any network\n"
    )


def _check_latency_options(by: str, given: dict[str, object]) -> None:
    """Refuse options of latencies where costs are none."""
    for name, value in given.items():
        if value is not None and by != "latency":
            raise InputError(f"{name} goes with --by latency, not with --by {by}")


def _costs(
    opened: Opened,
    example: Tensor,
    by: str,
    how: tuple[int, int | None],
    table: Path | None,
    folder: Path,
) -> tuple[CostTable, tuple[str, ...]]:
    """Return the costs and what they were measured on; latencies that are measured are kept."""
    from merkhet.cnmm.costs import count_costs
    from merkhet.cnmm.latency.measure import measure_latency
    from merkhet.cnmm.latency.table import LatencyTable

    batch, threads = how
    if by != "latency":
        return count_costs(opened.model, example, by), ()
    if table is not None:
        found = LatencyTable.load(table)
        found.check(opened.model, example, batch=batch, threads=threads)
    else:
        found = measure_latency(opened.model, example, batch=batch, threads=threads)
        found.save(folder / LATENCIES)
    about = found.provenance.situation
    sys.stdout.write(f"{table or folder / LATENCIES}: latencies, {about}\n")
    return found.costs, (f"latencies: {about}",)


def _draw(found: object, path: Path) -> None:
    """Write the picture of the points."""
    from merkhet.cnmm.pictures import draw_points
    from merkhet.cnmm.points.result import OperatingPoints
    from merkhet.core.files import atomic_file

    assert isinstance(found, OperatingPoints)
    with atomic_file(path) as aside:
        draw_points(found).savefig(aside, format="png", dpi=110)
