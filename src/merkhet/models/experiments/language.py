"""The small language model with a product-key memory that comes with merkhet."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from merkhet import data
from merkhet.memory import RowwiseAdam, Together, parameter_groups, usage
from merkhet.memory.networks import next_token_loss
from merkhet.models.experiments.shipping import filled, ship, timed
from merkhet.models.registry import Spec
from merkhet.models.shipped import Card
from merkhet.report import Figure, Trial, experiment
from merkhet.training import Optimisation, Running, TrainingConfig, fit, perplexity

NAME = "python-memory"
TEXT, VOCABULARY, CONTEXT = "python", 1024, 128
WINDOWS = 400  # of validation and of test text that perplexity is measured on
LICENCE = (
    "Python's standard library: Python Software Foundation License 2; these weights: Apache-2.0, "
    "as merkhet"
)


@dataclass(frozen=True)
class Plan:
    """A model and its training.

    Attributes:
        spec: The model.
        steps: Of training.
        batch: Windows of a step.
        rates: Of the network, of which one is chosen after `trial_steps` on validation text.
        trial_steps: Steps that each of them is tried for.
        value_rate: Of the memory's values.
    """

    spec: Spec
    steps: int
    batch: int
    rates: tuple[float, ...]
    trial_steps: int
    value_rate: float = 1e-2


def spec(dim: int, layers: int, subkeys: int) -> Spec:
    """Return how a model is built: its width, blocks, and sub-keys of the memory."""
    memory = {"num_subkeys": subkeys, "key_dim": dim // 2, "top_k": 16}
    arguments = {"dim": dim, "layers": layers, "places": [layers // 2], "memory": memory, "seed": 0}
    return Spec("memory_transformer", {"vocab_size": VOCABULARY, **arguments})


PLANS = {
    "small": Plan(spec(96, 4, 64), 700, 8, (2e-3, 4e-3), 100),
    "full": Plan(spec(96, 4, 64), 20_000, 32, (1e-3, 2e-3, 4e-3), 1000),
}


@experiment
def python_memory(trial: Trial) -> None:
    """Train the language model with a memory on Python's library that comes with merkhet."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {"data": TEXT, "context": CONTEXT, **dataclasses.asdict(plan)}
    tried = {rate: trial.step(f"rate {rate}", partial(_tried, plan, rate)) for rate in plan.rates}
    for rate, found in tried.items():
        trial.figure(f"validation perplexity, rate {rate:g}", found["perplexity"])
    best = min(plan.rates, key=lambda rate: tried[rate]["perplexity"])
    found = trial.step("training", partial(timed, partial(_train, plan, best, plan.steps)))
    network = filled(plan.spec.build(), found["weights"])
    spent = found["seconds"] + sum(one["seconds"] for one in tried.values())
    card = _card(trial, network, plan, best, spent)
    tokenizer = _windows("train").file.tokenizer()
    ship(trial, NAME, network, card, minutes=5, tokenizer=tokenizer)
    trial.record.notes = card.training


def _tried(plan: Plan, rate: float) -> dict[str, Any]:
    """Return the perplexity on validation text after a short training, and its seconds."""
    found = timed(partial(_train, plan, rate, plan.trial_steps))
    network = filled(plan.spec.build(), found["weights"])
    return {
        "perplexity": perplexity(network, Subset(*_drawn("validation"))).value,
        "seconds": found["seconds"],
    }


def _train(plan: Plan, rate: float, steps: int) -> nn.Module:
    """Return the model, trained."""
    network = plan.spec.build()
    groups = parameter_groups(network)
    values = RowwiseAdam(groups["values"], plan.value_rate)
    config = TrainingConfig(
        steps,
        plan.batch,
        optimisation=Optimisation(warmup_steps=steps // 10, clip_norm=1.0),
        running=Running(progress=False),
    )
    optimiser = Together(torch.optim.AdamW(groups["others"], rate), values)
    fit(network, _windows("train"), next_token_loss, config, optimiser=optimiser)
    return network


def _windows(split: str) -> data.TokenWindows:
    """Return the windows of a split."""
    return data.load_text(TEXT, VOCABULARY, CONTEXT, split)


def _drawn(split: str) -> tuple[data.TokenWindows, list[int]]:
    """Return the windows of a split, and which of them are looked at, drawn once."""
    windows = _windows(split)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    return windows, order[:WINDOWS].tolist()


def _card(trial: Trial, network: nn.Module, plan: Plan, rate: float, seconds: float) -> Card:
    """Return what the model says of itself; write the use of its memory into the record."""
    windows, chosen = _drawn("test")
    batches = (windows.batch(part)[0] for part in torch.tensor(chosen).split(16))
    (used,) = usage(network, batches).values()
    trial.figure("slots of the memory that test text uses", used.used)
    score = perplexity(network, Subset(windows, chosen))
    return Card(
        summary="a language model of 4 blocks with a product-key memory of 4,096 slots, on the "
        "source of Python's standard library",
        spec=plan.spec,
        data=TEXT,
        examples=len(_windows("train")),
        score_of="perplexity",
        score=Figure(score.value, "a token", score.interval),
        training=f"{plan.steps:,} steps of {plan.batch} windows of {CONTEXT} tokens, from the "
        f"source of the standard library of Python {platform.python_version()}; rate {rate:g} of "
        f"the network, chosen on validation text, {plan.value_rate:g} of the values. The score is "
        f"that of {WINDOWS} windows of test text (other files), in its own tokenizer's tokens.",
        seconds=seconds,
        licence=LICENCE,
        about={"vocabulary": VOCABULARY, "context": CONTEXT},
    )
