"""Gradients of logits by the input: n examples, K classes, inputs of shape `in`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.rkhs.balls import norms
from merkhet.rkhs.looks import full_precision


def class_gradient_norms(logits: Tensor, x: Tensor) -> Tensor:
    """Return |grad f_k(x_i)|, (n, K), without a graph; that of the logits is kept.

    Args:
        logits: (n, K), computed from `x`, each example's from its own.
        x: (n, *in), requires a gradient.
    """
    columns = [norms(gradient) for gradient in class_gradients(logits, x)]
    return torch.stack(columns, 1)


def class_gradients(logits: Tensor, x: Tensor, *, again: bool = False) -> list[Tensor]:
    """Return grad f_k(x_i) of all classes, K tensors (n, *in).

    Args:
        logits: (n, K), computed from `x`, each example's from its own.
        x: (n, *in), requires a gradient.
        again: Whether they are to be differentiated again.
    """
    return [input_gradient(column.sum(), x, again=again) for column in logits.unbind(1)]


def input_gradient(value: Tensor, x: Tensor, *, again: bool = False) -> Tensor:
    """Return the gradient, like `x`, of a number by the input; the value's graph is kept.

    Parameters get no gradient. Where the network does not depend on `x` it is zero.

    Args:
        value: (), computed from `x`.
        x: (n, *in), requires a gradient.
        again: Whether the gradient is to be differentiated again.

    Raises:
        InputError: An operation of the network has no second derivative, or a checkpoint is of
            the kind that no gradient towards an input passes.
    """
    if not value.requires_grad:
        return torch.zeros_like(x)
    with told(), full_precision(x.device):
        (gradient,) = torch.autograd.grad(
            value, x, create_graph=again, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(x) if gradient is None else gradient


@contextmanager
def told() -> Iterator[None]:
    """Say in words of a derivative for a while that it does not exist.

    Raises:
        InputError: An operation has no such derivative, or a checkpoint is of the kind that no
            gradient towards an input passes.
    """
    try:
        yield
    except NotImplementedError as error:
        raise InputError(f"the network has no such derivative: {error}") from error
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise InputError(
            "the network has checkpoints that gradients towards inputs cannot pass: write "
            "checkpoint(..., use_reentrant=False) in it"
        ) from error
