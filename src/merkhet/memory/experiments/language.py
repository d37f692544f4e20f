"""One language model, trained and judged in the same way by every experiment."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merkhet import data
from merkhet.core.intervals import student
from merkhet.core.modes import evaluating
from merkhet.memory import RowwiseAdam, Together, parameter_groups, usage
from merkhet.memory.networks import memory_transformer, next_token_loss
from merkhet.models import Transformer
from merkhet.report import Trial
from merkhet.training import Optimisation, TrainingConfig, fit

TEXT = "python"
NATS = "nats a token"
Outcome = dict[str, float]


@dataclass(frozen=True)
class Language:
    """The text, the network's size and the training that models of one experiment share.

    Attributes:
        width: Of the states.
        layers: Of the model with the memory.
        place: Block with the memory, from 0.
        memory: Options of the memory that stay as they are.
        vocabulary: Tokens.
        context: Tokens of a window.
        batch: Windows of a step.
        steps: Steps of training.
        held_out: Windows of the test split that the loss is measured on.
        seeds: How many seeds, of weights and order of the data.
        rate: Of AdamW, for all but the values.
        value_rate: Of RowwiseAdam, for the values.
    """

    width: int
    layers: int
    place: int
    memory: dict[str, int]
    vocabulary: int = 2048
    context: int = 128
    batch: int = 8
    steps: int = 200
    held_out: int = 200
    seeds: int = 3
    rate: float = 2e-3
    value_rate: float = 1e-2

    def note(self, trial: Trial) -> None:
        """Write into a trial's record what was chosen."""
        trial.record.seeds = list(range(self.seeds))
        trial.record.settings = {"data": TEXT, **asdict(self)}

    def without_memory(self, layers: int, seed: int) -> Transformer:
        """Return a fresh model without a memory."""
        return Transformer(self.vocabulary, self.width, layers, seed=seed)

    def with_memory(
        self,
        seed: int,
        *,
        places: tuple[int, ...] | None = None,
        mode: str = "beside",
        **options: Any,
    ) -> Transformer:
        """Return a fresh model with memories, at the usual place and of the usual options."""
        return memory_transformer(
            self.vocabulary,
            self.width,
            self.layers,
            places=(self.place,) if places is None else places,
            mode=mode,
            memory={**self.memory, **options},
            seed=seed,
        )

    def windows(self, split: str) -> data.TokenWindows:
        """Return the windows of a split."""
        return data.load_text(TEXT, self.vocabulary, self.context, split)


# What most experiments train; the rate is the best of 5e-4, 1e-3, 2e-3, 4e-3 for the small model
# without memory, by its loss on the validation split.
LANGUAGES = {
    "small": Language(width=128, layers=4, place=2, memory={"key_dim": 64}),
    "full": Language(
        width=1024,
        layers=12,
        place=7,
        memory={"key_dim": 256},
        vocabulary=8192,
        context=512,
        batch=64,
        steps=20_000,
        held_out=1000,
        rate=5e-4,
    ),
}


def train(language: Language, network: nn.Module, seed: int) -> Outcome:
    """Train a model; return its held-out loss and, if it has memories, how they are used."""
    groups = parameter_groups(network)
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(groups["others"], language.rate)
    if groups["values"]:
        optimiser = Together(optimiser, RowwiseAdam(groups["values"], language.value_rate))
    optimisation = Optimisation(warmup_steps=language.steps // 10, clip_norm=1.0)
    config = TrainingConfig(language.steps, language.batch, seed=seed, optimisation=optimisation)
    fit(network, language.windows("train"), next_token_loss, config, optimiser=optimiser)
    batches = _held_out(language, next(network.parameters()).device)
    with evaluating(network):
        losses = [(float(next_token_loss(network, batch)), batch[0].numel()) for batch in batches]
    loss = sum(value * count for value, count in losses) / sum(n for _, n in losses)
    if not groups["values"]:
        return {"loss": loss}
    found = usage(network, [tokens for tokens, _ in batches])
    figures = [used.figures() for used in found.values()]
    return {"loss": loss} | {
        name: statistics.mean(one[name] for one in figures) for name in figures[0]
    }


def over_seeds(
    trial: Trial, language: Language, name: str, build: Callable[[int], nn.Module]
) -> list[Outcome]:
    """Train one kind of model with every seed, and write means and intervals into the record.

    Args:
        trial: Of the experiment.
        language: What all its models share.
        name: Of this kind, in the record.
        build: Returns the model for a seed.
    """
    found = [
        trial.step(f"{name}, seed {seed}", partial(_trained, language, build, seed))
        for seed in range(language.seeds)
    ]
    for what in found[0]:
        values = [one[what] for one in found]
        unit = NATS if what == "loss" else ""
        trial.figure(f"{what}, {name}", statistics.mean(values), unit, student(values))
    return found


def compare(trial: Trial, name: str, one: Sequence[Outcome], other: Sequence[Outcome]) -> None:
    """Write the difference in loss of two kinds of models into the record, paired by seeds."""
    found = [a["loss"] - b["loss"] for a, b in zip(one, other, strict=True)]
    trial.figure(f"loss, {name}", statistics.mean(found), NATS, student(found))


def _trained(language: Language, build: Callable[[int], nn.Module], seed: int) -> Outcome:
    """Build and train: the network is made where the step is run, and nowhere else."""
    return train(language, build(seed), seed)


def _held_out(language: Language, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return batches of the test split, the same ones for every model."""
    windows = language.windows("test")
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    batches = (windows.batch(part) for part in order[: language.held_out].split(language.batch))
    return [(tokens.to(device), targets.to(device)) for tokens, targets in batches]
