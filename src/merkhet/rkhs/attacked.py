"""A network as attacks see it: scores, their gradients in the input, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode, uncompiled
from merkhet.core.outputs import main_tensor
from merkhet.core.undisturbed import undisturbed

Loss = Callable[[Tensor, Tensor], Tensor]


class Attacked:
    """A classifier in evaluation mode whose parameters take no gradient.

    Made by `attacked`. Inputs come in batches of at most `batch_size`, on any device.

    Attributes:
        module: The network.
        batch_size: Examples at once.
        device: Where the network is.
    """

    def __init__(self, module: nn.Module, batch_size: int, device: torch.device) -> None:
        self.module = module
        self.batch_size = batch_size
        self.device = device

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores (n, classes) of inputs (n, ...), without gradient.

        Raises:
            InputError: The network's output is no scores by class.
        """
        with torch.no_grad():
            return torch.cat([self._scores(part) for part in x.split(self.batch_size)])

    def wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which inputs (n, ...) do not get their label (n,), as bools (n,).

        Scores that are NaN or infinite are no answer, and count as wrong.
        """
        if not len(x):
            return torch.zeros_like(y, dtype=torch.bool)
        return misjudged(self.scores(x), y.to(self.device)).to(y.device)

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (n, classes), losses (n,) and the losses' gradients in x (n, ...).

        Where the scores do not depend on the input in a way that can be differentiated, the
        gradients are zero.

        Args:
            x: One batch (n, ...) on the network's device.
            y: Labels (n,).
            loss: Of scores (n, classes) and labels, (n,).
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            scores = self._scores(leaf)
            losses = loss(scores, y)
            if not losses.requires_grad:
                return scores, losses, torch.zeros_like(x)
            found = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0]
        gradients = torch.zeros_like(x) if found is None else found
        return scores.detach(), losses.detach(), gradients

    def _scores(self, x: Tensor) -> Tensor:
        """Return the scores of one batch, checked."""
        scores = main_tensor(self.module(x.to(self.device)))
        fits = scores.dim() == 2 and len(scores) == len(x) and scores.is_floating_point()
        if not fits or scores.shape[1] < 2:
            raise InputError(
                f"the network's output for {len(x)} inputs has shape {tuple(scores.shape)}: give "
                "a classifier with scores (n, classes), two classes or more"
            )
        return scores


@contextmanager
def attacked(model: nn.Module, batch_size: int = 128) -> Iterator[Attacked]:
    """Yield a network in evaluation mode, its parameters frozen; put all back, whatever happens.

    Args:
        model: A classifier of inputs (n, ...) with scores (n, classes), compiled or not: gradients
            are taken of the network inside, for a compiler may refuse new shapes.
        batch_size: Examples at once.
    """
    module = uncompiled(model)
    device = device_of(module)
    with undisturbed(module), in_mode(module, training=False), _frozen(module):
        yield Attacked(module, batch_size, device)


def device_of(module: nn.Module) -> torch.device:
    """Return where a network is: the device of its first parameter or buffer."""
    held = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def misjudged(scores: Tensor, y: Tensor) -> Tensor:
    """Return where scores (n, classes) are not finite or not largest at the label, (n,)."""
    return (scores.argmax(1) != y) | ~scores.isfinite().all(1)


def soft_margin(scores: Tensor, y: Tensor) -> Tensor:
    """Return log(sum of exp of the other scores) minus the label's, (n,) in float64.

    The cross-entropy is log(1 + exp(m)) of it: it grows with it, so both have the same maxima and
    the same directions of ascent, but this gradient does not vanish where a softmax is 1.

    Args:
        scores: (n, classes).
        y: Labels (n,).
    """
    own, others = _apart(scores, y)
    return others.logsumexp(1) - own


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """Return the largest other score minus the label's, (n,) in float64: above 0 when wrong.

    Scaling the scores does not change its directions of ascent.

    Args:
        scores: (n, classes).
        y: Labels (n,).
    """
    own, others = _apart(scores, y)
    return others.amax(1) - own


def _apart(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's scores (n,) and the others' (n, classes), -inf at the label."""
    scores = scores.double()
    own = scores.gather(1, y[:, None]).squeeze(1)
    label = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, y[:, None], True)
    return own, scores.masked_fill(label, -torch.inf)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let no parameter take a gradient for a while."""
    taking = [one for one in module.parameters() if one.requires_grad]
    for one in taking:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in taking:
            one.requires_grad_(True)
