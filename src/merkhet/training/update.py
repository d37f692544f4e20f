"""One update of the weights: gradients over a few batches, clipped, then the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from merkhet.core.errors import InputError
from merkhet.training.clip import clip_gradients
from merkhet.training.config import Optimisation, TrainingConfig
from merkhet.training.groups import parameter_groups
from merkhet.training.history import Row
from merkhet.training.randomness import derive, seed_generators
from merkhet.training.schedule import highest_rate, rate_factor, set_rates

if TYPE_CHECKING:
    from accelerate import Accelerator

PLAIN = (bool, int, float, str, type(None))
RESERVED = ("step", "loss", "rate", "gradient_norm")
CHANGING = ("params", "lr", "initial_lr")

Value = TypeVar("Value")
Loss = Callable[[nn.Module, Any], Tensor | tuple[Tensor, Mapping[str, Tensor | float]]]


@runtime_checkable
class KnowsStep(Protocol):
    """A loss that is told where the run is: what it computes may depend on the step."""

    def at_step(self, step: int) -> None:
        """Take the number of steps made before the one that begins."""


@dataclass(frozen=True)
class Updater:
    """Makes updates, each a function of the weights, the optimiser, its batches and its number.

    Attributes:
        model: The network, wrapped where there are several processes.
        loss: See `fit`.
        optimiser: Of the network's parameters.
        config: The run's configuration.
        accelerator: Knows the other processes.
        device: Where the network is.
    """

    model: nn.Module
    loss: Loss
    optimiser: Optimizer
    config: TrainingConfig
    accelerator: Accelerator
    device: torch.device

    def __call__(self, step: int, batches: Iterator[Any]) -> Row:
        """Make the update that follows `step` updates; return what it measured.

        Raises:
            InputError: The loss or the gradient's norm is not finite; nothing was updated.
        """
        optimisation = self.config.optimisation
        self.optimiser.zero_grad(set_to_none=True)
        told: object = self.loss  # a function, or an object that is called
        if isinstance(told, KnowsStep):
            told.at_step(step)
        values = self._gradients(step, batches)
        if optimisation.clip_norm is not None:
            values["gradient_norm"] = clip_gradients(
                self.model.parameters(), optimisation.clip_norm
            )
        row = self._mean_over_processes(values)
        _refuse_non_finite(row, step + 1)
        set_rates(self.optimiser, rate_factor(step, self.config.steps, optimisation))
        self.optimiser.step()
        rate = float(self.optimiser.param_groups[0]["lr"])
        return {"step": step + 1, "loss": row.pop("loss"), "rate": rate, **row}

    def _gradients(self, step: int, batches: Iterator[Any]) -> dict[str, Tensor]:
        """Leave the mean gradient of the step's batches; return the means of what was measured."""
        from accelerate.utils import send_to_device

        accumulate = self.config.accumulate
        means: dict[str, Tensor] = {}
        for turn in range(accumulate):
            batch = send_to_device(next(batches), self.device, non_blocking=True)
            self._seed(step * accumulate + turn)
            last = turn == accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                values = self._measure(batch)
                (values["loss"] / accumulate).backward()
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + value.detach().float() / accumulate
        return means

    def _seed(self, batch: int) -> None:
        """Seed what the forward pass of a batch draws from."""
        process = self.accelerator.process_index
        seed_generators(derive(self.config.seed, "step", batch, process), self.device)

    def _measure(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss of a batch, and what else the caller's function gives."""
        lower = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            answer = self.loss(self.model, batch)
        loss, others = answer if isinstance(answer, tuple) else (answer, {})
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            raise InputError(
                f"the loss function returned {_describe(loss)}: return the batch's mean loss, a"
                " tensor of shape () that depends on the network's parameters"
            )
        logged = {
            name: torch.as_tensor(value, device=self.device)
            for name, value in checked_names(others).items()
        }
        return {**logged, "loss": loss}

    def _mean_over_processes(self, values: dict[str, Tensor]) -> Row:
        """Return the values as numbers; waits for the device, once a step."""
        together = torch.stack([value.float() for value in values.values()])
        together = self.accelerator.reduce(together, "mean")
        return dict(zip(values, together.tolist(), strict=True))


def adamw(module: nn.Module, optimisation: Optimisation) -> AdamW:
    """Return AdamW over the parameter groups of `module`, which must be on its device."""
    groups = parameter_groups(module, optimisation.weight_decay)
    fusible = all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")
        for group in groups
        for parameter in group["params"]
    )
    # One kernel for all parameters: on a CPU several times as fast for small networks. Where
    # there is none, torch chooses.
    fused = fusible or None
    return AdamW(groups, lr=optimisation.learning_rate, betas=optimisation.betas, fused=fused)


def checked_names(values: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return values to log, none of which has a name that the loop itself gives.

    Raises:
        InputError: One has.
    """
    for name in values:
        if name in RESERVED:
            raise InputError(f"{name!r} is logged by the loop itself: log yours by another name")
    return values


def describe_optimiser(optimiser: Optimizer) -> dict[str, Any]:
    """Return an optimiser's kind and options, JSON-able, as they were before the first step."""
    groups = {}
    for number, group in enumerate(optimiser.param_groups):
        options = {name: group[name] for name in group if name not in CHANGING}
        groups[str(number)] = {
            **{name: v if isinstance(v, PLAIN) else str(v) for name, v in options.items()},
            "lr": highest_rate(group),
            "parameters": len(group["params"]),
        }
    return {"type": type(optimiser).__name__, "groups": groups}


def _refuse_non_finite(row: Row, step: int) -> None:
    """Stop a run whose loss or gradient is not finite."""
    for name, words in (("loss", "loss"), ("gradient_norm", "gradient's norm")):
        if not math.isfinite(row.get(name, 0.0)):
            raise InputError(
                f"the {words} is {row[name]} at step {step}: give a lower learning_rate, a"
                " longer warm-up or a clip_norm; the weights of the step before are kept"
            )


def _describe(value: Any) -> str:
    """Return what a value is, in a few words."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    constant = "" if value.requires_grad else " that depends on no parameter"
    return f"a tensor of shape {tuple(value.shape)}{constant}"
