"""`merkhet audit` and `merkhet demo`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from merkhet.core.command_options import MODEL, Mean, Seed, Size, Std, Weights
from merkhet.core.errors import InputError
from merkhet.report.commands import print_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merkhet.audit.run import Report
    from merkhet.data import Pictures
    from merkhet.models import Target

BROKEN = 1


def audit(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, folder of class folders, or .npz (see `merkhet data`); for a language "
            "model python, a folder of text or a file."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write; its JSON goes beside.")] = Path(
        "report.html"
    ),
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
) -> None:
    """Audit a network on data: one report, report.html, with its JSON beside it.

    Example: merkhet audit merkhet.models:SmallCNN --data digits
    """
    from merkhet.audit.page import report_paths
    from merkhet.audit.run import audit as run
    from merkhet.audit.run import find_checks
    from merkhet.core.options import json_object
    from merkhet.data import Pictures, load_inputs
    from merkhet.models import find_target

    page, _ = report_paths(out)
    names = None if checks is None else [name.strip() for name in checks.split(",")]
    find_checks(names)
    given = json_object(arguments, "--arguments", '{"classes": 10}')
    target = find_target(model, weights=weights, arguments=given)
    if graph:
        sys.stdout.write(_graph(target, data, shape, size) + "\n")
        return
    inputs = load_inputs(
        data or target.data, samples=samples, size=size, seed=seed, tokenizer=target.tokenizer
    )
    report = run(
        target.module,
        inputs,
        name=target.name,
        preprocess=_preparation(target, mean, std, inputs),
        checks=names,
        samples=samples,
        seconds=seconds,
        seed=seed,
        tell=print_line,
    )
    if not isinstance(inputs, Pictures):  # tokens have no name of their own
        report = replace(report, subject=replace(report.subject, data=str(data or target.data)))
    report = replace(report, about=_about(model, weights))
    report.write(page)
    _tell(report, page)


def demo(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    data: Annotated[
        str | None, typer.Option(help="Data set; by default the best that is here.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train a small network on real pictures, audit it, and write report.html.

    Example: merkhet demo
    """
    from merkhet.audit.demo import run_demo
    from merkhet.audit.page import report_paths

    page, _ = report_paths(out)
    report = run_demo(data, seed=seed, tell=print_line)
    report.write(page)
    _tell(report, page)


TOP = (audit, demo)


def _about(model: str, weights: Path | None) -> dict[str, str]:
    """Return where the weights are from, and the command that was typed."""
    folder = Path(model).is_dir()
    made = "those that the callable made; --weights FILE.safetensors loads others"
    return {
        "weights": str(weights) if weights else f"in {model}" if folder else made,
        "command": shlex.join(["merkhet", *sys.argv[1:]]),
    }


def _tell(report: Report, page: Path) -> None:
    """Print what was found; exit with an error where a check broke."""
    from merkhet.audit.cost import count

    for finding in report.findings:
        sys.stdout.write(f"- {finding.sentence}\n  {finding.remedy}\n")
    for name, reason in report.skipped.items():
        sys.stdout.write(f"- {name} was left out: {reason}\n")
    size = count(page.stat().st_size, "B")
    sys.stdout.write(f"{page} ({size}), {page.with_suffix('.json')}\n")
    for name, reason in report.failed.items():
        sys.stderr.write(f"error: the check {name} broke: {reason}\n")
    if report.failed:
        raise typer.Exit(BROKEN)


def _preparation(
    target: Target, mean: str | None, std: str | None, inputs: Pictures | Tensor
) -> Callable[[Tensor], Tensor] | None:
    """Return the normalisation that the options or the network's folder ask for."""
    from merkhet.data import Pictures

    if isinstance(inputs, Pictures):
        return target.preparation(mean, std, inputs.images.shape[1])
    if mean or std:
        raise InputError("--mean and --std normalise pictures, and the data is tokens")
    return None


def _graph(target: Target, data: str | None, shape: str | None, size: str | None) -> str:
    """Return the graph's listing, traced on data or on zeros of a given shape."""
    import torch

    from merkhet.core.costs import costs
    from merkhet.core.graph import trace
    from merkhet.data import load_inputs

    if shape is not None:
        example = _zeros(shape)
    else:
        found = load_inputs(data or target.data, samples=2, size=size, tokenizer=target.tokenizer)
        example = (found if isinstance(found, torch.Tensor) else found.floats())[:1]
    network = trace(target.module, example)
    counted = costs(network)
    return (
        f"{network}\n{len(network.nodes)} operations, {counted.parameters:,} parameters, "
        f"{counted.multiply_adds:,.0f} multiply-adds an example"
    )


def _zeros(shape: str) -> Tensor:
    """Return one input of zeros, of the shape and data type that an option names."""
    import torch

    from merkhet.core.options import numbers

    sizes, _, kind = shape.partition(":")
    lengths = numbers(sizes, "--shape", "x", int)
    dtype = getattr(torch, kind or "float32", None)
    if min(lengths) < 1 or not isinstance(dtype, torch.dtype):
        raise InputError(f"--shape takes lengths from 1 on, as in 3x32x32, not {shape!r}")
    return torch.zeros(1, *lengths, dtype=dtype)
