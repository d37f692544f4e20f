"""What every training here leaves: the network's folder, and its figures in the record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from merkhet import data
from merkhet.models.shipped import Card, write_card
from merkhet.models.shipped.card import TOKENIZER, WEIGHTS
from merkhet.models.weights import save_weights
from merkhet.report import Trial

VALIDATION = 5000  # the last training pictures: for choices, nothing is trained on them
LARGEST = 5e6  # bytes of a network's files
FASHION = "fashion-mnist"
LICENCE = "Fashion-MNIST: MIT, Copyright 2017 Zalando SE; these weights: Apache-2.0, as merkhet"


def pictures() -> tuple[data.Pictures, data.Pictures]:
    """Return Fashion-MNIST's pictures to train on, and others to choose by."""
    whole = data.load(FASHION, "train")
    kept = len(whole) - VALIDATION
    return whole.subset(range(kept)), whole.subset(range(kept, len(whole)))


def timed(train: Callable[[], nn.Module]) -> dict[str, Any]:
    """Return the weights of a network that was trained, and the processor seconds of that.

    Args:
        train: Builds and trains the network.
    """
    started = time.process_time()
    network = train()
    spent = time.process_time() - started
    return {"weights": dict(network.state_dict()), "seconds": spent}


def filled(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Return a network with weights (of any shapes, by name), in evaluation mode."""
    network.load_state_dict(weights)
    return network.eval()  # before its score, which is that of the weights as they are kept


def ship(
    trial: Trial,
    name: str,
    network: nn.Module,
    card: Card,
    *,
    minutes: float,
    tokenizer: data.Tokenizer | None = None,
) -> None:
    """Write a network's folder beside the record, and its figures into it.

    Args:
        trial: Of the experiment.
        name: Of the network.
        network: With its final weights.
        card: What it says of itself; how it was made is filled in here.
        minutes: Of one core, that its training may take.
        tokenizer: A language model's.
    """
    folder, record = trial.folder / name, trial.record
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / WEIGHTS)
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
    made = dataclasses.replace(
        card,
        command=record.command,
        commit=record.commit,
        started=record.started,
        versions=record.versions,
    )
    write_card(made, folder)
    _tell(trial, name, card, folder, minutes)


def _tell(trial: Trial, name: str, card: Card, folder: Path, minutes: float) -> None:
    """Write score, time and size into the record."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    spent = card.seconds / 60
    trial.record.figures[f"{name}: test {card.score_of}"] = card.score
    trial.figure(f"{name}: files", size / 1e6, "MB")
    trial.figure(f"{name}: training, one core", spent, "min")
    trial.goal(f"{name}: files, MB", "below 5", round(size / 1e6, 2), size < LARGEST)
    if trial.size == "small":
        goal = f"{name}: training, minutes of one core"
        trial.goal(goal, f"{minutes:g} or less", round(spent, 2), spent <= minutes)
