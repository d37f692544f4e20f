"""What options of the commands give: a prior of a dense network, or a network and an input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from merkhet.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from merkhet.unit_prior.prior import UnitPrior

WITH_MODEL = ("data", "weights", "arguments", "mean", "std", "size")
WITH_WIDTHS = ("activation", "bias_std", "input_norm")


def check_given(
    context: typer.Context,
    model: str | None,
    widths: str | None,
    with_model: Iterable[str],
    with_widths: Iterable[str],
) -> None:
    """Refuse a network that is given twice or not at all, and options of the other kind of one.

    Args:
        context: Of the command, which knows what the user has written.
        model: MODEL.
        widths: --widths.
        with_model: Names of options that say something of a MODEL alone.
        with_widths: Names of options that say something of a dense network alone.

    Raises:
        InputError: Names the first option that would be ignored.
    """
    if model is not None and widths is not None:
        raise InputError("MODEL and --widths: give one of them")
    if model is None and widths is None:
        raise InputError("give MODEL, or a dense network's hidden layers as in --widths 100,100")
    ignored, other = (with_model, "MODEL") if model is None else (with_widths, "--widths")
    for name in ignored:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            here = "--widths" if model is None else "MODEL"
            raise InputError(f"{option} goes with {other}: leave it out beside {here}")


def dense_prior(
    widths: str | None, activation: str, weight_std: str, bias_std: float, input_norm: float
) -> UnitPrior:
    """Return the prior of a dense network that the options describe.

    Args:
        widths: Of the hidden layers, with commas; None where the option is missing.
        activation: By name.
        weight_std: "he", a number, or one for each matrix, with commas.
        bias_std: Standard deviation of biases.
        input_norm: l2 norm of the input.
    """
    from merkhet.core.options import numbers
    from merkhet.unit_prior.prior import UnitPrior

    spread: Any = weight_std
    if weight_std != "he":
        given = numbers(weight_std, "--weight-std", ",", float)
        spread = given if len(given) > 1 else given[0]
    return UnitPrior(hidden_widths(widths), activation, spread, bias_std, input_norm)


def hidden_widths(text: str | None) -> tuple[int, ...]:
    """Return the widths of the option; "" is a linear model.

    Args:
        text: With commas; None where the option is missing.
    """
    from merkhet.core.options import numbers

    if text is None:
        raise InputError("give MODEL, or a dense network's hidden layers as in --widths 100,100")
    return numbers(text, "--widths", ",", int) if text else ()


def given_network(
    model: str,
    data: str | None,
    weights: Path | None,
    arguments: str,
    normalisation: tuple[str | None, str | None],
    size: str | None,
    seed: int,
) -> tuple[nn.Module, Tensor]:
    """Return the network, and one input (1, ...) as it takes it.

    Args:
        model: What `find_target` takes.
        data: Data set; None for that of the run.
        weights: Safetensors file of the weights.
        arguments: Of the callable, as JSON.
        normalisation: Mean and standard deviation by channel, as text.
        size: HEIGHTxWIDTH.
        seed: Which input.
    """
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
