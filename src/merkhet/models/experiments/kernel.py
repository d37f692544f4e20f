"""The convolutional kernel network that comes with merkhet."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from torch import nn

from merkhet import data
from merkhet.ckn import CKN, fit_head
from merkhet.models.experiments.shipping import FASHION, LICENCE, filled, pictures, ship, timed
from merkhet.models.registry import Spec
from merkhet.models.shipped import Card
from merkhet.report import Trial, experiment
from merkhet.training import accuracy

NAME = "fashion-ckn"
FILTERS = {"small": [32, 128], "full": [64, 256]}
PICTURES = {"small": 5_000, "full": 55_000}  # that the classifier is fitted to
PENALTIES = (1e-4, 1e-5, 1e-6)


def spec(size: str) -> Spec:
    """Return how the network is built, at a size of the experiment."""
    arguments: dict[str, Any] = {
        "in_channels": 1,
        "classes": 10,
        "size": [28, 28],
        "filters": FILTERS[size],
        "pooling": [2, 4],
        "seed": 0,
    }
    return Spec("ckn", arguments)


@experiment
def fashion_ckn(trial: Trial) -> None:
    """Fit the convolutional kernel network on Fashion-MNIST that comes with merkhet."""
    made, count = spec(trial.size), PICTURES[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {
        "network": dataclasses.asdict(made),
        "pictures": count,
        "penalties": list(PENALTIES),
    }
    found = trial.step("fit", partial(_fit, made, count))
    network = filled(made.build(), found["weights"])
    for penalty, share in found["validation"].items():
        trial.figure(f"validation accuracy, penalty {penalty}", share)
    card = _card(network, made, found, count)
    ship(trial, NAME, network, card, minutes=4)
    trial.record.notes = card.training


def _fit(made: Spec, count: int) -> dict[str, Any]:
    """Return the weights, the penalty, what was held out for it, and processor seconds."""
    chosen: dict[str, Any] = {}

    def fit() -> nn.Module:
        train, held = pictures()
        some = train.sample(count, seed=0)
        network = made.build()
        representation = network.get_submodule("representation")
        assert isinstance(representation, CKN)
        representation.fit_unsupervised(some.images, seed=0, progress=False)
        features, others = (representation.encode(part.images).flatten(1) for part in (some, held))
        assert some.labels is not None
        assert held.labels is not None
        head = fit_head(
            features, some.labels, 10, penalty=PENALTIES, held_out=(others, held.labels)
        )
        tried = zip(head.penalties, head.accuracies, strict=True)
        chosen["penalty"] = head.penalty
        chosen["validation"] = {f"{penalty:g}": share for penalty, share in tried}
        network.get_submodule("head").load_state_dict(head.linear.state_dict())
        return network

    return timed(fit) | chosen


def _card(network: nn.Module, made: Spec, found: dict[str, Any], count: int) -> Card:
    """Return what the network says of itself."""
    test = data.load(FASHION, "test")
    return Card(
        summary="a convolutional kernel network of two layers on Fashion-MNIST, filters fitted "
        "without labels, with a linear classifier",
        spec=made,
        data=FASHION,
        examples=count,
        score_of="accuracy",
        score=accuracy(network, test),
        training=f"Filters by k-means on patches of {count:,} training pictures, without labels; a "
        "linear classifier of the representation by a convex solve, its penalty "
        f"({found['penalty']:g}) chosen on 5,000 other training pictures. The score is that of the "
        "10,000 test pictures.",
        seconds=found["seconds"],
        licence=LICENCE,
        about={"limit": count, "classes": list(test.classes)},
    )
