"""Convolutional kernel networks with a linear classifier, by name; what trains them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from merkhet.ckn.form import Form
from merkhet.ckn.frames import as_group
from merkhet.ckn.hinge import squared_hinge
from merkhet.ckn.network import CKN, each
from merkhet.ckn.whitened import WhitenedAdamW
from merkhet.core.building import as_generator, check_counts, draw_normal
from merkhet.core.errors import InputError
from merkhet.core.groups import Group

if TYPE_CHECKING:
    from merkhet.training import Running, TrainingResult

SAMPLE = 2000  # pictures whose representations say what is white


def ckn_classifier(
    in_channels: int,
    classes: int,
    size: Sequence[int],
    filters: Sequence[int] = (64, 256),
    kernel_size: int | Sequence[int] = 3,
    pooling: Any = (2, 6),
    kernel: str | Sequence[str] = "exp",
    sigma: float | Sequence[float] = 0.6,
    group: str | None = None,
    patches: str | Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """Return a CKN ("representation"), its flattening ("flatten") and a linear layer ("head").

    Shapes: (batch, in_channels, *size) -> (batch, classes).

    Args:
        in_channels: Channels of the pictures or signals.
        classes: How many classes there are.
        size: (height, width) of the pictures, or (length,) of signals.
        filters: Filters of each layer.
        kernel_size: Side of the patches, one number or one a layer.
        pooling: Scale and step of the means, or a pair of both, one or one a layer.
        kernel: "exp", "inverse", "poly" or "relu", one or one a layer.
        sigma: Width of "exp", one or one a layer.
        group: "c4", "c8", "d4", "reflections", or None for none.
        patches: "raw", "centred" or "whitened", one or one a layer; by default the first layer's
            are centred and the others raw.
        seed: Of all weights.

    Raises:
        InputError: A number out of range, lists that do not fit, pictures that are too small, or
            not square where the group turns them.
    """
    check_counts(classes=classes)
    if len(size) not in (1, 2):
        raise InputError(f"size = {list(size)}: give (height, width), or (length,) of signals")
    for side in size:
        check_counts(side=side)
    generator, acting = as_generator(seed), as_group(group)
    representation = CKN(
        in_channels,
        tuple(filters),
        kernel_size,
        pooling,
        kernel,
        sigma,
        group=acting,
        form=forms(patches, len(filters), len(size)),
        seed=generator,
    )
    check_square(acting, size)
    maps, *places = representation.output_shape(*size)
    head = linear_head(maps * torch.Size(places).numel(), classes, generator)
    parts = {"representation": representation, "flatten": nn.Flatten(), "head": head}
    return nn.Sequential(OrderedDict(parts))


def hinge_loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the one-versus-all squared hinge loss of a batch, a scalar, as `training.fit` asks.

    Args:
        module: From pictures to scores (batch, classes).
        batch: Pictures (batch, channels, *size), and labels (batch,).
    """
    pictures, labels = batch
    return squared_hinge(module(pictures), labels)


def renormalise_after(module: nn.Module, step: int) -> None:
    """Bring the filters of every CKN in a network to norm 1: `training.fit(after_step=...)`.

    Args:
        module: The network.
        step: How many steps were made; every one is treated alike.
    """
    for part in module.modules():
        if isinstance(part, CKN):
            part.renormalise()


def fine_tune(
    network: nn.Module,
    dataset: Dataset[Any],
    epochs: int,
    *,
    rate: float = 5e-4,
    batch_size: int = 64,
    seed: int = 0,
    folder: Path | str | None = None,
    spec: Mapping[str, Any] | None = None,
    running: Running | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a classifier with labels, in place: squared hinge, AdamW, filters kept at norm 1.

    Steps of the head are made in coordinates in which the representation, as it is at the start,
    is white (`WhitenedAdamW`).

    Args:
        network: As `ckn_classifier` gives it, fitted or fresh.
        dataset: Of pairs: a picture (channels, *size), a label.
        epochs: Passes over the data set.
        rate: The highest learning rate; it rises over a tenth of the steps, then falls.
        batch_size: Pictures of a step; all where there are fewer.
        seed: Of their order.
        folder: Where the run is kept, and goes on from; None keeps nothing.
        spec: How the network is made, for the folder.
        running: How the run is looked after.
        tell: Called with a line of progress now and then.

    Raises:
        InputError: A number out of range, or the folder holds another run.
    """
    from merkhet.training import Optimisation, Running, TrainingConfig, fit

    check_counts(epochs=epochs, batch_size=batch_size)
    count: int = len(dataset)  # type: ignore[arg-type]
    steps = epochs * -(-count // batch_size)
    config = TrainingConfig(
        steps,
        min(batch_size, count),
        seed=seed,
        optimisation=Optimisation(rate, warmup_steps=steps // 10),
        running=running or Running(save_every=max(1, steps // epochs)),
    )
    return fit(
        network,
        dataset,
        hinge_loss,
        config,
        folder=folder,
        optimiser=_optimiser(network, dataset, rate),
        after_step=renormalise_after,
        spec=spec,
        tell=tell,
    )


def _optimiser(network: nn.Module, dataset: Dataset[Any], rate: float) -> WhitenedAdamW:
    """Return the optimiser of a classifier, from the representations of some of the data set."""
    representation = next((part for part in network.modules() if isinstance(part, CKN)), None)
    head = next(
        (part for part in reversed([*network.modules()]) if isinstance(part, nn.Linear)), None
    )
    if representation is None or head is None:
        raise InputError(
            f"a {type(network).__name__} without a CKN or without a linear head: give "
            "nn.Sequential(ckn, nn.Flatten(), nn.Linear(...)), as ckn_classifier(...) does"
        )
    count: int = len(dataset)  # type: ignore[arg-type]
    with torch.random.fork_rng():  # data sets may vary their pictures
        torch.manual_seed(0)
        some = Subset(dataset, range(0, count, max(1, count // SAMPLE)))
        maps = representation.encode(some)
    return WhitenedAdamW(representation, head, maps, rate, rate)


NETWORKS = {"ckn": ckn_classifier}


def forms(patches: str | Sequence[str] | None, count: int, dims: int) -> tuple[Form, ...]:
    """Return the form of each layer.

    Args:
        patches: One word, one a layer, or None: the first layer's centred, the others raw.
        count: Layers.
        dims: 2 for pictures, 1 for signals.
    """
    words = ("centred", *("raw",) * count)[:count] if patches is None else patches
    return tuple(Form(dims=dims, patches=word) for word in each("patches", words, count))


def check_square(group: Group | None, size: Sequence[int]) -> None:
    """Refuse pictures that a group with rotations does not map onto themselves.

    Args:
        group: The group or None.
        size: (height, width) or (length,).
    """
    if group is not None and group.axes == 2 and len(size) == 2 and size[0] != size[1]:
        raise InputError(
            f"pictures of {size[0]}x{size[1]} are not mapped onto themselves by {group.name}: give "
            'square ones, group "reflections", or none'
        )


def linear_head(features: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Return a fresh linear layer with scores of scale 1 for features of norm 1.

    Args:
        features: What it reads.
        classes: What it gives.
        generator: Draws the weights; biases are 0.
    """
    head: nn.Linear = nn.utils.skip_init(nn.Linear, features, classes)
    draw_normal(head.weight, 1.0, generator)
    nn.init.zeros_(head.bias)
    return head
