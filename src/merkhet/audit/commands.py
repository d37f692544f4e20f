"""`merkhet audit` and `merkhet demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.errors import InputError
from merkhet.report.commands import print_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merkhet.audit.run import Report
    from merkhet.audit.target import Target
    from merkhet.data import Pictures

BROKEN = 1


def audit(
    model: Annotated[
        str,
        typer.Argument(
            help="package.module:callable, file.py:callable, a Hugging Face folder, or a run."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Data set, folder of class folders, or .npz; see `merkhet data`."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write; its JSON goes beside.")] = Path(
        "report.html"
    ),
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file for package.module:callable.")
    ] = None,
    arguments: Annotated[
        str, typer.Option(help="""Arguments of the callable, as JSON: '{"classes": 10}'.""")
    ] = "{}",
    mean: Annotated[str | None, typer.Option(help="Mean by channel, as in 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation by channel.")] = None,
    size: Annotated[str | None, typer.Option(help="Resize pictures to HEIGHTxWIDTH.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="With --graph, instead of --data: one input's shape, 3x32x32."),
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the network's graph and stop.")
    ] = False,
    checks: Annotated[str | None, typer.Option(help="Names of checks, with commas; all.")] = None,
    samples: Annotated[int, typer.Option(help="Inputs drawn from the data.", min=2)] = 256,
    seconds: Annotated[float, typer.Option(help="Time budget of the checks.", min=0)] = 120,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Audit a network on data: one report, report.html, with its JSON beside it.

    Example: merkhet audit merkhet.models:SmallCNN --data digits
    """
    from merkhet.audit.page import report_paths
    from merkhet.audit.run import audit as run
    from merkhet.audit.run import find_checks
    from merkhet.audit.target import find_target

    page, _ = report_paths(out)
    names = None if checks is None else [name.strip() for name in checks.split(",")]
    find_checks(names)
    target = find_target(model, weights=weights, arguments=_json(arguments))
    if graph:
        sys.stdout.write(_graph(target, data, shape, size) + "\n")
        return
    inputs = _pictures(data or target.data, size, samples, seed)
    report = run(
        target.module,
        inputs,
        name=target.name,
        preprocess=_preprocess(target, mean, std, inputs),
        checks=names,
        samples=samples,
        seconds=seconds,
        seed=seed,
    )
    report.write(page)
    _tell(report, page)


def demo(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    data: Annotated[
        str | None, typer.Option(help="Data set; by default the best that is here.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
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


def _tell(report: Report, page: Path) -> None:
    """Print what was found; exit with an error where a check broke."""
    for finding in report.findings:
        sys.stdout.write(f"- {finding.sentence}\n  {finding.remedy}\n")
    for name, reason in report.skipped.items():
        sys.stdout.write(f"- {name} was left out: {reason}\n")
    sys.stdout.write(f"{page} ({page.stat().st_size / 1e6:.1f} MB), {page.with_suffix('.json')}\n")
    for name, reason in report.failed.items():
        sys.stderr.write(f"error: the check {name} broke: {reason}\n")
    if report.failed:
        raise typer.Exit(BROKEN)


def _json(text: str) -> dict[str, Any]:
    """Return the arguments of the callable."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--arguments is not JSON ({error}): write '{{\"classes\": 10}}'"
        ) from error
    if not isinstance(found, dict):
        raise InputError("--arguments must be a JSON object, as in '{\"classes\": 10}'")
    return found


def _pictures(data: str | None, size: str | None, samples: int, seed: int) -> Pictures:
    """Return a sample of the data that the command line names."""
    from merkhet import data as datasets

    if data is None:
        raise InputError("no data: give --data NAME or PATH; `merkhet data` lists what is here")
    shape = None if size is None else _numbers(size, "--size", "x", int)
    if shape is not None and len(shape) != 2:
        raise InputError(f"--size is HEIGHTxWIDTH, as in 224x224, not {size!r}")
    return datasets.load(data, split="test", limit=samples, size=shape, seed=seed)


def _graph(target: Target, data: str | None, shape: str | None, size: str | None) -> str:
    """Return the graph's listing, traced on data or on zeros of a given shape."""
    import torch

    from merkhet.core.costs import costs
    from merkhet.core.graph import trace

    if shape is not None:
        example = torch.zeros(1, *_numbers(shape, "--shape", "x", int))
    else:
        example = _pictures(data or target.data, size, 2, 0).floats()[:1]
    network = trace(target.module, example)
    counted = costs(network)
    return (
        f"{network}\n{len(network.nodes)} operations, {counted.parameters:,} parameters, "
        f"{counted.multiply_adds:,.0f} multiply-adds an example"
    )


def _preprocess(
    target: Target, mean: str | None, std: str | None, inputs: Pictures
) -> Callable[[Tensor], Tensor] | None:
    """Return the normalisation that the options or the network's folder ask for."""
    from merkhet.audit.target import normaliser

    channels = inputs.images.shape[1]
    if mean is None and std is None:
        return None if target.normalise is None else normaliser(*target.normalise, channels)
    return normaliser(
        _numbers(mean or "0", "--mean", ",", float),
        _numbers(std or "1", "--std", ",", float),
        channels,
    )


def _numbers(text: str, option: str, separator: str, kind: Callable[[str], Any]) -> Any:
    """Return the numbers in an option's text."""
    try:
        return tuple(kind(part) for part in text.lower().split(separator))
    except ValueError as error:
        example = "32x32" if separator == "x" else "0.5,0.5,0.5"
        raise InputError(f"{option} takes numbers, as in {example}, not {text!r}") from error
