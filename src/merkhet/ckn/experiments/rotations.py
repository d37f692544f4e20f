"""Digits turned by any angle, by number of labels: invariance built in, or learned from copies."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from merkhet import data, models
from merkhet.ckn import CKN, Form, fit_head
from merkhet.core.deformations import rotate
from merkhet.core.groups import Group, cyclic
from merkhet.core.intervals import student
from merkhet.report import Trial, experiment
from merkhet.training import Optimisation, TrainingConfig, accuracy, fit

# Pictures without labels to fit filters to, labels, test pictures, seeds; the network's steps.
PLANS: dict[str, dict[str, Any]] = {
    "small": {"pool": 4000, "test": 1500, "labels": (100, 300, 1000), "seeds": 3, "steps": 400},
    "full": {
        "pool": 20000,
        "test": 10000,
        "labels": (100, 300, 1000, 3000, 10000),
        "seeds": 5,
        "steps": 4000,
    },
}
FILTERS, POOLING = (32, 96), (2, 5)
FORMS = (Form(patches="centred"), Form(), Form(across=True))
GROUPS: dict[str, tuple[Group | None, Form]] = {
    "CKN": (None, FORMS[1]),
    "C4 CKN": (cyclic(4), FORMS[1]),
    "C8 CKN": (cyclic(8), FORMS[1]),
    "C4 CKN, patches across": (cyclic(4), FORMS[2]),
}
CNNS = ("CNN", "CNN, turned copies")
METHODS = (*GROUPS, *CNNS)
RATES = (3e-3, 1e-2)
BATCH = 50


class Turned(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with labels, turned by another angle each time they are asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a picture (1, height, width) and its label, a scalar."""
        angle = 360 * float(torch.rand(()))
        return rotate(self.images[index : index + 1], angle)[0], self.labels[index]


@experiment
def rotations(trial: Trial) -> None:
    """MNIST turned by any angle, from 100 labels up: CKNs, CKNs of C4 and C8, CNNs with copies."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan["seeds"]))
    trial.record.settings = {"data": "mnist", "filters": FILTERS, "pooling": POOLING, **plan}
    pool, test = _pictures("train", plan["pool"]), _pictures("test", plan["test"])
    features = {
        name: trial.step(f"features of {name}", partial(_features, name, pool[0], test[0]))
        for name in GROUPS
    }
    rates = {
        (method, count): trial.step(
            f"rate of {method}, {count} labels", partial(_rate, method, count, plan, pool)
        )
        for method in CNNS
        for count in plan["labels"]
    }
    found: dict[str, list[float]] = {}
    for count in plan["labels"]:
        for method in METHODS:
            key = f"{method}, {count} labels"
            found[key] = [
                trial.step(
                    f"{key}, seed {seed}",
                    partial(_learned, method, count, seed, plan, pool, test, features, rates),
                )
                for seed in trial.record.seeds
            ]
            mean = sum(found[key]) / len(found[key])
            trial.figure(f"test accuracy, {key}", mean, "%", student(found[key]))
    _quarter_turns(trial, features)
    _compare(trial, found)
    trial.record.notes = (
        "Training and test digits are turned by angles drawn uniformly (bilinear). Filters are "
        "fitted to the pool's pictures without labels; labelled ones are drawn from it, the same "
        "for all methods. Intervals are Student's over these draws; the test pictures are the "
        "same. The CNN's rate was chosen on a fifth of the first seed's labels."
    )
    trial.picture(_draw(trial))


def _pictures(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return digits (n, 1, 28, 28), each turned by an angle of its own, and their labels."""
    found = data.load("mnist", split).sample(count, seed=0)
    assert found.labels is not None
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    angles = 360 * torch.rand(count, generator=generator)
    turned = [
        rotate(image[None], float(angle))
        for image, angle in zip(found.floats(), angles, strict=True)
    ]
    return torch.cat(turned), found.labels


def _features(name: str, pool: Tensor, test: Tensor) -> list[Tensor]:
    """Return features of the pool, of the test, and of some test pictures at right angles."""
    group, form = GROUPS[name]
    network = CKN(1, FILTERS, 3, POOLING, group=group, form=(FORMS[0], form))
    network.fit_unsupervised(pool, patches=100_000, progress=False)
    few = test[:100]
    turned = [network.encode(torch.rot90(few, k, (2, 3))).flatten(1) for k in range(4)]
    pooled, tested = (network.encode(images).flatten(1) for images in (pool, test))
    return [pooled, tested, torch.stack(turned)]


def _learned(
    method: str,
    count: int,
    seed: int,
    plan: dict[str, Any],
    pool: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    features: dict[str, list[Tensor]],
    rates: dict[tuple[str, int], float],
) -> float:
    """Return the test accuracy in percent from `count` labels of the pool."""
    drawn = _drawn(pool[1], count, seed)
    if method in CNNS:
        copies, rate = method != "CNN", rates[method, count]
        network = _network(pool[0][drawn], pool[1][drawn], copies, rate, plan["steps"], seed)
        return 100 * accuracy(network, TensorDataset(*test)).value
    pooled, tested, _ = features[method]
    head = fit_head(pooled[drawn], pool[1][drawn], 10, seed=seed)
    with torch.no_grad():
        return 100 * float((head.linear(tested).argmax(1) == test[1]).double().mean())


def _drawn(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return which pictures of the pool are labelled."""
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]


def _rate(method: str, count: int, plan: dict[str, Any], pool: tuple[Tensor, Tensor]) -> float:
    """Return the rate that is the best on a fifth of the first seed's labels."""
    copies, drawn = method != "CNN", _drawn(pool[1], count, 0)
    held, rest = drawn[: count // 5], drawn[count // 5 :]
    kept = TensorDataset(pool[0][held], pool[1][held])
    scores = [
        accuracy(_network(pool[0][rest], pool[1][rest], copies, rate, plan["steps"], 0), kept).value
        for rate in RATES
    ]
    return RATES[scores.index(max(scores))]


def _network(
    images: Tensor, labels: Tensor, copies: bool, rate: float, steps: int, seed: int
) -> torch.nn.Module:
    """Return a CNN after training, on request on copies turned by other angles."""
    network = models.SmallCNN(1, 10, widths=(32, 64), seed=seed)
    examples = Turned(images, labels) if copies else TensorDataset(images, labels)
    how = Optimisation(learning_rate=rate)
    config = TrainingConfig(steps, min(BATCH, len(images)), seed=seed, optimisation=how)
    fit(network, examples, _loss, config)
    return network


def _loss(module: torch.nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of a batch."""
    return F.cross_entropy(module(batch[0]), batch[1])


def _quarter_turns(trial: Trial, features: dict[str, list[Tensor]]) -> None:
    """Record how far representations move under quarter turns, the largest over pictures."""
    for name, (_, _, turned) in features.items():
        still = turned[0].norm(dim=1)
        moved = max(float(((one - turned[0]).norm(dim=1) / still).max()) for one in turned[1:])
        trial.figure(f"relative move under quarter turns, {name}", moved)
        if name != "CKN":
            goal = f"relative move under quarter turns, {name}"
            trial.goal(goal, "below 1e-5", float(f"{moved:.2g}"), moved < 1e-5)


def _compare(trial: Trial, found: dict[str, list[float]]) -> None:
    """Record what the group gains over the same network without, and over a CNN with copies."""
    for other in ("CKN", "CNN, turned copies"):
        for count in PLANS[trial.size]["labels"]:
            ours, theirs = (found[f"{method}, {count} labels"] for method in ("C8 CKN", other))
            gains = [one - two for one, two in zip(ours, theirs, strict=True)]
            low, high = student(gains)
            name = f"C8 CKN - {other}, {count} labels"
            trial.figure(name, sum(gains) / len(gains), "points", (low, high))
            gain = round(sum(gains) / len(gains), 2)
            trial.goal(f"{name}, points", "above 0, its interval too", gain, low > 0)


def _draw(trial: Trial) -> Any:
    """Draw accuracy against labels."""
    from merkhet.report.figures import COLOURS, figure
    from merkhet.report.lines import draw_line

    made, (axis,) = figure(width=5.6, height=3.8)
    counts = PLANS[trial.size]["labels"]
    for place, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=False)):
        apart = 1.02 ** (place - len(METHODS) // 2)  # or intervals would cover each other
        names = [f"test accuracy, {method}, {count} labels" for count in counts]
        style = {"marker": "s", "ls": "--"} if method in CNNS else {}
        at = [apart * count for count in counts]
        draw_line(axis, trial.record, at, names, method, color=colour, **style)
    axis.set(xscale="log", xlabel="labels", ylabel="test accuracy, %", title="turned digits")
    axis.set_xticks(counts, [f"{count:,}" for count in counts])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    return made
