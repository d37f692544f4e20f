"""Kernels of infinitely wide networks: classify with few labels, Gram matrices, spectra."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.errors import InputError, choose

if TYPE_CHECKING:
    from torch import Tensor

    from merkhet.data import Pictures
    from merkhet.kernels import Layer
    from merkhet.kernels.spectrum import Spectrum

WORDS = (
    "Layers: conv3 linear flatten mean (over positions) relu leaky0.1 exp0.6 erf gelu sine avg2 "
    "gauss2 residual(relu conv3); with settings, conv5:stride=2,padding=valid linear:std=1,bias=0.1"
)
RBF_WIDTHS = tuple(2 ** (half / 2) for half in range(-4, 5))  # of the median distance

Data = Annotated[str, typer.Option(help="Data set, folder or .npz.")]
Network = Annotated[str | None, typer.Option(help=WORDS)]
Module = Annotated[
    str | None, typer.Option(help="A torch network in place of words: package.module:callable.")
]
Initialiser = Annotated[
    str | None, typer.Option(help="How the module starts: torch, he, lecun, xavier_normal, ...")
]
Seed = Annotated[int, typer.Option(help="Seed of the draw of pictures.", min=0)]


def classify(
    data: Data = "digits",
    labels: Annotated[int, typer.Option(help="Labelled pictures to learn from.", min=2)] = 500,
    test: Annotated[int, typer.Option(help="Test pictures.", min=1)] = 300,
    network: Network = None,
    module: Module = None,
    initialiser: Initialiser = None,
    kind: Annotated[str, typer.Option(help="ntk or nngp.")] = "ntk",
    compare: Annotated[
        bool, typer.Option("--compare", help="Also a Gaussian kernel (RBF) of tuned width.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write what is found as NAME.json.")] = None,
    seed: Seed = 0,
) -> None:
    """Learn a few labels with a network's kernel; print accuracy. The ridge is by leave-one-out.

    Example: merkhet kernels classify --data digits --labels 100 --test 100 --compare
    """
    from merkhet.kernels.words import PICTURES

    choose("--kind", kind, ("nngp", "ntk"))
    _check_suffix(out, ".json")
    train, held_out = _labelled(data, labels, test, seed)
    x, z = train.floats(), held_out.floats()
    layers, name = _layers(PICTURES, network, module, initialiser, x[:1])
    sys.stdout.write(f"{data}: {labels} labels, {test} test pictures\n")
    found = {f"{kind.upper()} of {name}": _by_network(layers, kind, (x, z), train, held_out)}
    if compare:
        found["RBF"] = _by_rbf((x, z), train, held_out)
    for kernel, one in found.items():
        sys.stdout.write(f"{kernel}: {_told(one)}\n")
    if out is not None:
        asked = {"data": data, "labels": labels, "test": test, "seed": seed}
        _write(out, {**asked, "network": repr(layers), "found": found})


def gram(
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="train, test, val or all.")] = "train",
    limit: Annotated[int, typer.Option(help="Pictures, drawn with balanced labels.", min=1)] = 500,
    network: Network = None,
    module: Module = None,
    initialiser: Initialiser = None,
    kind: Annotated[str, typer.Option(help="ntk, nngp, or both: (2, n, n), nngp first.")] = "ntk",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    out: Annotated[Path, typer.Option(help="The .npy file, begun or new.")] = Path("kernel.npy"),
    seed: Seed = 0,
) -> None:
    """Write the kernel among pictures block by block; the same command goes on where it stopped.

    Row i is picture i of merkhet.data.load(DATA, SPLIT).sample(LIMIT, SEED).

    Example: merkhet kernels gram --data digits --limit 100 --out kernel.npy
    """
    import torch

    from merkhet import kernels
    from merkhet.kernels.words import PICTURES

    choose("--kind", kind, ("both", "nngp", "ntk"))
    choose("--dtype", dtype, ("float32", "float64"))
    _check_suffix(out, ".npy")
    x = _drawn(data, split, limit, seed, "--limit").floats()
    layers, name = _layers(PICTURES, network, module, initialiser, x[:1])
    begun, start = out.exists(), time.perf_counter()
    precision = torch.float32 if dtype == "float32" else torch.float64
    kernels.gram(layers, x, kind=kind, dtype=precision, out=out)
    seconds = time.perf_counter() - start
    rate = f"{len(x) * (len(x) + 1) / 2 / seconds:,.0f} pairs a second"
    shape = (2, len(x), len(x)) if kind == "both" else (len(x), len(x))
    sys.stdout.write(
        f"{out}: {kind} of {name}, {shape} {dtype}, {seconds:.1f} s, "
        f"{'with what was there already' if begun else rate}\n"
    )


def spectrum(
    network: Network = None,
    module: Module = None,
    initialiser: Initialiser = None,
    dim: Annotated[int, typer.Option(help="Dimension of the sphere's space.", min=2)] = 3,
    kind: Annotated[str, typer.Option(help="ntk, nngp or both.")] = "ntk",
    degrees: Annotated[int, typer.Option(help="The highest degree.", min=1)] = 40,
    out: Annotated[
        Path | None, typer.Option(help="NAME.png for a picture, NAME.json for the numbers.")
    ] = None,
) -> None:
    """Print the eigenvalues of a dense network's kernel on the sphere, and how fast they decay.

    Example: merkhet kernels spectrum --network "linear relu linear" --dim 3 --out spectrum.png
    """
    import torch

    from merkhet import kernels
    from merkhet.kernels.words import DENSE

    choose("--kind", kind, ("both", "nngp", "ntk"))
    _check_suffix(out, ".png", ".json")
    layers, title = _layers(DENSE, network, module, initialiser, torch.ones(1, dim))
    names = ("nngp", "ntk") if kind == "both" else (kind,)
    found = {name.upper(): kernels.spectrum(layers, dim, name, degrees=degrees) for name in names}
    sys.stdout.write(f"{title} on the unit sphere in dimension {dim}\n")
    for name, one in found.items():
        sys.stdout.write(f"{name}\n{one}\n{_decay_told(one)}\n")
    if out is not None:
        _write_spectra(out, found)


VERBS = (classify, gram, spectrum)


def _layers(
    default: str, network: str | None, module: str | None, initialiser: str | None, example: Tensor
) -> tuple[Layer, str]:
    """Return the network of the options, which takes an example (1, ...), and what to call it."""
    from merkhet import kernels
    from merkhet.kernels.words import parse_network, told_of
    from merkhet.models import find_target

    if module is None:
        if initialiser is not None:
            raise InputError(
                "--initialiser goes with --module: words have settings, as in linear:std=1"
            )
        name = default if network is None else network
        found, option = parse_network(name), f"--network {name!r}"
    elif network is not None:
        raise InputError("--network and --module: give one of them")
    elif initialiser is None:
        raise InputError("--module needs --initialiser, as in --initialiser torch")
    else:
        name, option = module, f"--module {module}"
        target = find_target(module)
        with told_of(option):
            found = kernels.from_module(target.module, example, initialiser=initialiser)
    with told_of(option):
        kernels.diagonal(found, example)
    return found, name


def _check_suffix(out: Path | None, *allowed: str) -> None:
    """Refuse a file of another type, and a folder that is not there, before any work."""
    if out is not None and out.suffix not in allowed:
        names = " or ".join(f"NAME{suffix}" for suffix in allowed)
        raise InputError(f"--out {out}: give {names}")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}, make it first")


def _drawn(data: str, split: str, count: int, seed: int, option: str) -> Pictures:
    """Return pictures drawn from a split, or from all where the set is not divided."""
    from merkhet.data import load, splits

    found = load(data, "all" if splits(data) == ("all",) else split)
    if count > len(found):
        raise InputError(f"{option} {count}: {data} has {len(found):,} pictures, give that or less")
    return found.sample(count, seed)


def _labelled(data: str, labels: int, test: int, seed: int) -> tuple[Pictures, Pictures]:
    """Return pictures to learn from and others to test on."""
    from merkhet.data import splits

    if splits(data) == ("all",):
        whole = _drawn(data, "all", labels + test, seed, "--labels and --test together")
        found = whole.subset(range(labels)), whole.subset(range(labels, labels + test))
    else:
        found = (
            _drawn(data, "train", labels, seed, "--labels"),
            _drawn(data, "test", test, seed, "--test"),
        )
    if found[0].labels is None or found[1].labels is None:
        raise InputError(f"--data {data} has no labels: give pictures in a folder for each class")
    return found


def _by_network(
    layers: Layer, kind: str, inputs: tuple[Tensor, Tensor], train: Pictures, test: Pictures
) -> dict[str, Any]:
    """Return what a network's kernel gives, and how fast it was computed."""
    from merkhet import kernels

    x, z = inputs
    kernels.gram(layers, z[:1], x[:2], kind)  # compiles, once on a machine
    kernels.gram(layers, x[:2], kind=kind)
    start = time.perf_counter()
    among, cross = kernels.gram(layers, x, kind=kind), kernels.gram(layers, z, x, kind)
    seconds = time.perf_counter() - start
    pairs = len(x) * (len(x) + 1) / 2 + len(x) * len(z)
    rate = {"kernel_seconds": seconds, "pairs_a_second": pairs / seconds}
    return {**_scored(_fitted(among, train), cross, test), **rate}


def _by_rbf(inputs: tuple[Tensor, Tensor], train: Pictures, test: Pictures) -> dict[str, Any]:
    """Return what a Gaussian kernel gives, its width, like the ridge, by leave-one-out error."""
    import torch

    x, z = (one.flatten(1).double() for one in inputs)
    start = time.perf_counter()
    among, cross = torch.cdist(x, x), torch.cdist(z, x)
    middle = float(among[among > 0].median())
    fits = {
        width: _fitted((-(among / width).square() / 2).exp(), train)
        for width in (middle * relative for relative in RBF_WIDTHS)
    }
    width = min(fits, key=lambda one: fits[one].loo_errors_.min())
    found = _scored(fits[width], (-(cross / width).square() / 2).exp(), test)
    return {**found, "width": width, "seconds": time.perf_counter() - start}


def _fitted(kernel: Tensor, train: Pictures) -> Any:
    """Return a classifier that knows the labels of pictures with a kernel (n, n)."""
    from merkhet.kernels import KernelClassifier

    assert train.labels is not None
    return KernelClassifier("precomputed").fit(kernel.numpy(), train.labels.numpy())


def _scored(model: Any, cross: Tensor, test: Pictures) -> dict[str, Any]:
    """Return accuracy on pictures of kernels (m, n) with those learned, and the ridge."""
    from merkhet.core.intervals import wilson

    assert test.labels is not None
    hits = int((model.predict(cross.numpy()) == test.labels.numpy()).sum())
    accuracy, interval = hits / len(test), wilson(hits, len(test))
    return {"accuracy": accuracy, "interval": interval, "ridge": model.ridge_}


def _told(found: dict[str, Any]) -> str:
    """Return a result in words."""
    low, high = found["interval"]
    line = f"accuracy {found['accuracy']:.1%} [{low:.1%}, {high:.1%}], ridge {found['ridge']:.3g}"
    if "width" in found:
        return f"{line}, width {found['width']:.3g}, {found['seconds']:.1f} s"
    seconds, rate = found["kernel_seconds"], found["pairs_a_second"]
    return f"{line}, {seconds:.1f} s for the kernel, {rate:,.0f} pairs a second"


def _decay_told(found: Spectrum) -> str:
    """Return the exponents of a spectrum in words, where enough of its eigenvalues are known."""
    from merkhet.kernels.spectrum import SHARP

    theory = "faster than any power" if found.theory is None else f"{found.theory:g}"
    sharp = found.resolved & (found.errors <= SHARP * found.eigenvalues)
    if not sharp[1:].any():
        return f"no eigenvalue from degree 1 on is known to 1 %; decay in theory: {theory}"
    decay = found.decay()
    even, odd = (
        "too few known" if one is None else f"{one:.2f}" for one in (decay.even, decay.odd)
    )
    low, high = decay.window
    return f"decay, degrees {low} to {high}: even {even}, odd {odd}; in theory {theory}"


def _write_spectra(out: Path, found: dict[str, Spectrum]) -> None:
    """Write spectra as a picture or as JSON, whole or not at all."""
    from merkhet.core.files import atomic_file
    from merkhet.kernels.pictures import plot_spectra

    if out.suffix == ".png":
        with atomic_file(out) as aside:
            plot_spectra(found).savefig(aside, format="png", dpi=110)
        sys.stdout.write(f"{out}\n")
        return
    numbers = {
        name: {
            "degrees": one.degrees.tolist(),
            "multiplicities": one.multiplicities.tolist(),
            "eigenvalues": one.eigenvalues.tolist(),
            "errors": one.errors.tolist(),
            "theory": one.theory,
        }
        for name, one in found.items()
    }
    _write(out, numbers)


def _write(out: Path, found: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    from merkhet.core.files import write_text

    write_text(out, json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{out}\n")
