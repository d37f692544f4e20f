"""Data that operating points are found on, checked: pictures, labels, and a mixture for them."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from merkhet.cnmm.network import CNMM
from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating

TASKS = {1: "classification", 3: "segmentation"}  # by the dimensions of the labels


def which_count(labels: Tensor, ignore: int | None) -> Tensor:
    """Return which labels count, of their shape."""
    if ignore is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return labels.long() != ignore  # in uint8, -1 would be 255


def is_whole(given: object) -> bool:
    """Tell whether something is a whole number."""
    return isinstance(given, Integral) and not isinstance(given, bool)


def check_pictures(name: str, x: object) -> None:
    """Refuse what are no pictures in floating point."""
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name} pictures in a {type(x).__name__}: give a tensor (n, channels, height, width)"
        )
    if x.dim() != 4 or not x.is_floating_point():
        raise InputError(
            f"{name} pictures of shape {tuple(x.shape)}, {x.dtype}: give floating-point pictures "
            "(n, channels, height, width), scaled as in training"
        )


def check_part(name: str, part: object, ignore: int | None) -> None:
    """Refuse what is no pair of pictures and labels, and labels none of which counts."""
    if not isinstance(part, tuple | list) or len(part) != 2 or not isinstance(part[1], Tensor):
        raise InputError(f"{name} data in a {type(part).__name__}: give two tensors, (x, labels)")
    x, labels = part
    check_pictures(name, x)
    if not len(x):
        raise InputError(f"no {name} pictures: give one or more")
    floating = labels.is_floating_point() or labels.is_complex()
    if labels.dim() not in TASKS or len(labels) != len(x) or floating:
        raise InputError(
            f"{name} labels of shape {tuple(labels.shape)}, {labels.dtype}, for {len(x)} pictures: "
            "give integers (n,), or (n, height, width) for pixels"
        )
    if not which_count(labels, ignore).any():
        raise InputError(f"every {name} label is {ignore}, which counts for nothing: give others")


def one_output(name: str, x: Tensor, model: CNMM) -> Tensor:
    """Return what a mixture gives for the first picture, (1, classes, ...), checked."""
    try:
        with evaluating(model):
            output: object = model(x[:1].to(next(model.parameters())))
    except RuntimeError as error:
        raise InputError(
            f"the mixture does not run on {name} pictures of shape {tuple(x.shape)}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise InputError("the mixture's head gives no scores (n, classes, ...): give it one")
    return output


def check_labels(name: str, labels: Tensor, output: Tensor, ignore: int | None) -> None:
    """Refuse labels that one picture's output, (1, classes, ...), has no scores for."""
    if output.shape[2:] != labels.shape[1:]:
        raise InputError(
            f"{name} labels of shape {tuple(labels.shape)} for scores of shape "
            f"(n, classes, ...) = {('n', *output.shape[1:])}: give a label for each"
        )
    counted = labels[which_count(labels, ignore)]
    classes = output.shape[1]
    for one in (int(counted.min()), int(counted.max())):
        if not 0 <= one < classes:
            raise InputError(
                f"class {one} among the {name} labels: the head has {classes} classes, 0 to "
                f"{classes - 1}; build the mixture with more, or give Sets(..., ignore={one}) if "
                "that label counts for nothing"
            )
