"""Training with labels, from filters fitted without: Fashion-MNIST, and CIFAR-10 reduced."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from merkhet import data
from merkhet.ckn import CKN, fit_head
from merkhet.ckn.networks import ckn_classifier, hinge_loss, renormalise_after
from merkhet.core.intervals import wilson
from merkhet.report import Trial, experiment
from merkhet.training import Optimisation, Running, TrainingConfig, fit


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
BATCH = 64
RATE, HEAD_RATE = 3e-4, 1e-2  # of the filters; of the head, by the size of its weights
PENALTIES = (3e-4, 1e-4, 3e-5, 1e-5)  # of the head that training begins with
SHIFT = 2  # pixels


class Varied(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with labels, mirrored and moved by up to two pixels each time they are asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = F.pad(images, (SHIFT,) * 4), labels
        self.height, self.width = images.shape[-2:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a picture (channels, height, width) as floats, and its label, a scalar."""
        place = int(torch.randint((2 * SHIFT + 1) ** 2 * 2, ()))
        moved, mirror = divmod(place, 2)
        down, right = divmod(moved, 2 * SHIFT + 1)
        picture = self.images[index, :, down : down + self.height, right : right + self.width]
        return (picture.flip(-1) if mirror else picture).float() / 255, self.labels[index]


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
        "are trained: squared hinge loss, AdamW, filters brought back to norm 1 after each step, "
        "pictures mirrored and moved by up to two pixels. Rates were chosen on part of the "
        "training pictures of Fashion-MNIST. No epoch is chosen: the test set is seen at the "
        "start and at the end. Intervals are Wilson's over the test pictures. The pictures of "
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
    some = train.sample(min(20000, len(train)), seed=0)
    features = representation.encode(some.images).flatten(1)
    assert some.labels is not None
    head = fit_head(features, some.labels, 10, penalty=PENALTIES).linear
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
    steps = plan.epochs * -(-len(images) // BATCH)
    config = TrainingConfig(
        steps,
        BATCH,
        optimisation=Optimisation(warmup_steps=steps // 10),
        running=Running(progress=False),
    )
    optimiser = _optimiser(network)
    found = fit(
        network,
        Varied(images, labels),
        hinge_loss,
        config,
        optimiser=optimiser,
        after_step=renormalise_after,
    )
    an_epoch = steps // plan.epochs
    parts = [found.losses[i * an_epoch : (i + 1) * an_epoch] for i in range(plan.epochs)]
    return [sum(part) / len(part) for part in parts]


def _optimiser(network: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with a rate of the head that goes by its weights: small features, large weights.

    Args:
        network: With its head fitted.
    """
    head = network.get_submodule("head")
    weights = head.get_parameter("weight").detach()
    size = float(weights.square().mean().sqrt())
    filters = network.get_submodule("representation").parameters()
    groups = [
        {"params": list(filters), "lr": RATE},
        {"params": list(head.parameters()), "lr": HEAD_RATE * size},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


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
