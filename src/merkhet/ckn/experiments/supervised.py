"""Training with labels, from filters fitted without: Fashion-MNIST, and CIFAR-10 reduced."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from merkhet import data
from merkhet.ckn import CKN, fit_head
from merkhet.ckn.networks import ckn_classifier, fine_tune
from merkhet.core.intervals import wilson
from merkhet.report import Trial, experiment
from merkhet.training import Running


@dataclasses.dataclass(frozen=True)
class Plan:
    """A data set, how much of it, a network and its training.

    Attributes:
        data: Its name.
        pictures: Of the training set.
        epochs: Passes over them.
        network: Arguments of `ckn_classifier`.
        target: Test accuracy in percent that is a goal, or None.
    """

    data: str
    pictures: int
    epochs: int
    network: dict[str, Any]
    target: float | None = None


FASHION = {"in_channels": 1, "size": (28, 28), "filters": (64, 256), "pooling": (2, 4)}
CIFAR = {"in_channels": 3, "size": (32, 32), "filters": (64, 256), "pooling": (2, 4)}
DEEP = {**CIFAR, "filters": (128, 128, 256), "pooling": (2, 2, 2)}
PLANS: dict[str, dict[str, Plan]] = {
    "small": {
        "Fashion-MNIST": Plan("fashion-mnist", 60000, 7, FASHION, 92.5),
        "CIFAR-10, 10,000 pictures": Plan("cifar10", 10000, 6, CIFAR),
    },
    "full": {
        "Fashion-MNIST": Plan("fashion-mnist", 60000, 60, FASHION, 92.5),
        "CIFAR-10": Plan("cifar10", 50000, 100, DEEP),
    },
}
BEGINNING, PENALTY = 10000, 1e-4  # pictures that the first head is fitted to, and its penalty


class Mirrored(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with labels, every other one mirrored, another choice each time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a picture (channels, height, width) as floats, and its label, a scalar."""
        picture = self.images[index].float() / 255
        return picture.flip(-1) if torch.rand(()) < 0.5 else picture, self.labels[index]


@experiment
def supervised(trial: Trial) -> None:
    """Training with labels, its start and its end: Fashion-MNIST, and CIFAR-10 reduced."""
    plans = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {name: dataclasses.asdict(plan) for name, plan in plans.items()}
    found = {name: trial.step(name, partial(_trained, plan)) for name, plan in plans.items()}
    for name, plan in plans.items():
        _report(trial, name, found[name])
        if plan.target is not None:
            _goals(trial, name, plan.target, found[name])
    trial.record.notes = (
        "Filters are fitted without labels, then a linear classifier by a convex solve, then both "
        f"are trained, the classifier from that of {BEGINNING:,} pictures: squared hinge loss, "
        "AdamW with the classifier's steps in white coordinates, filters brought back to norm 1 "
        "after each step, pictures mirrored at random. The rate was chosen on 20,000 training "
        "pictures of Fashion-MNIST and 5,000 others. No epoch is chosen: the test set is seen at "
        "the start and at the end. Intervals are Wilson's over the test pictures. The pictures of "
        "CIFAR-10 were stored as JPEG by their publisher."
    )
    trial.picture(_draw(found))


def _trained(plan: Plan) -> dict[str, Any]:
    """Return accuracies at the start and at the end, losses and seconds."""
    train = data.load(plan.data, "train", limit=plan.pictures)
    test = data.load(plan.data, "test")
    assert train.labels is not None
    assert test.labels is not None
    start = time.perf_counter()
    network = ckn_classifier(classes=10, **plan.network)
    representation = network.get_submodule("representation")
    assert isinstance(representation, CKN)
    representation.fit_unsupervised(train.images, progress=False)
    some = train.sample(min(BEGINNING, len(train)), seed=0)
    features = representation.encode(some.images).flatten(1)
    assert some.labels is not None
    head = fit_head(features, some.labels, 10, penalty=PENALTY).linear
    network.get_submodule("head").load_state_dict(head.state_dict())
    begun = time.perf_counter()
    before = _right(network, test.images, test.labels)
    resumed = time.perf_counter()
    losses = _train(network, plan, train.images, train.labels)
    ended = time.perf_counter()
    return {
        "pictures": len(test),
        "before": before,
        "after": _right(network, test.images, test.labels),
        "losses": losses,
        "seconds": begun - start + ended - resumed,
        "training": ended - resumed,
    }


def _train(network: nn.Module, plan: Plan, images: Tensor, labels: Tensor) -> list[float]:
    """Train in place; return the mean loss of each epoch."""
    running = Running(progress=False)
    found = fine_tune(network, Mirrored(images, labels), plan.epochs, running=running)
    an_epoch = found.steps // plan.epochs
    parts = [found.losses[i * an_epoch : (i + 1) * an_epoch] for i in range(plan.epochs)]
    return [sum(part) / len(part) for part in parts]


@torch.no_grad()
def _right(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return how many pictures are classified right."""
    network.eval()
    batches = zip(images.split(512), labels.split(512), strict=True)
    return sum(int((network(x.float() / 255).argmax(1) == y).sum()) for x, y in batches)


def _report(trial: Trial, name: str, found: dict[str, Any]) -> None:
    """Record accuracies and seconds."""
    for when, word in (("before", "filters without labels"), ("after", "after training")):
        low, high = wilson(found[when], found["pictures"])
        share = 100 * found[when] / found["pictures"]
        trial.figure(f"test accuracy, {name}, {word}", share, "%", (100 * low, 100 * high))
    trial.figure(f"seconds in all, {name}", round(found["seconds"], 1), "s")
    trial.figure(f"seconds of training, {name}", round(found["training"], 1), "s")


def _goals(trial: Trial, name: str, target: float, found: dict[str, Any]) -> None:
    """Record how the goals were met."""
    share = 100 * found["after"] / found["pictures"]
    trial.goal(f"test accuracy, {name}, %", f"{target} or more", round(share, 2), share >= target)
    seconds = found["seconds"]
    trial.goal(f"all of it, {name}, s", "900 or less", round(seconds, 1), seconds <= 900)


def _draw(found: dict[str, dict[str, Any]]) -> Any:
    """Draw the losses of the epochs."""
    from merkhet.report.figures import figure

    made, (axis,) = figure(width=5.0, height=3.4)
    for name, one in found.items():
        before, after = (100 * one[when] / one["pictures"] for when in ("before", "after"))
        label = f"{name}: {before:.1f} % to {after:.1f} % on test"
        axis.plot(range(1, len(one["losses"]) + 1), one["losses"], "o-", ms=3, label=label)
    axis.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return made
