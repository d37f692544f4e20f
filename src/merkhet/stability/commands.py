"""Stability of any network to translation, rotation, scaling and deformation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from merkhet.core.command_options import MODEL, Arguments, Mean, Seed, Size, Std, Weights
from merkhet.core.errors import InputError

if TYPE_CHECKING:
    from merkhet.stability import StabilityCurve


SIZES = {
    "translation": "0.25,0.5,1,2,4",
    "rotation": "1,2,5,10,20",
    "scaling": "0.01,0.02,0.05,0.1,0.2",
    "deformation": "0.25,0.5,1,2,4",
}


def curve(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Annotated[str | None, typer.Option(help="Data set, folder or .npz.")] = None,
    kind: Annotated[
        str, typer.Option(help="translation, rotation, scaling or deformation.")
    ] = "rotation",
    sizes: Annotated[
        str | None, typer.Option(help="Sizes: pixels, degrees, or relative change of size.")
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Paths of layers, with commas; the output comes last.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Write NAME.json, and NAME.png beside it.")
    ] = None,
    weights: Weights = None,
    arguments: Arguments = "{}",
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    samples: Annotated[int, typer.Option(help="Inputs drawn from the data.", min=3)] = 256,
    seed: Seed = 0,
) -> None:
    """Print how far layers move, relative to their length, under one kind of deformation.

    Example: merkhet stability curve merkhet.models:SmallCNN --data digits --kind rotation
    """
    from merkhet.core.options import json_object, numbers
    from merkhet.data import Pictures, load_inputs
    from merkhet.models import find_target
    from merkhet.stability import Conditions, stability_curves

    if out is not None and out.suffix != ".json":
        raise InputError(f"the curve is JSON: give --out NAME.json, not {str(out)!r}")
    given = json_object(arguments, "--arguments", '{"classes": 10}')
    target = find_target(model, weights=weights, arguments=given)
    pictures = load_inputs(
        data or target.data, samples=samples, size=size, seed=seed, tokenizer=target.tokenizer
    )
    if not isinstance(pictures, Pictures):
        raise InputError("deformations act on pictures and signals, and the data is tokens")
    curves = stability_curves(
        target.module,
        pictures.floats(),
        kind,
        numbers(sizes or SIZES.get(kind, "1"), "--sizes", ",", float),
        layers=(*dict.fromkeys(filter(None, layers.split(","))), ""),
        labels=pictures.labels,
        preprocess=target.preparation(mean, std, pictures.images.shape[1]),
        conditions=Conditions(seed=seed),
    )
    for found in curves.values():
        sys.stdout.write(f"{found.table()}\n")
    if out is not None:
        _write(out, curves)


VERBS = (curve,)


def _write(out: Path, curves: dict[str, StabilityCurve]) -> None:
    """Write the curves as JSON, and drawn, each whole or not at all."""
    from merkhet.core.files import atomic_file, write_text
    from merkhet.stability import plot_curves

    text = json.dumps({path: found.to_dict() for path, found in curves.items()}, indent=1)
    with atomic_file(out.with_suffix(".png")) as aside:
        plot_curves(curves).savefig(aside, format="png", dpi=110)
    write_text(out, text + "\n")
    sys.stdout.write(f"{out}, {out.with_suffix('.png')}\n")
