"""Priors on weights, as units see them: tails, scales, kurtosis, and scales to start from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.command_options import MODEL, Arguments, Mean, Seed, Size, Std, Weights
from merkhet.core.errors import InputError
from merkhet.core.options import check_run_folder
from merkhet.unit_prior.analysis.analyze import DRAWS
from merkhet.unit_prior.analysis.analyze import analyze as analysed
from merkhet.unit_prior.commands.options import (
    WITH_MODEL,
    WITH_WIDTHS,
    check_given,
    dense_prior,
    given_network,
    hidden_widths,
)
from merkhet.unit_prior.design import initialisations

if TYPE_CHECKING:
    from torch import Tensor, nn

    from merkhet.unit_prior.analysis.result import Analysis

PRIOR = (
    "gaussian, laplace, uniform, cauchy, student(DF), generalised_normal(BETA), all at He's scale; "
    "or init, the network's own initialisation."
)
NAMES = ",".join(initialisations.NAMES)

Model = Annotated[str | None, typer.Argument(help=f"{MODEL} Or none, with --widths.")]
Data = Annotated[
    str | None, typer.Option(help="Data set, folder or .npz: its first input; the run's.")
]
Widths = Annotated[str | None, typer.Option(help="Of the hidden layers, as in 100,100.")]
Activation = Annotated[
    str, typer.Option(help="Of a dense network: relu, leaky_relu(0.1), gelu, tanh, ...")
]
BiasStd = Annotated[float, typer.Option(help="Standard deviation of biases; 0 for none.")]
InputNorm = Annotated[float, typer.Option(help="l2 norm of the input.")]
Samples = Annotated[int, typer.Option(help="Draws of the weights, where no law is exact.", min=100)]


def analyze(
    context: typer.Context,
    model: Model = None,
    data: Data = None,
    prior: Annotated[str, typer.Option(help=PRIOR)] = "gaussian",
    samples: Samples = DRAWS,
    places: Annotated[
        str | None, typer.Option(help="Paths of modules, with commas; weights and activations.")
    ] = None,
    widths: Widths = None,
    activation: Activation = "relu",
    weight_std: Annotated[
        str, typer.Option(help="Of a weight: he, a number, or one for each matrix, with commas.")
    ] = "he",
    bias_std: BiasStd = 0.0,
    input_norm: InputNorm = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder for analysis.json and pictures.")] = None,
    weights: Weights = None,
    arguments: Arguments = "{}",
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    seed: Seed = 0,
) -> None:
    """Print what a prior on the weights says about units, layer by layer, for one input.

    Example: merkhet unit-prior analyze --widths 100,100,100 --activation relu --weight-std he

    Example: merkhet unit-prior analyze merkhet.models:SmallCNN --data digits --samples 500
    """
    check_given(context, model, widths, (*WITH_MODEL, "prior"), (*WITH_WIDTHS, "weight_std"))
    if out is not None:
        check_run_folder(out)
    paths = None if places is None else [path.strip() for path in places.split(",")]
    if model is None:
        given = dense_prior(widths, activation, weight_std, bias_std, input_norm)
        found = analysed(given, paths=paths, n=samples, generator=seed)
    else:
        module, x = given_network(model, data, weights, arguments, (mean, std), size, seed)
        found = analysed(module, x, prior, paths=paths, n=samples, generator=seed)
    _tell(found, out)


def design(
    context: typer.Context,
    model: Model = None,
    widths: Widths = None,
    activation: Activation = "relu",
    target: Annotated[
        str | None, typer.Option(help="std=1, median=0.5, quantile(0.01)=3 or kurtosis=4.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Of the unit, from 1, by weight matrices; the output.")
    ] = None,
    vary: Annotated[
        str | None, typer.Option(help="weight_std, or width, which is what moves the kurtosis.")
    ] = None,
    bias_std: BiasStd = 0.0,
    input_norm: InputNorm = 1.0,
    names: Annotated[
        str, typer.Option(help="Initialisations of MODEL that are compared, with commas.")
    ] = NAMES,
    data: Data = None,
    samples: Samples = initialisations.DRAWS,
    out: Annotated[Path | None, typer.Option(help="Write what is found as NAME.json.")] = None,
    weights: Weights = None,
    arguments: Arguments = "{}",
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    seed: Seed = 0,
) -> None:
    """Print the scale of weights with which a unit is as wanted; of a MODEL, compare ways to start.

    Example: merkhet unit-prior design --widths 300,300 --activation relu --target "std=1"

    Example: merkhet unit-prior design merkhet.models:SmallCNN --data digits --samples 200
    """
    only_widths = (*WITH_WIDTHS, "target", "layer", "vary")
    check_given(context, model, widths, (*WITH_MODEL, "names", "samples"), only_widths)
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise InputError(f"--out {out}: give NAME.json in a folder that is there")
    if model is None:
        found = _solved(target, widths, activation, layer, vary, bias_std, input_norm)
    else:
        module, x = given_network(model, data, weights, arguments, (mean, std), size, seed)
        found = _compared(module, x, names, samples, seed)
    if out is not None:
        _write(out, found)


VERBS = (analyze, design)


def _tell(found: Analysis, out: Path | None) -> None:
    """Print an analysis, and write it where it is wanted."""
    sys.stdout.write(f"{found}\n")
    if out is not None:
        for path in found.save(out):
            sys.stdout.write(f"{path}\n")


def _solved(
    target: str | None,
    widths: str | None,
    activation: str,
    layer: int | None,
    vary: str | None,
    bias_std: float,
    input_norm: float,
) -> dict[str, Any]:
    """Print the scale that meets a target, and the code that draws it; return it as JSON has it."""
    from merkhet.unit_prior.design.solve_scale import solve_scale

    if target is None:
        raise InputError("give what a unit is to be like, as in --target 'std=1'")
    _check_vary(vary, target)
    scale = solve_scale(
        target,
        hidden_widths(widths),
        activation,
        layer=layer,
        bias_std=bias_std,
        input_norm=input_norm,
    )
    sys.stdout.write(f"{scale}\n{scale.init_code()}\n")
    return {
        "target": target,
        "layer": scale.layer,
        "varied": scale.varied,
        "gain": scale.gain,
        "widths": list(scale.spec.widths),
        "weight_std": list(scale.weight_std),
        "attained": float(scale.attained),
        "method": scale.attained.method,
        "code": scale.init_code(),
    }


def _check_vary(vary: str | None, target: str) -> None:
    """Refuse to vary what does not move the target."""
    from merkhet.core.errors import choose
    from merkhet.unit_prior.design.scale_target import SHAPED, parse_target

    if vary is None:
        return
    choose("--vary", vary, ("weight_std", "width"))
    moves = "width" if parse_target(target).measure in SHAPED else "weight_std"
    if vary != moves:
        raise InputError(f"--vary {vary} --target {target!r}: it is met by --vary {moves}")


def _compared(module: nn.Module, x: Tensor, names: str, samples: int, seed: int) -> dict[str, Any]:
    """Print a comparison of initialisations; return it as JSON has it."""
    from merkhet.unit_prior.design.initialisations import compare_initialisations

    chosen = [name.strip() for name in names.split(",")]
    found = compare_initialisations(module, x, chosen, n=samples, generator=seed)
    sys.stdout.write(f"{found}\n")
    made: dict[str, Any] = found.to_dict()
    return made


def _write(out: Path, found: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    from merkhet.core.files import write_text

    write_text(out, json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{out}\n")
