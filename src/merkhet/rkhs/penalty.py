"""Penalties on a network's variation: their sums, and the loss that they make with a criterion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.rkhs.passes import Criterion, Pass

__all__ = ["Criterion", "Logs", "Pass", "Penalty", "regularised_loss"]

Logs = dict[str, Tensor]


class Penalty(ABC):
    """A number, differentiable in a network's parameters, that is added to its loss.

    `penalty(model, x, y)` gives it and what it measured; `0.1 * first + second` is a penalty
    again. A penalty implements `measure`, which takes what it needs from the `Pass`: all terms
    and the loss share the clean forward pass in it.

    The network, its mode, buffers, gradients and random generators are left as found, but for
    what a penalty draws: from its own generator, or from PyTorch's global one, which
    `merkhet.training.fit` seeds at each step.

    Attributes:
        through_inputs: Whether it takes gradients towards the inputs of the shared pass.
        replaces_loss: Whether it contains the loss, which is then not added again.
        leads: Whether, in a sum, it is measured first, because it makes the shared pass in a
            way of its own.

    Reference:
        Bietti, Mialon, Chen & Mairal, "A kernel perspective for regularizing deep neural
        networks", ICML 2019, section 3.
    """

    through_inputs: bool = False
    replaces_loss: bool = False
    leads: bool = False

    @abstractmethod
    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and detached numbers, shape (), by name.

        Args:
            seen: The network and the batch.
        """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and what was measured, by name.

        Without gradients, as under `torch.no_grad()`, the value is a number to look at.

        Args:
            model: Gives logits (n, K), or (n,) for one function; by itself, compiled or wrapped.
            x: (n, *in) inputs.
            y: int64 (n,) labels, for penalties that need the loss (cross-entropy).

        Raises:
            InputError: Inputs, labels or logits are not such, or a part inside is compiled.
        """
        wanted = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            seen = Pass(model, x, y, through_inputs=self.through_inputs)
            value, logs = self.measure(seen)
        return value if wanted else value.detach(), logs

    def __add__(self, other: Penalty) -> Penalty:
        """Return the sum; `self + other`."""
        if not isinstance(other, Penalty):
            return NotImplemented
        return _Sum((*_terms(self), *_terms(other)))

    def __radd__(self, other: object) -> Penalty:
        """Return the penalty itself for `0 + self`, so that `sum` takes penalties."""
        return self if other == 0 and not isinstance(other, bool) else NotImplemented

    def __mul__(self, factor: float) -> Penalty:
        """Return the penalty times a number from 0 on.

        Raises:
            InputError: The factor is negative or not finite.
        """
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        if not (math.isfinite(factor) and factor >= 0):
            raise InputError(f"a penalty times {factor}: give a finite factor from 0 on")
        return _Scaled(float(factor), self)

    __rmul__ = __mul__


class _Scaled(Penalty):
    """A penalty times a number; what it measured is logged as it was."""

    def __init__(self, factor: float, penalty: Penalty) -> None:
        self.factor = factor
        self.penalty = penalty
        self.through_inputs = penalty.through_inputs
        self.replaces_loss = penalty.replaces_loss
        self.leads = penalty.leads

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        value, logs = self.penalty.measure(seen)
        return self.factor * value, logs

    def __repr__(self) -> str:
        inner = f"({self.penalty!r})" if isinstance(self.penalty, _Sum) else repr(self.penalty)
        return f"{self.factor:g} * {inner}"


class _Sum(Penalty):
    """A sum of penalties on one pass."""

    def __init__(self, terms: tuple[Penalty, ...]) -> None:
        self.terms = terms
        self.through_inputs = any(term.through_inputs for term in terms)
        self.replaces_loss = any(term.replaces_loss for term in terms)
        self.leads = any(term.leads for term in terms)

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        values, logs = [], Logs()
        for term in sorted(self.terms, key=lambda term: not term.leads):
            value, more = term.measure(seen)
            values.append(value)
            for name, number in more.items():
                logs[_unused(name, logs)] = number
        return torch.stack(values).sum(), logs

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


def regularised_loss(
    penalty: Penalty | None, criterion: Criterion = F.cross_entropy
) -> Callable[[nn.Module, Any], tuple[Tensor, Logs]]:
    """Return the loss of a training step, as `merkhet.training.fit` takes it.

    The loss of a pair (inputs, targets) is the criterion plus the penalty, on one forward pass
    where no part of the network depends on its mode; with batch norm or dropout the penalty has
    a pass of its own, as evaluated. Where the penalty contains the loss (`replaces_loss`, as
    `AdversarialLoss` does), it stands alone. Where gradients towards inputs are differentiated
    again, a compiled network is run as it was before it was compiled: the same parameters.

    Args:
        penalty: Added to the criterion, or None.
        criterion: Of (output, targets), the batch's mean, shape (); penalties that differentiate
            the loss differentiate this one.

    Returns:
        loss(module, batch) -> (loss, logs): shape (), and by name "clean_loss" and what the
        penalty measured.

    Raises:
        InputError: The penalty is none.
    """
    if penalty is not None and not isinstance(penalty, Penalty):
        raise InputError(
            f"penalty = {penalty!r}: give a penalty such as GradientPenalty(), or None; "
            "merkhet.rkhs.parse_penalty reads one from words"
        )

    def loss(module: nn.Module, batch: Any) -> tuple[Tensor, Logs]:
        x, y = _pair(batch)
        through_inputs = penalty is not None and penalty.through_inputs
        seen = Pass(module, x, y, criterion=criterion, through_inputs=through_inputs, trains=True)
        if penalty is None:
            return seen.loss, {"clean_loss": seen.loss.detach()}
        if penalty.replaces_loss:
            return penalty.measure(seen)
        if not seen.shared:
            _ = seen.output  # moves statistics, on which the penalty's own pass will depend
        value, logs = penalty.measure(seen)
        return seen.loss + value, {"clean_loss": seen.loss.detach(), **logs}

    return loss


def is_from_zero(value: object) -> bool:
    """Tell whether something is a finite number from 0 on."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and 0 <= float(value) < math.inf  # type: ignore[arg-type]


def _terms(penalty: Penalty) -> tuple[Penalty, ...]:
    """Return the terms of a sum, or the penalty."""
    return penalty.terms if isinstance(penalty, _Sum) else (penalty,)


def _unused(name: str, names: Mapping[str, Any]) -> str:
    """Return a name with a number behind it, if there is another of this name already."""
    number, candidate = 1, name
    while candidate in names:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return inputs and targets."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(
            f"a batch of type {type(batch).__name__}: give pairs (inputs, targets), as data sets "
            "of merkhet.data are"
        )
    return batch[0], batch[1]
