"""`merkhet cnmm train`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.cnmm.commands.examples import Examples, Source
from merkhet.core.command_options import Seed, Size
from merkhet.core.errors import InputError
from merkhet.core.options import check_run_folder

if TYPE_CHECKING:
    from merkhet.models import Spec


def train(
    data: Annotated[str, typer.Option(help="Data set, folder or .npz, with labels.")] = "digits",
    task: Annotated[str, typer.Option(help="classification or segmentation.")] = "classification",
    limit: Annotated[int | None, typer.Option(help="Pictures, drawn; all.", min=1)] = None,
    size: Size = None,
    network: Annotated[
        str,
        typer.Option(
            help='Arguments of the builder, as JSON: {"channels": [16, 32]}; with "nodes", a '
            "classifier has one stage of several resolutions."
        ),
    ] = "{}",
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.", min=1)] = 10,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-3,
    weight_decay: Annotated[float, typer.Option(help="Decay of the weights.")] = 0.01,
    batch: Annotated[int, typer.Option(help="Pictures of a step.", min=2)] = 64,
    schedule: Annotated[
        str, typer.Option(help='What a step trains, as JSON: {"mixture_every": 16, "cost": 0.05}.')
    ] = "{}",
    out: Annotated[
        Path, typer.Option(help="Folder of the run: checkpoints, final weights, record.")
    ] = Path("cnmm-run"),
    seed: Seed = 0,
) -> None:
    """Train a mixture of networks; the same command goes on where it stopped.

    Without a split "val", a tenth of the pictures is held out for `points` to choose by.

    Example: merkhet cnmm train --data digits --epochs 5 --out cnmm-run
    """
    from merkhet.cnmm.estimators import Recipe, train_mixture
    from merkhet.cnmm.objective import Schedule
    from merkhet.core.options import json_object, numbers
    from merkhet.report.commands import print_line

    given = json_object(network, "--network", '{"channels": [16, 32]}')
    turns = json_object(schedule, "--schedule", '{"mixture_every": 16}')
    check_run_folder(out)
    _check_names(turns, Schedule)
    recipe = Recipe(epochs, rate, weight_decay, batch, seed)
    source = Source(data, task, limit, _size(size, numbers), seed)
    examples = source.examples()
    spec = _spec(task, given, examples, seed)
    about = {
        "model": {"name": spec.name, "arguments": spec.arguments},
        **dataclasses.asdict(source),
        "classes": list(examples.classes),
        "schedule": turns,
    }
    model: Any = spec.build()
    if not source.has_test():
        print_line(f"{data}: no test split, which `merkhet cnmm points` reports on: give it one")
    result = train_mixture(
        model,
        examples.train,
        recipe,
        Schedule(**turns),
        ignore=examples.ignore,
        folder=out,
        spec=about,
        tell=print_line,
    )
    last = result.history[-1]
    print_line(
        f"{out}: loss of a drawn network {last['sampled_loss']:.4f}, {result.steps} steps, "
        f"{result.seconds:.1f} s; gates' entropy {last.get('entropy', 0.0):.0%} of the highest"
    )
    networks = 2 ** sum(count - 2 for count in model.counts)
    print_line(f"`merkhet cnmm points {out}` finds the best of its {networks:,} networks")


def _spec(task: str, given: dict[str, Any], examples: Examples, seed: int) -> Spec:
    """Return how the mixture is built."""
    from merkhet.models import Spec

    classifier = "cnmm_multiscale" if "nodes" in given else "cnmm_classifier"
    name = "cnmm_segmenter" if task == "segmentation" else classifier
    known = {"in_channels": examples.channels, "classes": len(examples.classes), "seed": seed}
    for argument in ("in_channels", "classes"):
        if given.get(argument, known[argument]) != known[argument]:
            raise InputError(
                f"--network: {argument} is {given[argument]!r}, and the data has "
                f"{known[argument]}: leave it out"
            )
    return Spec(name, {**known, **given})


def _size(text: str | None, numbers: Any) -> tuple[int, int] | None:
    """Return the height and width in an option's text."""
    if text is None:
        return None
    found = numbers(text, "--size", "x", int)
    if len(found) != 2 or min(found) < 1:
        raise InputError(f"--size {text}: give HEIGHTxWIDTH, as in 96x128")
    return found[0], found[1]


def _check_names(turns: dict[str, Any], schedule: Any) -> None:
    """Refuse fields that a schedule does not have."""
    from merkhet.core.errors import choose

    fields = [field.name for field in dataclasses.fields(schedule)]
    for name, value in turns.items():
        choose("field of --schedule", name, fields)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise InputError(f"--schedule: {name} is {value!r}: give a number")
