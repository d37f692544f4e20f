"""The RKHS norm of linear functions of a convolutional kernel network, and margins in it.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from merkhet.ckn.network import CKN
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating

KEEPERS = (nn.Flatten, nn.Identity, nn.Dropout)


def rkhs_norm(model: nn.Sequential, *, differences: bool = False) -> Tensor:
    """Return |f| of each output f of a convolutional kernel network with a linear head.

    The network is a kernel map: K(x, x') = Phi(x) . Phi(x') is the Nystrom kernel, and
    f(x) = w . Phi(x) (+ b) has in its RKHS the norm of the part of w in the span of all Phi(x).
    |w| is that norm where they span the features, and else an upper bound of it. A head's bias
    is no part of it. |f(x) - f(x')| <= |f| |Phi(x) - Phi(x')|.

    Args:
        model: nn.Sequential(CKN, nn.Flatten(), nn.Linear), with no layer between that changes
            norms.
        differences: Return |f_i - f_j| of all pairs of outputs, on which margins depend.

    Returns:
        (outputs,), or (outputs, outputs); float64, differentiable.

    Raises:
        InputError: Another model; says what is in the way.
    """
    weight = _head(model).weight.double()
    if differences:
        weight = weight[:, None] - weight[None]
    norms: Tensor = torch.linalg.vector_norm(weight, dim=-1)
    return norms


@torch.no_grad()
def normalised_margins(model: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
    """Return min over j of (f_y(x) - f_j(x)) / |f_y - f_j|, the margins of a classifier.

    It is the distance from Phi(x) to the nearest place where class j passes y, negative where
    one has: no picture with |Phi(x') - Phi(x)| below it is classified otherwise.

    Args:
        model: As for `rkhs_norm`, with two outputs or more.
        images: (n, channels, *size).
        labels: (n,), classes y from 0.

    Returns:
        (n,), float64.

    Raises:
        InputError: Another model, or labels that are none of its classes.
    """
    norms = rkhs_norm(model, differences=True)
    classes = len(norms)
    if classes < 2:
        raise InputError("the head has one output: margins are between two classes or more")
    if labels.is_floating_point() or not len(images):
        raise InputError(
            f"{len(images)} images, labels in {labels.dtype}: give images, and integers"
        )
    if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} for {len(images)} images: give one each, "
            f"from 0 to {classes - 1}"
        )
    with evaluating(model):
        outputs: Tensor = model(images).double()
    gaps = outputs.gather(1, labels[:, None].long()) - outputs
    # Equal rows of the head differ by their biases alone, everywhere.
    margins = torch.where(gaps == 0, 0.0, gaps / norms[labels.long()])
    return margins.scatter(1, labels[:, None].long(), math.inf).amin(1)


def _head(model: nn.Sequential) -> nn.Linear:
    """Return the linear head of a model whose first layer is a CKN."""
    layers = list(model) if isinstance(model, nn.Sequential) else []
    if len(layers) < 2 or not isinstance(layers[0], CKN) or not isinstance(layers[-1], nn.Linear):
        raise InputError(
            f"{type(model).__name__}: give nn.Sequential(CKN(...), nn.Flatten(), nn.Linear(...))"
        )
    flat = [one for one in layers if isinstance(one, nn.Flatten)]
    if type(model) is not nn.Sequential or [(one.start_dim, one.end_dim) for one in flat] != [
        (1, -1)
    ]:
        raise InputError(
            "the head must read all of the representation at once: give "
            "nn.Sequential(CKN(...), nn.Flatten(), nn.Linear(...)), and no subclass of it"
        )
    for place, layer in enumerate(layers[1:-1], start=1):
        if not isinstance(layer, KEEPERS):
            raise InputError(
                f"layer {place} ({layer}) lies between the CKN and its head and may change norms: "
                "fold it into the head, or leave it out"
            )
    return layers[-1]
