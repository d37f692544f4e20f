"""`merkhet cnmm export`."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from merkhet.cnmm.commands.points import RUN
from merkhet.cnmm.commands.runs import POINTS, Opened, open_run
from merkhet.core.errors import InputError, choose
from merkhet.core.options import check_run_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from merkhet.cnmm.nodes import Nodes

SAMPLE = 512  # pictures that batch-norm statistics are measured on


def export(
    run: Annotated[Path, typer.Argument(help=RUN)],
    nodes: Annotated[
        str | None, typer.Option(help="Which network: nodes of each stage, as in 0-2-4,0-4.")
    ] = None,
    within: Annotated[
        float | None, typer.Option(help="Or the best of the run's points at this cost or less.")
    ] = None,
    node_set: Annotated[
        bool, typer.Option(help="The nodes are a set: the mixture of all networks among them.")
    ] = False,
    formats: Annotated[
        str, typer.Option(help="torch, onnx, with commas; onnx needs the extra export.")
    ] = "torch",
    out: Annotated[Path, typer.Option(help="Folder to write; also a run that `audit` reads.")] = (
        Path("cnmm-network")
    ),
) -> None:
    """Write one network of a mixture as a plain one: weights, torch.export, ONNX.

    Its batch-norm statistics are measured on training pictures and folded; gates are gone.

    Example: merkhet cnmm export cnmm-run --nodes 0-2-4,0-4,0-4 --out small
    """
    from merkhet.cnmm.extraction.export import export_network
    from merkhet.cnmm.extraction.extract import extract
    from merkhet.cnmm.extraction.formats import FORMATS
    from merkhet.cnmm.nodes import written
    from merkhet.cnmm.points.scores import batches_of
    from merkhet.cnmm.recalibration import batch_norms

    names = [choose("format", name.strip(), FORMATS) for name in formats.split(",")]
    check_run_folder(out)
    _check_no_run(out)
    opened = open_run(run)
    chosen, subset = _chosen(opened, run, nodes, within, node_set)
    pictures = opened.source.examples().train.floats()
    sample = batches_of(pictures[:SAMPLE]) if batch_norms(opened.model) else None
    network = extract(opened.model, chosen, sample, subset=subset)
    with _made(out):
        exported = export_network(network, pictures[:8], out, names)
    _save(network, opened, chosen, out, subset=subset)
    size = sum(parameter.numel() for parameter in network.parameters())
    sys.stdout.write(f"{written(chosen)}: {size:,} parameters\n")
    for name, path in exported.files.items():
        sys.stdout.write(f"{path}: {name}, outputs within {exported.differences[name]:.1e}\n")
    sys.stdout.write(f"{out}: `merkhet audit {out}` audits it\n")


def _check_no_run(out: Path) -> None:
    """Refuse the folder of a run, whose weights would be lost, and of another network."""
    from merkhet.training.folder import RUN

    if (out / RUN).exists():
        raise InputError(
            f"--out {out} holds a run or a network that was exported: give another folder, or "
            "remove that one"
        )


@contextlib.contextmanager
def _made(out: Path) -> Iterator[None]:
    """Make a folder, and take it away again where nothing could be written into it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except InputError:
        with contextlib.suppress(OSError):  # it was there before and is not empty
            out.rmdir()
        raise


def _chosen(
    opened: Opened, run: Path, nodes: str | None, within: float | None, node_set: bool
) -> tuple[Nodes, bool]:
    """Return the nodes that are asked for, and whether they are a set."""
    from merkhet.cnmm.nodes import parse_nodes
    from merkhet.cnmm.points.result import OperatingPoints

    if (nodes is None) == (within is None):
        raise InputError("give either --nodes, as `merkhet cnmm points` lists them, or --within")
    if node_set and nodes is None:
        raise InputError("--node-set goes with --nodes; --within takes what the run's points are")
    if nodes is not None:
        return parse_nodes(nodes, opened.model.counts), node_set
    path = run / POINTS
    if not path.is_file():
        raise InputError(f"{run} has no {POINTS}: run `merkhet cnmm points {run}` first")
    found = OperatingPoints.load(path)
    assert within is not None
    return opened.model.nodes(found.within(within).nodes), found.kind == "node_sets"


def _save(network: nn.Module, opened: Opened, chosen: Nodes, out: Path, *, subset: bool) -> None:
    """Write the network as a finished run, which other commands read."""
    from merkhet.cnmm.nodes import written
    from merkhet.training.folder import save_finished

    arguments = {
        "builder": opened.network["name"],
        "arguments": opened.network["arguments"],
        "nodes": written(chosen),
        "subset": subset,
    }
    spec = {
        "model": {"name": "cnmm_extracted", "arguments": arguments},
        "data": opened.source.data,
    }
    save_finished(network, {"spec": json.loads(json.dumps(spec))}, out)
