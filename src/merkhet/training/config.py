"""What a run is told: its steps and batches, its optimisation, and how it is looked after."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Self

from merkhet.core.errors import InputError, choose

SCHEDULES = ("constant", "cosine")
PRECISIONS = ("bf16", "no")


@dataclass(frozen=True)
class Optimisation:
    """How fast to learn, and what holds the weights and the gradients back.

    An optimiser that the caller brings has its own rates, weight decay and betas; the
    schedule and `clip_norm` apply to it all the same.

    Attributes:
        learning_rate: Highest rate of AdamW.
        weight_decay: Decoupled decay of matrices and convolution kernels.
        betas: AdamW's decay rates of the first and second moments.
        warmup_steps: Steps in which the rate rises linearly to its highest.
        schedule: "cosine" falls after the warm-up, "constant" stays.
        final_fraction: The fraction of the rate at which "cosine" ends.
        clip_norm: Largest global norm of the gradient, or None for any.

    Raises:
        InputError: A value is out of its range.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: str = "cosine"
    final_fraction: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check_number("learning_rate", self.learning_rate)
        _check_number("weight_decay", self.weight_decay)
        _check_betas(self.betas)
        _check_count("warmup_steps", self.warmup_steps, 0)
        choose("schedule", self.schedule, SCHEDULES)
        _check_number("final_fraction", self.final_fraction, highest=1.0)
        if self.clip_norm is not None:
            _check_number("clip_norm", self.clip_norm, above=True)


@dataclass(frozen=True)
class Running:
    """How a run is looked after; nothing here changes which steps it takes.

    So these may differ between a run and its resumption. (Another device rounds
    differently, though.)

    Attributes:
        save_every: Steps between checkpoints; None saves only when interrupted.
        keep: How many checkpoints to keep, the newest ones.
        log_every: Steps between lines told to the caller and to the tracker.
        tracker: A tracker that accelerate knows ("tensorboard", "wandb"), or None.
        workers: Processes that fetch batches ahead; 0 fetches in the training process.
        cpu: Stay on the CPU even where there is an accelerator.
        progress: Show a bar, where standard error is a terminal.

    Raises:
        InputError: A value is out of its range.
    """

    save_every: int | None = None
    keep: int = 2
    log_every: int = 10
    tracker: str | None = None
    workers: int = 0
    cpu: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.save_every is not None:
            _check_count("save_every", self.save_every, 1)
        _check_count("keep", self.keep, 1)
        _check_count("log_every", self.log_every, 1)
        _check_count("workers", self.workers, 0)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    A step sees `batch_size * accumulate` examples in each process.

    Attributes:
        steps: Updates of the weights.
        batch_size: Examples in one forward pass of one process.
        accumulate: Forward passes whose mean gradient makes one step.
        drop_last: How an epoch ends whose examples do not fill its last step: False lets
            that step run on into the next epoch, so that no example is ever left out;
            True leaves the rest out, other examples in each epoch.
        precision: "no" computes in the weights' own dtype, "bf16" by autocast in bfloat16.
        seed: What the order of the examples and all randomness in the steps depend on.
        optimisation: Rates, decay, clipping.
        running: Checkpoints, logging, devices.

    Raises:
        InputError: A value is out of its range.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    drop_last: bool = False
    precision: str = "no"
    seed: int = 0
    optimisation: Optimisation = field(default_factory=Optimisation)
    running: Running = field(default_factory=Running)

    def __post_init__(self) -> None:
        _check_count("steps", self.steps, 1)
        _check_count("batch_size", self.batch_size, 1)
        _check_count("accumulate", self.accumulate, 1)
        _check_count("seed", self.seed, 0)
        choose("precision", self.precision, PRECISIONS)
        if self.optimisation.warmup_steps > self.steps:
            raise InputError(
                f"warmup_steps = {self.optimisation.warmup_steps} is more than all the"
                f" {self.steps} steps: give at most {self.steps}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as dicts, lists, numbers and strings, as JSON holds it."""
        fields = dataclasses.asdict(self)
        fields["optimisation"]["betas"] = list(self.optimisation.betas)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the configuration that `to_dict` wrote.

        Raises:
            InputError: A field is unknown, absent or out of its range.
        """
        fields = dict(fields)
        optimisation = dict(fields.pop("optimisation", {}))
        if "betas" in optimisation:
            optimisation["betas"] = tuple(optimisation["betas"])
        running = fields.pop("running", {})
        try:
            return cls(
                **fields, optimisation=Optimisation(**optimisation), running=Running(**running)
            )
        except TypeError as error:
            raise InputError(f"these are not the fields of a TrainingConfig: {error}") from error


def flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _check_count(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} = {value!r}: give a whole number of at least {least}")


def _check_number(
    name: str, value: object, *, highest: float = math.inf, above: bool = False
) -> None:
    """Refuse what is not a finite number from 0 (or, with `above`, above it) to `highest`."""
    match value:
        case int() | float() if not isinstance(value, bool) and math.isfinite(value):
            if 0 <= value <= highest and not (above and value == 0):
                return
    least = "above 0" if above else "of at least 0"
    limit = f" and at most {highest:g}" if math.isfinite(highest) else ""
    raise InputError(f"{name} = {value!r}: give a number {least}{limit}")


def _check_betas(betas: object) -> None:
    """Refuse what is not two numbers in [0, 1)."""
    match betas:
        case (float() | int() as first, float() | int() as second):
            if 0 <= first < 1 and 0 <= second < 1:
                return
    raise InputError(f"betas = {betas!r}: give two numbers in [0, 1), such as (0.9, 0.999)")
