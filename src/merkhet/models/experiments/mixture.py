"""The mixture of networks that comes with merkhet."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import cast

from torch import nn

from merkhet import data
from merkhet.cnmm.commands.examples import Examples, Source
from merkhet.cnmm.estimators import Recipe, train_mixture
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.objective import Schedule
from merkhet.models.experiments.shipping import FASHION, LICENCE, filled, ship, timed
from merkhet.models.registry import Spec
from merkhet.models.shipped import Card
from merkhet.report import Trial, experiment
from merkhet.training import Running, accuracy

NAME = "fashion-cnmm"
SPEC = Spec(
    "cnmm_multiscale",
    {
        **{"in_channels": 1, "classes": 10, "channels": [16, 32, 64]},
        **{"nodes": [0, 0, 0, 1, 1, 1, 2, 2, 2], "stride": 2, "seed": 0},
    },
)
TURNS = {"mixture_every": 16, "starts": 4, "draws": 1}
RECIPES = {
    "small": Recipe(epochs=5, rate=8e-3, batch_size=128),
    "full": Recipe(epochs=30, rate=8e-3, batch_size=128),
}


@experiment
def fashion_cnmm(trial: Trial) -> None:
    """Train the mixture of 256 networks on Fashion-MNIST that comes with merkhet."""
    recipe = RECIPES[trial.size]
    source = Source(FASHION, "classification", None, None, 0)
    examples = source.examples()
    trial.record.seeds = [0]
    trial.record.settings = {
        "network": dataclasses.asdict(SPEC),
        "recipe": dataclasses.asdict(recipe),
        "schedule": TURNS,
        "pictures": len(examples.train),
    }
    found = trial.step("training", partial(timed, partial(_train, recipe, examples)))
    model = filled(SPEC.build(), found["weights"])
    card = _card(model, found["seconds"], recipe, examples, source)
    ship(trial, NAME, model, card, minutes=6)
    trial.record.notes = card.training


def _train(recipe: Recipe, examples: Examples) -> nn.Module:
    """Return the mixture, trained."""
    model = cast("CNMM", SPEC.build())
    running = Running(progress=False)
    train_mixture(model, examples.train, recipe, Schedule(**TURNS), running=running)
    return model


def _card(
    model: nn.Module, seconds: float, recipe: Recipe, examples: Examples, source: Source
) -> Card:
    """Return what the mixture says of itself."""
    test = data.load(FASHION, "test")
    return Card(
        summary="a mixture of 256 small CNNs on Fashion-MNIST; as it stands, the whole mixture",
        spec=SPEC,
        data=FASHION,
        examples=len(examples.train),
        score_of="accuracy",
        score=accuracy(model, test),
        training=f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} of "
        f"{len(examples.train):,} training pictures in batches of {recipe.batch_size}; a tenth "
        "of the training pictures was left out, by which `merkhet cnmm points` chooses. The score "
        "is the mixture's on the 10,000 test pictures.",
        seconds=seconds,
        licence=LICENCE,
        about={
            **{key: value for key, value in dataclasses.asdict(source).items() if key != "data"},
            "classes": list(examples.classes),
            "schedule": TURNS,
        },
    )
