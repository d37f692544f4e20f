"""Priors on weights, as units see them: tails, scales, kurtosis, and scales to start from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.errors import InputError
from merkhet.core.options import check_run_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from merkhet.unit_prior.analysis.result import Analysis
    from merkhet.unit_prior.prior import UnitPrior

MODEL = "package.module:callable, file.py:callable, a Hugging Face folder, or a run."
PRIOR = (
    "gaussian, laplace, uniform, cauchy, student(DF), generalised_normal(BETA), all at He's scale; "
    "or init, the network's own initialisation."
)
NAMES = "he,xavier,lecun,init"

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
Weights = Annotated[Path | None, typer.Option(help="Safetensors file for package.module:callable.")]
Arguments = Annotated[str, typer.Option(help="Arguments of the callable, as JSON.")]
Mean = Annotated[str | None, typer.Option(help="Mean by channel, as in 0.5,0.5,0.5.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation by channel.")]
Size = Annotated[str | None, typer.Option(help="Resize pictures to HEIGHTxWIDTH.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]


def analyze(
    model: Model = None,
    data: Data = None,
    prior: Annotated[str, typer.Option(help=PRIOR)] = "gaussian",
    samples: Samples = 2000,
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
    from merkhet.unit_prior.analysis.analyze import analyze as analysed

    if out is not None:
        check_run_folder(out)
    paths = None if places is None else [path.strip() for path in places.split(",")]
    if model is None:
        if prior != "gaussian" or data is not None:
            raise InputError("--prior and --data go with MODEL: --widths has Gaussian weights")
        given = _prior(widths, activation, weight_std, bias_std, input_norm)
        found = analysed(given, paths=paths, n=samples, generator=seed)
    else:
        _refuse_widths(widths)
        module, x = _given(model, data, weights, arguments, (mean, std), size, seed)
        found = analysed(module, x, prior, paths=paths, n=samples, generator=seed)
    _tell(found, out)


def design(
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
    samples: Samples = 1000,
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
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise InputError(f"--out {out}: give NAME.json in a folder that is there")
    if model is None:
        found = _solved(target, widths, activation, layer, vary, bias_std, input_norm)
    else:
        if target is not None:
            raise InputError("--target goes with --widths: of a MODEL initialisations are compared")
        _refuse_widths(widths)
        module, x = _given(model, data, weights, arguments, (mean, std), size, seed)
        found = _compared(module, x, names, samples, seed)
    if out is not None:
        _write(out, found)


VERBS = (analyze, design)


def _prior(
    widths: str | None, activation: str, weight_std: str, bias_std: float, input_norm: float
) -> UnitPrior:
    """Return the prior of a dense network that the options describe."""
    from merkhet.core.options import numbers
    from merkhet.unit_prior.prior import UnitPrior

    spread: Any = weight_std
    if weight_std != "he":
        given = numbers(weight_std, "--weight-std", ",", float)
        spread = given if len(given) > 1 else given[0]
    return UnitPrior(_widths(widths), activation, spread, bias_std, input_norm)


def _widths(text: str | None) -> tuple[int, ...]:
    """Return the widths of the option; "" is a linear model."""
    from merkhet.core.options import numbers

    if text is None:
        raise InputError("give MODEL, or a dense network's hidden layers as in --widths 100,100")
    return numbers(text, "--widths", ",", int) if text else ()


def _refuse_widths(widths: str | None) -> None:
    """Refuse a network that is given twice."""
    if widths is not None:
        raise InputError("MODEL and --widths: give one of them")


def _given(
    model: str,
    data: str | None,
    weights: Path | None,
    arguments: str,
    normalisation: tuple[str | None, str | None],
    size: str | None,
    seed: int,
) -> tuple[nn.Module, Tensor]:
    """Return the network, and one input (1, ...) as it takes it."""
    from merkhet.core.options import json_object
    from merkhet.data import Pictures, load_inputs
    from merkhet.models import find_target

    given = json_object(arguments, "--arguments", '{"classes": 10}')
    target = find_target(model, weights=weights, arguments=given)
    found = load_inputs(
        data or target.data, samples=1, size=size, seed=seed, tokenizer=target.tokenizer
    )
    if not isinstance(found, Pictures):
        return target.module, found
    prepare = target.preparation(*normalisation, found.images.shape[1])
    return target.module, prepare(found.floats())


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
        _widths(widths),
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
