"""Training a mixture on pictures with labels, or with a label for every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from merkhet.cnmm.costs import count_costs
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.objective import Objective, Schedule
from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError

if TYPE_CHECKING:
    from merkhet.training import Running, TrainingResult

IGNORED = -100
COLLAPSED = 0.05  # of the highest entropy


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a mixture learns.

    Attributes:
        epochs: Passes over the data.
        rate: AdamW's highest rate; it rises over a tenth of the steps and falls along a cosine.
        weight_decay: Decay of matrices and convolution kernels; gates never decay.
        batch_size: Examples of a step; all where there are fewer.
        seed: Of the order of the examples and of the networks that are drawn.

    Raises:
        InputError: A value is out of its range.
    """

    epochs: int = 10
    rate: float = 4e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size)
        check_positive(rate=self.rate)
        if not (isinstance(self.weight_decay, int | float) and 0 <= self.weight_decay < math.inf):
            raise InputError(f"weight_decay = {self.weight_decay!r}: give a number from 0 on")

    def steps_for(self, count: int) -> int:
        """Return the updates that `count` examples make."""
        return self.epochs * -(-count // self.batch_size)


def train_mixture(
    model: CNMM,
    data: Dataset[Any],
    recipe: Recipe | None = None,
    schedule: Schedule | None = None,
    *,
    ignore: int | None = None,
    folder: Path | str | None = None,
    spec: Mapping[str, Any] | None = None,
    running: Running | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a mixture in place: all its networks at once.

    With a folder, the same call goes on where an earlier one stopped.

    Args:
        model: The mixture.
        data: Pairs: a picture (channels, height, width) and its class, or its mask
            (height, width) of classes.
        recipe: How long and how fast; by default `Recipe()`.
        schedule: What each step trains; by default `Schedule()`.
        ignore: The label of pixels that count for nothing.
        folder: Where the run is kept; None keeps nothing.
        spec: How the network and the data are made, JSON-able, for the folder.
        running: How the run is looked after.
        tell: Called with a line of progress now and then.

    Raises:
        InputError: A class that the head does not have, masks without a pixel that counts, a
            value out of range, or a folder that holds another run.
    """
    from merkhet.training import Optimisation, Running, TrainingConfig, fit

    _check_data(data)
    recipe = recipe or Recipe()
    count: int = len(data)  # type: ignore[arg-type]
    steps = recipe.steps_for(count)
    example = data[0][0][None]
    objective = Objective(
        steps,
        Classes(IGNORED if ignore is None else ignore),
        count_costs(model, example.to(next(model.parameters()))),
        schedule,
    )
    config = TrainingConfig(
        steps,
        min(recipe.batch_size, count),
        seed=recipe.seed,
        optimisation=Optimisation(recipe.rate, recipe.weight_decay, warmup_steps=steps // 10),
        running=running or Running(save_every=max(1, steps // 5)),
    )
    result = fit(model, data, objective, config, folder=folder, spec=spec, tell=tell)
    _warn_of_collapse(model, tell)
    return result


class Classes:
    """Mean cross-entropy over pictures or pixels, with labels checked.

    Args:
        ignore: The label that counts for nothing.
    """

    def __init__(self, ignore: int = IGNORED) -> None:
        self.ignore = ignore

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            output: Logits, (batch, classes, ...).
            targets: int64, (batch, ...).

        Raises:
            InputError: A label beyond the head's classes, or a batch in which nothing counts.
        """
        counted = targets != self.ignore
        if not counted.any():
            raise InputError(
                f"a batch of masks that are all {self.ignore}, which counts for nothing: leave out "
                "pictures without labels, or take larger batches"
            )
        lowest, highest = (int(one) for one in targets[counted].aminmax())
        if highest >= output.shape[1] or lowest < 0:
            more = f"build it with classes={highest + 1}, or " if lowest >= 0 else ""
            raise InputError(
                f"labels from {lowest} to {highest}, and the head has {output.shape[1]} classes, "
                f"0 to {output.shape[1] - 1}: {more}name the label to ignore"
            )
        return F.cross_entropy(output, targets, ignore_index=self.ignore)


def _check_data(data: object) -> None:
    """Refuse tensors, where a data set of pairs is meant."""
    if isinstance(data, tuple | list | Tensor):
        raise InputError(
            f"data in a {type(data).__name__}: give a data set of pairs, such as "
            "torch.utils.data.TensorDataset(pictures, labels)"
        )


def _warn_of_collapse(model: CNMM, tell: Callable[[str], None] | None) -> None:
    """Say so where the gates have all but chosen one network."""
    gates = sum(len(logits) for logits in model.logits())
    if tell and gates and float(model.entropy().detach()) < COLLAPSED * gates * math.log(2):
        tell(
            "the gates have collapsed to one network: raise the schedule's entropy or frozen, or "
            "lower its cost"
        )
