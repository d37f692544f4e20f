"""A sample of whatever data the user gives: inputs, labels, class names and a title."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from merkhet.core.errors import InputError
from merkhet.data import Pictures, load_inputs

Inputs = str | Path | Pictures | Tensor | tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]
ACCEPTED = (
    "data is the name or path of a data set, Pictures, a Dataset or DataLoader of (input, label), "
    "a tensor of inputs, or a tuple (inputs, labels) of tensors"
)


class Sample(NamedTuple):
    """Inputs drawn from data, with what is known of them."""

    inputs: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    title: str


def draw_sample(data: Inputs, samples: int, seed: int) -> Sample:
    """Return inputs drawn from data, without repetition, by a seed.

    Args:
        data: As in `merkhet.audit.audit`.
        samples: Inputs to draw; all where there are fewer.
        seed: Seed of the draw.

    Raises:
        InputError: The data is none of these, holds NaN, or has labels that do not fit.
    """
    name = str(data) if isinstance(data, str | Path) else "a tensor"
    if isinstance(data, str | Path):
        data = load_inputs(data, samples=samples, seed=seed)
    if isinstance(data, Pictures):
        drawn = data.sample(min(samples, len(data)), seed)
        title = f"{data.name}, {data.split}" if data.split else data.name
        return Sample(drawn.floats(), drawn.labels, drawn.classes, title)
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, Dataset):
        return _of_dataset(data, samples, seed)
    inputs, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    _check(inputs, labels)
    assert isinstance(inputs, Tensor)
    order = _order(len(inputs), samples, seed)
    kept = None if labels is None else labels[order.to(labels.device)].long()
    return Sample(inputs.detach()[order.to(inputs.device)], kept, (), name)


def digest(inputs: Tensor, labels: Tensor | None) -> str:
    """Return what tells a sample from others: 16 hexadecimal digits of its contents.

    Args:
        inputs: (count, ...) inputs.
        labels: (count,) labels, or None.
    """
    found = hashlib.sha256(f"{tuple(inputs.shape)} {inputs.dtype}".encode())
    for tensor in (inputs, labels):
        if tensor is not None:
            plain = tensor.detach().cpu().contiguous()
            found.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return found.hexdigest()[:16]


def refuse_not_finite(values: Tensor, message: str) -> None:
    """Raise an error that names the first example with a value that is not finite."""
    if not values.is_floating_point() or not values.numel() or not values.dim():
        return
    bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
    if len(bad):
        raise InputError(f"{message} (first in example {int(bad[0])})")


def _order(count: int, samples: int, seed: int) -> Tensor:
    """Return the places of a sample."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples]


def _of_dataset(data: Dataset[Any], samples: int, seed: int) -> Sample:
    """Return a sample of a torch data set, whose items are inputs, or (input, label, ...)."""
    name = type(data).__name__
    if isinstance(data, IterableDataset) or not isinstance(data, Sized):
        raise InputError(f"{name} has no length to draw from: give a tensor of its first inputs")
    items = [data[place] for place in _order(len(data), samples, seed).tolist()]
    try:
        batch = default_collate(items)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the items of {name} do not stack to tensors: {str(error).partition(chr(10))[0]}; "
            "give its inputs one shape, with transforms.ToTensor() for instance"
        ) from error
    labelled = isinstance(batch, Sequence) and len(batch) > 1
    inputs = batch[0] if isinstance(batch, Sequence) else batch
    labels = batch[1] if labelled else None
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        _check(inputs, None)  # targets of another kind, such as maps or boxes, are no labels
        return Sample(inputs, None, (), name)
    _check(inputs, labels)
    return Sample(inputs, labels.long(), tuple(map(str, getattr(data, "classes", ()))), name)


def _check(inputs: object, labels: object) -> None:
    """Refuse tensors that are not inputs, or labels that do not go with them."""
    if not isinstance(inputs, Tensor):
        raise InputError(f"{ACCEPTED}, not {type(inputs).__name__}: write torch.as_tensor(inputs)")
    if not isinstance(labels, Tensor | None):
        raise InputError(
            f"labels are a tensor, not {type(labels).__name__}: write torch.as_tensor(labels)"
        )
    if inputs.dim() == 0 or len(inputs) < 2:
        raise InputError(f"an audit needs at least 2 inputs, not {tuple(inputs.shape)}")
    refuse_not_finite(inputs, "the inputs hold NaN or infinity")
    if labels is None:
        return
    if len(labels) != len(inputs):
        raise InputError(f"{len(inputs)} inputs but {len(labels)} labels: give one for each")
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype}: give integers of shape "
            f"({len(inputs)},), of one-hot vectors labels.argmax(1)"
        )
    if int(labels.min()) < 0:
        raise InputError(f"labels go down to {int(labels.min())}: number the classes from 0")
