"""Training a classifier under penalties and constraints, as the paper does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, TensorDataset

from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError, choose
from merkhet.rkhs.penalty import Penalty, is_from_zero, regularised_loss

if TYPE_CHECKING:
    from merkhet.data import Pictures
    from merkhet.training import Running, TrainingResult

MOMENTUM = 0.9
OPTIMISERS = ("adamw", "sgd")

Constraint = Callable[[nn.Module, int], Mapping[str, float] | None]
Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a classifier learns.

    `PAPER` is the paper's: SGD, batches of 128, 500 epochs at a rate of 0.05 halved every 40.

    Attributes:
        epochs: Passes over the data.
        steps: Updates, in place of epochs; None goes by the epochs.
        rate: The highest learning rate.
        weight_decay: Decay of matrices and convolution kernels.
        batch_size: Examples of a step; all where there are fewer.
        optimiser: "sgd", with momentum 0.9 and halvings, or "adamw", whose rate rises over a
            tenth of the steps and falls along a cosine.
        halvings: How often SGD's rate is halved, at even distances.
        seed: Of the order of the examples and of all randomness in the steps.

    Raises:
        InputError: A value is out of its range.
    """

    epochs: int = 20
    steps: int | None = None
    rate: float = 4e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    optimiser: str = "adamw"
    halvings: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size)
        check_positive(rate=self.rate)
        if self.steps is not None:
            check_counts(steps=self.steps)
        for name, value in (("halvings", self.halvings), ("seed", self.seed)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{name} = {value!r}: give a whole number from 0 on")
        if not is_from_zero(self.weight_decay):
            raise InputError(f"weight_decay = {self.weight_decay!r}: give a number from 0 on")
        choose("optimiser", self.optimiser, OPTIMISERS)

    def steps_for(self, count: int) -> int:
        """Return the updates that `count` examples make."""
        return self.steps or self.epochs * -(-count // self.batch_size)


PAPER = Recipe(epochs=500, rate=0.05, batch_size=128, optimiser="sgd")


def train_classifier(
    model: nn.Module,
    data: Pictures | Dataset[Any] | tuple[Tensor, Tensor],
    penalty: Penalty | None = None,
    constraint: Constraint | None = None,
    *,
    recipe: Recipe | None = None,
    transform: Transform | None = None,
    folder: Path | str | None = None,
    spec: Mapping[str, Any] | None = None,
    running: Running | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a network in place: cross-entropy, plus a penalty, under a constraint.

    With a folder, the same call goes on where an earlier one stopped.

    Args:
        model: From inputs (batch, ...) to logits (batch, classes).
        data: Labelled pictures, pairs (input, label), or inputs (n, ...) with labels (n,).
        penalty: Added to the loss, or None.
        constraint: Called with the network and the number of steps made after each of them,
            such as a `SpectralConstraint`, or None.
        recipe: How long and how fast; by default `Recipe()`.
        transform: Of the inputs (batch, ...) of each training step, such as augmentation or
            deformed copies; may draw from torch's global generator.
        folder: Where the run is kept; None keeps nothing.
        spec: How the network and the data are made, JSON-able, for the folder.
        running: How the run is looked after.
        tell: Called with a line of progress now and then.

    Raises:
        InputError: The data has no labels, a value is out of range, the loss is not finite, or
            the folder holds another run.
    """
    from merkhet.training import Optimisation, Running, TrainingConfig, fit

    recipe = Recipe() if recipe is None else recipe
    _check_parts(recipe, constraint, transform)
    dataset = _dataset(data)
    count: int = len(dataset)  # type: ignore[arg-type]
    steps = recipe.steps_for(count)
    sgd = recipe.optimiser == "sgd"
    config = TrainingConfig(
        steps,
        min(recipe.batch_size, count),
        seed=recipe.seed,
        optimisation=Optimisation(
            recipe.rate,
            recipe.weight_decay,
            warmup_steps=0 if sgd else steps // 10,
            schedule="constant" if sgd else "cosine",
        ),
        running=running or Running(save_every=max(1, steps // 5)),
    )
    optimiser = _sgd(model, recipe) if sgd else None
    return fit(
        model,
        dataset,
        _loss(penalty, transform),
        config,
        folder=folder,
        optimiser=optimiser,
        after_step=_after_step(constraint, optimiser, recipe.halvings, steps),
        spec={**(spec or {}), **_about(penalty, constraint, recipe)},
        tell=tell,
    )


def _check_parts(recipe: object, constraint: object, transform: object) -> None:
    """Refuse what is not of the kind that a run is made of."""
    if not isinstance(recipe, Recipe):
        raise InputError(f"recipe = {recipe!r}: give a Recipe, such as Recipe(epochs=20)")
    for name, part in (("constraint", constraint), ("transform", transform)):
        if part is not None and not callable(part):
            raise InputError(f"{name} = {part!r}: give a function, or None")


def _dataset(data: Pictures | Dataset[Any] | tuple[Tensor, Tensor]) -> Dataset[Any]:
    """Return pairs of input and label; pictures as bytes, which the loss makes floats."""
    from merkhet.data import Pictures

    if isinstance(data, Pictures):
        if data.labels is None:
            raise InputError(f"{data.name} has no labels: give pictures in a folder for each class")
        return TensorDataset(data.images, data.labels)
    if isinstance(data, Tensor):
        raise InputError("the data is one tensor: give (inputs, labels), two tensors")
    if not isinstance(data, tuple | list):
        return data
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise InputError(f"data = ({kinds}): give (inputs, labels), two tensors")
    inputs, labels = data
    if labels.shape != inputs.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} for {len(inputs)} inputs: "
            f"give int64 ({len(inputs)},)"
        )
    if not len(inputs):
        raise InputError("there are no examples to train on: give one or more")
    return TensorDataset(inputs, labels.long())


def _sgd(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the paper's optimiser."""
    from merkhet.training import parameter_groups

    groups = parameter_groups(model, recipe.weight_decay)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=MOMENTUM)


def _loss(penalty: Penalty | None, transform: Transform | None) -> Callable[..., Any]:
    """Return the loss of a batch in the form that `fit` takes."""
    plain = regularised_loss(penalty)

    def loss(module: nn.Module, batch: Any) -> Any:
        inputs, labels = batch
        if inputs.dtype == torch.uint8:  # as merkhet.data keeps pictures
            inputs = inputs.float().div_(255)
        if transform is not None:
            inputs = transform(inputs)
        return plain(module, (inputs, labels))

    return loss


def _about(
    penalty: Penalty | None, constraint: Constraint | None, recipe: Recipe
) -> dict[str, Any]:
    """Return what a run depends on that the loop does not know of, for the run's folder."""
    return {
        "penalty": _name_of(penalty),
        "constraint": _name_of(constraint),
        "halvings": recipe.halvings if recipe.optimiser == "sgd" else None,
    }


def _name_of(part: object) -> str | None:
    """Return how a part shows itself, or its type where that would name a place in memory."""
    if part is None:
        return None
    shown = repr(part)
    return type(part).__name__ if " at 0x" in shown else shown


def _after_step(
    constraint: Constraint | None, optimiser: Optimizer | None, halvings: int, steps: int
) -> Constraint:
    """Return what follows a step: the constraint, and the rate of the next step.

    The rate is a function of the number of steps alone, so that a run goes on as it was.
    """
    groups = [] if optimiser is None else optimiser.param_groups
    highest = [float(group["lr"]) * group.get("rate", 1.0) for group in groups]

    def after(module: nn.Module, step: int) -> Mapping[str, float] | None:
        logged = None if constraint is None else constraint(module, step)
        if optimiser is not None:
            factor = 0.5 ** (step * (halvings + 1) // steps)
            for group, rate in zip(optimiser.param_groups, highest, strict=True):
                group["initial_lr"] = rate * factor  # what the loop's schedule is a part of
        return logged

    return after
