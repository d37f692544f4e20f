"""Variation of any network: train under penalties, bound and certify, evaluate under attack."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.command_options import MODEL, Arguments, Mean, Seed, Size, Std, Weights
from merkhet.core.errors import InputError, choose
from merkhet.core.options import check_run_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from merkhet.data import Pictures
    from merkhet.rkhs.bracket import Bracket
    from merkhet.rkhs.constraint import SpectralConstraint
    from merkhet.rkhs.estimators import Recipe
    from merkhet.rkhs.prepared import Prepared

LEAST_STEPS = 600  # of training, where no epochs are given: few pictures make few steps an epoch
LEARNED = 0.8  # share of its own pictures that a trained network should know
RUN = "Folder of the run: checkpoints, final weights, record."
PENALTY = (
    "A sum such as 'gradient*0.01 + spectral(0.8)', of gradient, adversarial(RADIUS), "
    "deformation, tangent, loss_gradient, adversarial_loss(RADIUS), spectral(TARGET)."
)
ATTACKS = (
    "pgd, pgd-margin, noise; with the extra robust also apgd-ce, apgd-dlr, square; with commas."
)

Model = Annotated[str, typer.Argument(help=MODEL)]
Data = Annotated[str | None, typer.Option(help="Data set, folder or .npz; the run's.")]
Radii = Annotated[str, typer.Option(help="Radii in pixels of [0, 1], with commas.")]
Samples = Annotated[int, typer.Option(help="Pictures drawn from the test split.", min=2)]


def train(
    data: Annotated[str, typer.Option(help="Data set, folder or .npz, with labels.")] = "digits",
    network: Annotated[
        str, typer.Option(help="A name such as small_cnn or vgg11, or package.module:callable.")
    ] = "small_cnn",
    arguments: Annotated[
        str | None,
        typer.Option(help='Arguments of the network, as JSON; {"norm": "none"} of one by name.'),
    ] = None,
    labels: Annotated[
        int | None, typer.Option(help="Pictures, drawn with balanced labels; all.", min=2)
    ] = None,
    penalty: Annotated[str, typer.Option(help=PENALTY)] = "none",
    constraint: Annotated[
        float | None, typer.Option(help="Hold the operator norm of each layer's weights at this.")
    ] = None,
    kappa: Annotated[
        float | None, typer.Option(help="Epochs in which that bound falls, from 5 times as much.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the pictures; 20, and 600 steps.", min=1)
    ] = None,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-3,
    weight_decay: Annotated[float, typer.Option(help="Decay of the weights.")] = 0.0,
    batch: Annotated[int, typer.Option(help="Pictures of a step.", min=1)] = 64,
    optimiser: Annotated[
        str, typer.Option(help="adamw, or sgd, whose rate is halved 12 times.")
    ] = "adamw",
    out: Annotated[Path, typer.Option(help=RUN)] = Path("rkhs-run"),
    seed: Seed = 0,
) -> None:
    """Train a classifier under a penalty; the same command goes on where it stopped.

    Example: merkhet rkhs train --labels 100 --epochs 2 --penalty "gradient*0.01 + spectral(0.8)"
    """
    from merkhet.core.options import json_object
    from merkhet.report.commands import print_line
    from merkhet.rkhs.estimators import Recipe, train_classifier
    from merkhet.rkhs.expressions import describe, parse_penalty

    term = parse_penalty(penalty)
    default = "{}" if ":" in network else '{"norm": "none"}'
    given = json_object(arguments or default, "--arguments", '{"norm": "none"}')
    check_run_folder(out)
    pictures = _labelled(data, labels, seed)
    epochs = epochs or max(20, -(-LEAST_STEPS * batch // len(pictures)))
    recipe = Recipe(epochs, None, rate, weight_decay, batch, optimiser, seed=seed)
    module, about = _network(network, given, pictures, seed)
    held = _constraint(constraint, kappa, pictures, recipe)
    result = train_classifier(
        module,
        pictures,
        term,
        held,
        recipe=recipe,
        folder=out,
        spec={
            **about,
            "data": data,
            "labels": labels,
            "expression": describe(term),
            "bound": [constraint, kappa],
        },
        tell=print_line,
    )
    print_line(f"{out}: loss {result.losses[-1]:.4f}, {result.steps} steps, {result.seconds:.1f} s")
    _tell_accuracy(module, data, pictures)
    _tell_next(out, about, data)


def bounds(
    model: Model,
    data: Data = None,
    method: Annotated[
        str, typer.Option(help="certified, or power: quick estimates, without certificates.")
    ] = "certified",
    radii: Radii = "0.1,0.25,0.5,1",
    samples: Samples = 256,
    out: Annotated[
        Path | None, typer.Option(help="Write NAME.json, and NAME.png beside it.")
    ] = None,
    weights: Weights = None,
    arguments: Arguments = "{}",
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    seed: Seed = 0,
) -> None:
    """Bracket a network's Lipschitz constant, part by part, and certify its predictions.

    Example: merkhet rkhs bounds merkhet.models:SmallCNN --data digits --samples 64
    """
    from merkhet.core.options import numbers
    from merkhet.rkhs.bracket import lipschitz
    from merkhet.rkhs.certificates import certified_accuracy
    from merkhet.rkhs.prepared import as_named

    choose("--method", method, ("certified", "power"))
    _check_suffix(out)
    at = _checked_radii(numbers(radii, "--radii", ",", float))
    function, pictures = _given(model, data, weights, arguments, (mean, std), size, samples, seed)
    inputs = pictures.floats()
    bracket = as_named(lipschitz(function, inputs, method=method))
    sys.stdout.write(f"{bracket}\n")
    found: dict[str, Any] = {"model": model, "samples": len(pictures), "seed": seed}
    found["bracket"] = _bracket_fields(bracket)
    certified = _certified(function, inputs, pictures.labels, method)
    if certified is not None:
        shares = certified_accuracy(certified, at).tolist()
        found["certified"] = {
            "radii": [radius if math.isfinite(radius) else None for radius in certified.tolist()],
            "accuracy": dict(zip(map(str, at), shares, strict=True)),
        }
        sys.stdout.write(_certified_told(certified, at, shares))
    if out is not None:
        _write_bounds(out, found, bracket, certified)


def evaluate(
    model: Model,
    data: Data = None,
    norm: Annotated[str, typer.Option(help="l2 or linf.")] = "l2",
    radii: Radii = "0.25,0.5",
    attacks: Annotated[str, typer.Option(help=ATTACKS)] = "pgd,pgd-margin,noise",
    steps: Annotated[int, typer.Option(help="Steps of an attack.", min=1)] = 40,
    restarts: Annotated[int, typer.Option(help="Random starts of an attack.", min=0)] = 1,
    clip: Annotated[bool, typer.Option(help="Keep what attacks make within [0, 1].")] = True,
    samples: Samples = 256,
    out: Annotated[Path | None, typer.Option(help="Write what is found as NAME.json.")] = None,
    weights: Weights = None,
    arguments: Arguments = "{}",
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    seed: Seed = 0,
) -> None:
    """Print accuracy under attacks within radii, their pointwise worst, and what is certified.

    Example: merkhet rkhs evaluate merkhet.models:SmallCNN --data digits --samples 32 --steps 10
    """
    from merkhet.core.options import numbers
    from merkhet.rkhs.robustness import evaluate_robustness

    _check_suffix(out)
    at = numbers(radii, "--radii", ",", float)
    function, pictures = _given(model, data, weights, arguments, (mean, std), size, samples, seed)
    if pictures.labels is None:
        raise InputError("the pictures have no labels: give data in a folder for each class")
    result = evaluate_robustness(
        function,
        pictures,
        norm,
        at,
        attacks=[name.strip() for name in attacks.split(",")],
        steps=steps,
        restarts=restarts,
        clip=(0.0, 1.0) if clip else None,
        seed=seed,
    )
    sys.stdout.write(f"{result}\n")
    if out is not None:
        _write(out, {"model": model, "samples": len(pictures), "seed": seed, **result.to_dict()})


VERBS = (train, bounds, evaluate)


def _labelled(data: str, labels: int | None, seed: int) -> Pictures:
    """Return pictures to learn from: the training split, or all where there is none."""
    from merkhet.data import load, splits

    found = load(data, "all" if splits(data) == ("all",) else "train")
    if found.labels is None:
        raise InputError(f"--data {data} has no labels: give pictures in a folder for each class")
    if labels is None:
        return found
    if labels > len(found):
        raise InputError(
            f"--labels {labels}: {data} has {len(found):,} pictures, give that or less"
        )
    if labels < len(found.classes):
        raise InputError(f"--labels {labels}: give one or more for each of {len(found.classes)}")
    return found.sample(labels, seed)


def _network(
    name: str, given: dict[str, Any], pictures: Pictures, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a fresh network for the pictures, and how it is made."""
    import torch

    from merkhet.models import Spec, find_target

    if ":" in name:
        with torch.random.fork_rng():  # their code draws its first weights from it
            torch.manual_seed(seed)
            module = find_target(name, arguments=given).module
        return module, {"network": name, "arguments": given}
    known = {"in_channels": pictures.images.shape[1], "classes": len(pictures.classes)}
    spec = Spec(name, {**known, "seed": seed, **given})
    return spec.build(), {"model": {"name": spec.name, "arguments": spec.arguments}}


def _constraint(
    bound: float | None, kappa: float | None, pictures: Pictures, recipe: Recipe
) -> SpectralConstraint | None:
    """Return the constraint on the spectral norms of the layers' operators, or None."""
    from merkhet.rkhs.constraint import SpectralConstraint, decaying

    if bound is None:
        if kappa is not None:
            raise InputError("--kappa goes with --constraint, as in --constraint 0.8 --kappa 2")
        return None
    schedule: Any = bound
    if kappa is not None:
        epoch = -(-len(pictures) // recipe.batch_size)
        schedule = decaying(bound, kappa, epoch)
    return SpectralConstraint(schedule, example=pictures.floats([0]))


def _given(
    model: str,
    data: str | None,
    weights: Path | None,
    arguments: str,
    normalisation: tuple[str | None, str | None],
    size: str | None,
    samples: int,
    seed: int,
) -> tuple[Prepared, Pictures]:
    """Return the network with its preparation as one function, and pictures for it."""
    from merkhet.core.options import json_object
    from merkhet.data import Pictures, load_inputs
    from merkhet.models import find_target
    from merkhet.rkhs.prepared import Prepared

    given = json_object(arguments, "--arguments", '{"classes": 10}')
    target = find_target(model, weights=weights, arguments=given)
    pictures = load_inputs(
        data or target.data, samples=samples, size=size, seed=seed, tokenizer=target.tokenizer
    )
    if not isinstance(pictures, Pictures):
        raise InputError("radii are lengths of changes to pictures or signals, not to tokens")
    prepare = target.preparation(*normalisation, pictures.images.shape[1])
    return Prepared(target.module, prepare, pictures.floats([0])).eval(), pictures


def _checked_radii(radii: Sequence[float]) -> Sequence[float]:
    """Refuse radii below 0 and what is no number."""
    for radius in radii:
        if not 0 <= radius < float("inf"):
            raise InputError(f"--radii {radius:g}: give finite radii from 0 on, as in 0.25,0.5")
    return radii


def _check_suffix(out: Path | None) -> None:
    """Refuse a file of another type before any work."""
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise InputError(f"--out {out}: give NAME.json in a folder that is there")


def _tell_accuracy(module: nn.Module, data: str, pictures: Pictures) -> None:
    """Print the accuracy on the pictures of training, and on a test split where there is one."""
    from merkhet.data import load, splits
    from merkhet.training import accuracy

    learned = accuracy(module, pictures).value
    sys.stdout.write(f"accuracy {learned:.2%} on the {len(pictures):,} pictures of training\n")
    if learned < LEARNED:
        sys.stdout.write(
            "it has not learned them: more --epochs, another --rate, a weaker penalty may help\n"
        )
    if not {"test", "val"} & set(splits(data)):
        return
    test = load(data, "test")
    found = accuracy(module, test)
    low, high = found.interval or (found.value, found.value)
    sys.stdout.write(
        f"accuracy {found.value:.2%} [{low:.2%}, {high:.2%}] on {len(test):,} test pictures\n"
    )


def _tell_next(out: Path, about: dict[str, Any], data: str) -> None:
    """Say how the run goes into other commands."""
    import shlex

    model = [str(out)]
    if "network" in about:
        given = ["--arguments", json.dumps(about["arguments"])] if about["arguments"] else []
        model = [about["network"], *given, "--weights", str(out / "model.safetensors")]
        model += ["--data", data]
    sys.stdout.write(f"`merkhet rkhs bounds {shlex.join(model)}` bounds and certifies it\n")


def _certified(
    function: Prepared, inputs: Tensor, labels: Tensor | None, method: str
) -> Tensor | None:
    """Return certified radii, (n,), or None and the reason printed: the bracket stands alone."""
    from merkhet.rkhs.certificates import certified_radius

    if method == "power":
        sys.stdout.write("no certificates: they need --method certified\n")
    elif labels is None:
        sys.stdout.write("no certified radii: the pictures have no labels\n")
    else:
        try:
            return certified_radius(function, inputs, labels)
        except InputError as error:
            sys.stdout.write(f"no certified radii: {error}\n")
    return None


def _certified_told(certified: Tensor, at: Sequence[float], shares: Sequence[float]) -> str:
    """Return the certificates in words."""
    lines = [
        f"certified on {len(certified)} pictures: median l2 radius {float(certified.median()):.3g}",
        *(
            f"  accuracy certified at {one:g}: {share:.1%}"
            for one, share in zip(at, shares, strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"


def _bracket_fields(bracket: Bracket) -> dict[str, Any]:
    """Return a bracket as JSON holds it; a bound that is infinite is null."""
    finite = bracket.upper < float("inf")
    return {
        "lower": bracket.lower,
        "upper": bracket.upper if finite else None,
        "upper_is_estimate": bracket.estimate,
        "reasons": list(bracket.reasons),
        "parts": [
            {"path": part.path, "operation": part.operation, "factor": part.factor, "how": part.how}
            for part in bracket.parts
        ],
    }


def _write_bounds(
    out: Path, found: dict[str, Any], bracket: Bracket, certified: Tensor | None
) -> None:
    """Write what was found as JSON, and drawn."""
    from merkhet.core.files import atomic_file
    from merkhet.rkhs.pictures import plot_accuracy, plot_bracket

    made = plot_bracket(bracket) if certified is None else plot_accuracy({"certified": certified})
    with atomic_file(out.with_suffix(".png")) as aside:
        made.savefig(aside, format="png", dpi=110)
    sys.stdout.write(f"{out.with_suffix('.png')}\n")
    _write(out, found)


def _write(out: Path, found: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    from merkhet.core.files import write_text

    write_text(out, json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{out}\n")
