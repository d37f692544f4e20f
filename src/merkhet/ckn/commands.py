"""Convolutional kernel networks: fit to pictures, with labels or without, and predict."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.command_options import Seed
from merkhet.core.errors import InputError
from merkhet.core.options import check_run_folder

if TYPE_CHECKING:
    from torch import nn

    from merkhet.data import Pictures

NETWORK = "ckn"
STAGE = "unsupervised"  # the folder in a supervised run's of what it begins from
DATA = "Data set, folder or .npz."
RUN = "Folder of the run: final weights and how they came about."
BATCH = 512
LEAST = 12  # pictures, of which a sixth is held out


def fit(
    data: Annotated[str, typer.Option(help=DATA)] = "digits",
    limit: Annotated[
        int | None, typer.Option(help="Pictures, drawn with balanced labels; all.")
    ] = None,
    filters: Annotated[str, typer.Option(help="Filters of each layer.")] = "64,256",
    kernel_size: Annotated[str, typer.Option(help="Side of patches, one or one a layer.")] = "3",
    pooling: Annotated[str, typer.Option(help="Scale of the means, one or one a layer.")] = "2,6",
    kernel: Annotated[
        str, typer.Option(help="exp, inverse, poly or relu, one or one a layer.")
    ] = "exp",
    sigma: Annotated[float, typer.Option(help="Width of the kernel exp.")] = 0.6,
    group: Annotated[
        str | None, typer.Option(help="Invariant to c4, c8, d4 or reflections.")
    ] = None,
    patches: Annotated[
        str | None,
        typer.Option(help="raw, centred or whitened, one or one a layer; centred, then raw."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes of training with labels.", min=0)] = 0,
    rate: Annotated[float, typer.Option(help="Learning rate of that training.")] = 5e-4,
    out: Annotated[Path, typer.Option(help=RUN)] = Path("ckn-run"),
    seed: Seed = 0,
) -> None:
    """Fit filters without labels, and a linear classifier; then train both, if asked for epochs.

    The penalty of the classifier is chosen on a sixth of the pictures. The same command finds a
    finished run, and goes on with one that was stopped in training.

    Example: merkhet ckn fit --data digits --filters 16,64 --pooling 2,2 --out ckn-run
    """
    from merkhet.core.building import check_positive
    from merkhet.core.options import numbers
    from merkhet.models import Spec

    check_positive(rate=rate)
    check_run_folder(out)
    arguments = {
        "filters": numbers(filters, "--filters", ",", int),
        "kernel_size": _one_or_more(kernel_size, "--kernel-size"),
        "pooling": _one_or_more(pooling, "--pooling"),
        "kernel": _words(kernel),
        "sigma": sigma,
        "group": group,
        "patches": None if patches is None else _words(patches),
        "seed": seed,
    }
    pictures = _labelled(data, limit, seed)
    channels, *size = pictures.images.shape[1:]
    known = {"in_channels": channels, "classes": len(pictures.classes), "size": size}
    spec = Spec(NETWORK, {**known, **arguments})
    about = {
        "spec": {
            "model": {"name": spec.name, "arguments": spec.arguments},
            "data": data,
            "limit": limit,
            "classes": list(pictures.classes),
        },
        "examples": len(pictures),
    }
    _run(spec.build(), pictures, about, out, epochs, rate, seed)


def predict(
    run: Annotated[Path, typer.Argument(help=RUN)],
    data: Annotated[str | None, typer.Option(help=f"{DATA} By default the run's.")] = None,
    split: Annotated[str, typer.Option(help="train, test, val or all.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Write predictions as NAME.csv, a line for each picture.")
    ] = None,
) -> None:
    """Predict the classes of pictures; print the accuracy where they have labels.

    Example: merkhet ckn predict ckn-run --data digits --split test --out predictions.csv
    """
    import torch

    from merkhet.data import load

    if out is not None and (out.suffix != ".csv" or not out.parent.is_dir()):
        raise InputError(f"--out {out}: give NAME.csv in a folder that is there")
    network, spec = _open(run)
    given = data or spec["data"]
    pictures = load(given, split)
    _check_pictures(pictures, given, spec, run)
    with torch.no_grad():
        batches = torch.arange(len(pictures)).split(BATCH)
        found = torch.cat([network(pictures.floats(rows)).argmax(1) for rows in batches])
    if out is not None:
        _write(out, found.tolist(), pictures, spec["classes"])
    _tell_accuracy(found.tolist(), pictures, seen=given == spec["data"])


VERBS = (fit, predict)


def _run(
    network: nn.Module,
    pictures: Pictures,
    about: dict[str, Any],
    out: Path,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Make the run, or the parts of it that are missing."""
    from merkhet.ckn.networks import fine_tune
    from merkhet.report.commands import print_line
    from merkhet.training.folder import check_same, read_run

    if epochs and (out / "run.json").exists():  # what is another run is told before the work
        found = read_run(out)["about"]
        check_same(out, {"spec": found.get("spec")}, {"spec": about["spec"]})
        if "config" not in found:
            raise InputError(f"{out} holds a run without --epochs: use another folder")
    stage = out / STAGE if epochs else out
    if (stage / "run.json").exists():
        _take_up(network, stage, about)
    else:
        _fit_unsupervised(network, pictures, about, stage, seed)
    if epochs:
        spec = about["spec"]
        result = fine_tune(
            network, pictures, epochs, rate=rate, seed=seed, folder=out, spec=spec, tell=print_line
        )
        print_line(f"loss {result.losses[-1]:.4f} after {epochs} epochs, {result.seconds:.1f} s")
    print_line(f"{out}: `merkhet ckn predict {out}` classifies, `merkhet audit {out}` audits")


def _fit_unsupervised(
    network: Any, pictures: Pictures, about: dict[str, Any], folder: Path, seed: int
) -> None:
    """Fit filters and classifier, and write them as a finished run."""
    import torch

    from merkhet.ckn.head import fit_head
    from merkhet.report.commands import print_line
    from merkhet.training.folder import save_finished

    started = time.perf_counter()
    network.representation.fit_unsupervised(pictures.images, seed=seed)
    print_line(f"filters of {len(pictures):,} pictures, {_since(started)}")
    middle = time.perf_counter()
    features = network.representation.encode(pictures.images, progress=True).flatten(1)
    print_line(f"representations of {features.shape[1]:,} numbers, {_since(middle)}")
    middle = time.perf_counter()
    assert pictures.labels is not None
    head = fit_head(features, pictures.labels, len(pictures.classes), seed=seed)
    with torch.no_grad():
        network.head.weight.copy_(head.linear.weight)
        network.head.bias.copy_(head.linear.bias)
    best = max(head.accuracies)
    line = f"penalty {head.penalty:.2g}, held-out accuracy {best:.1%} on a sixth"
    print_line(f"{line}, {_since(middle)}")
    more = {"seconds": time.perf_counter() - started, "told": line}
    save_finished(network, about, folder, more)


def _take_up(network: nn.Module, folder: Path, about: dict[str, Any]) -> None:
    """Bring a network to the weights of a finished fit without labels."""
    from merkhet.models import load_weights
    from merkhet.report.commands import print_line
    from merkhet.training.folder import check_same, final_weights, read_run

    found = read_run(folder)
    check_same(folder, found["about"], about)
    load_weights(network, final_weights(folder))
    print_line(f"{folder} holds this fit already: {found['told']}")


def _open(run: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return a finished run's network in evaluation mode, and its spec."""
    from merkhet.models import Spec, load_weights
    from merkhet.training import final_weights, read_run

    spec = read_run(run)["about"].get("spec") if (run / "run.json").is_file() else None
    if not spec or spec.get("model", {}).get("name") != NETWORK or "classes" not in spec:
        raise InputError(f"{run} is not a run of `merkhet ckn fit`: give its --out folder")
    weights = final_weights(run)
    if not weights.is_file():
        raise InputError(f"{run} has no {weights.name}: the run is not whole")
    network = Spec(spec["model"]["name"], spec["model"]["arguments"]).build()
    load_weights(network, weights)
    return network.eval(), spec


def _labelled(data: str, limit: int | None, seed: int) -> Pictures:
    """Return pictures to learn from: the training split, or all where there is none."""
    from merkhet.data import load, splits

    found = load(data, "all" if splits(data) == ("all",) else "train")
    if found.labels is None:
        raise InputError(f"--data {data} has no labels: give pictures in a folder for each class")
    if limit is not None and limit > len(found):
        raise InputError(f"--limit {limit}: {data} has {len(found):,} pictures, give that or less")
    if min(len(found), limit or LEAST) < LEAST:
        raise InputError(f"{limit or len(found)} pictures are too few: give {LEAST} or more")
    return found if limit is None else found.sample(limit, seed)


def _check_pictures(pictures: Pictures, data: str, spec: dict[str, Any], run: Path) -> None:
    """Refuse pictures of another shape, or of other classes, than the run's."""
    arguments = spec["model"]["arguments"]
    wanted = [arguments["in_channels"], *arguments["size"]]
    shape = list(pictures.images.shape[1:])
    if shape != wanted:
        raise InputError(
            f"--data {data} has pictures of {_times(shape)}, and {run} reads {_times(wanted)}: "
            "give pictures of that size"
        )
    if pictures.labels is not None and list(pictures.classes) != spec["classes"]:
        raise InputError(
            f"--data {data} has the classes {_few(pictures.classes)}, and {run} "
            f"{_few(spec['classes'])}: give data of the same classes, or without labels"
        )


def _write(out: Path, found: list[int], pictures: Pictures, classes: list[str]) -> None:
    """Write predictions, whole or not at all."""
    import csv
    import io

    from merkhet.core.files import write_text

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    labels = pictures.labels
    table.writerow(["picture", "predicted", *(["label"] if labels is not None else [])])
    for place, label in enumerate(found):
        own = [] if labels is None else [classes[int(labels[place])]]
        table.writerow([place, classes[label], *own])
    write_text(out, text.getvalue())
    sys.stdout.write(f"{out}: {len(found):,} predictions\n")


def _tell_accuracy(found: list[int], pictures: Pictures, *, seen: bool) -> None:
    """Print the accuracy with its interval, where there are labels."""
    from merkhet.core.intervals import wilson

    if pictures.labels is None:
        sys.stdout.write(f"{len(found):,} pictures without labels\n")
        return
    hits = sum(one == other for one, other in zip(found, pictures.labels.tolist(), strict=True))
    low, high = wilson(hits, len(found))
    learned = seen and pictures.split in ("train", "all")
    sys.stdout.write(
        f"accuracy {hits / len(found):.2%} [{low:.2%}, {high:.2%}] on {len(found):,} pictures"
        f"{', which the run learned from' if learned else ''}\n"
    )


def _one_or_more(text: str, option: str) -> int | tuple[int, ...]:
    """Return the numbers in an option's text, one alone as such."""
    from merkhet.core.options import numbers

    found = numbers(text, option, ",", int)
    return found[0] if len(found) == 1 else found


def _words(text: str) -> str | list[str]:
    """Return the words in an option's text, one alone as such."""
    found = [word.strip() for word in text.split(",")]
    return found[0] if len(found) == 1 else found


def _since(started: float) -> str:
    """Return seconds in words."""
    return f"{time.perf_counter() - started:.1f} s"


def _times(shape: list[int]) -> str:
    """Return a shape in words."""
    return "x".join(map(str, shape))


def _few(names: Any) -> str:
    """Return the first few names."""
    return ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
