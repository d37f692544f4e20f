"""Filters without labels, then a linear classifier: Fashion-MNIST."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from merkhet import data
from merkhet.ckn import CKN, Form, fit_head
from merkhet.core.intervals import wilson
from merkhet.report import Trial, experiment

PLANS: dict[str, dict[str, Any]] = {
    "small": {"pictures": 60000, "search": 10000, "validation": 5000},
    "full": {"pictures": 60000, "search": 50000, "validation": 10000},
}
BASE: dict[str, Any] = {
    "filters": (64, 256),
    "kernel_size": (3, 3),
    "pooling": (2, 6),
    "sigma": 0.6,
    "patches": ("centred", "raw"),
}
# What is compared on validation pictures; each differs from the base in what is named.
CHOICES: dict[str, dict[str, Any]] = {
    "64/256": {},
    "64/256, pooling 2 and 4": {"pooling": (2, 4)},
    "128/512, pooling 2 and 4": {"filters": (128, 512), "pooling": (2, 4)},
}
PENALTIES = (1e-5, 3e-6, 1e-6)  # smaller ones cost many more steps and gain little
PATCHES = 100_000  # of each layer, for its filters


@experiment
def unsupervised(trial: Trial) -> None:
    """Fashion-MNIST without labels but for a linear classifier: 64/256 filters, and the best."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {"data": "fashion-mnist", **plan, "base": BASE, "choices": CHOICES}
    found = trial.step("64/256", partial(_trained, BASE, plan["pictures"]))
    _report(trial, "64/256", found)
    scores = {
        name: trial.step(f"validation, {name}", partial(_validated, {**BASE, **change}, plan))
        for name, change in CHOICES.items()
    }
    for name, score in scores.items():
        trial.figure(f"validation accuracy, {name}", 100 * score, "%")
    best = max(scores, key=lambda name: scores[name])
    chosen = found
    if best != "64/256":
        chosen = trial.step(best, partial(_trained, {**BASE, **CHOICES[best]}, plan["pictures"]))
        _report(trial, best, chosen)
    _goals(trial, found, chosen, best)
    trial.record.notes = (
        f"Trained with {plan['search']:,} pictures each, the choices were compared on "
        f"{plan['validation']:,} others of the training set; {best!r} was the best, and was then "
        "trained on the whole of it. Penalties were chosen on a sixth of the training pictures, "
        "held out. Intervals are Wilson's over the test pictures."
    )
    trial.picture(_draw(found["filters"], scores))


def _trained(settings: dict[str, Any], count: int) -> dict[str, Any]:
    """Return test accuracy, seconds and first filters of a network trained on `count` pictures."""
    train, test = data.load("fashion-mnist", "train", limit=count), data.load("fashion-mnist")
    assert train.labels is not None
    assert test.labels is not None
    start = time.perf_counter()
    network = _network(settings).fit_unsupervised(train.images, patches=PATCHES, progress=False)
    fitted = time.perf_counter()
    features = network.encode(train.images).flatten(1)
    encoded = time.perf_counter()
    head = fit_head(features, train.labels, 10, penalty=PENALTIES)
    learned = time.perf_counter()
    right = _right(network, head.linear, test.images, test.labels)
    return {
        "right": int(right.sum()),
        "pictures": len(right),
        "penalty": head.penalty,
        "seconds": {
            "filters": fitted - start,
            "encoding": encoded - fitted,
            "classifier": learned - encoded,
            "in all": learned - start,
        },
        "filters": network.layer(0).raw_filters().detach(),
    }


def _validated(settings: dict[str, Any], plan: dict[str, Any]) -> float:
    """Return the accuracy on validation pictures, the best over penalties."""
    pool = data.load("fashion-mnist", "train")
    assert pool.labels is not None
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(1))
    held, chosen = order[: plan["validation"]], order[plan["validation"] :][: plan["search"]]
    network = _network(settings).fit_unsupervised(
        pool.images[chosen], patches=PATCHES, progress=False
    )
    ours, theirs = (network.encode(pool.images[part]).flatten(1) for part in (chosen, held))
    pair = theirs, pool.labels[held]
    head = fit_head(ours, pool.labels[chosen], 10, penalty=PENALTIES, held_out=pair)
    return max(head.accuracies)


def _network(settings: dict[str, Any]) -> CKN:
    """Return a fresh network."""
    others = {name: value for name, value in settings.items() if name != "patches"}
    return CKN(1, **others, form=[Form(patches=word) for word in settings["patches"]])


def _right(network: CKN, head: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return which pictures the classifier gets right, (n,)."""
    with torch.no_grad():
        right: Tensor = head(network.encode(images).flatten(1)).argmax(1) == labels
        return right


def _report(trial: Trial, name: str, found: dict[str, Any]) -> None:
    """Record accuracy, penalty and seconds."""
    low, high = wilson(found["right"], found["pictures"])
    share = 100 * found["right"] / found["pictures"]
    trial.figure(f"test accuracy, {name}", share, "%", (100 * low, 100 * high))
    trial.figure(f"penalty, {name}", found["penalty"])
    for part, seconds in found["seconds"].items():
        trial.figure(f"seconds, {part}, {name}", round(seconds, 1), "s")


def _goals(trial: Trial, base: dict[str, Any], chosen: dict[str, Any], best: str) -> None:
    """Record how the goals were met."""
    ours, theirs = (100 * one["right"] / one["pictures"] for one in (base, chosen))
    trial.goal("test accuracy, 64/256 filters, %", "91 or more", round(ours, 2), ours >= 91)
    seconds = base["seconds"]["in all"]
    trial.goal("all of it, 64/256 filters, s", "900 or less", round(seconds, 1), seconds <= 900)
    goal = f"test accuracy, best on validation ({best}), %"
    trial.goal(goal, "92.3 or more", round(theirs, 2), theirs >= 92.3)
    seconds = chosen["seconds"]["in all"]
    trial.goal(f"all of it, {best}, s", "900 or less", round(seconds, 1), seconds <= 900)


def _draw(filters: Tensor, scores: dict[str, float]) -> Any:
    """Draw the first layer's filters, and the choices' accuracies."""
    from merkhet.report.figures import COLOURS, figure

    made, (left, right) = figure(1, 2, width=4.2, height=3.2)
    side = round(filters.shape[1] ** 0.5)
    tiles = filters[:64].reshape(8, 8, side, side)
    framed = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=float("nan"))
    left.imshow(framed.permute(0, 2, 1, 3).reshape(8 * (side + 1), -1), cmap="gray")
    left.set_axis_off()
    left.set_title("filters of the first layer")
    names = list(scores)
    right.barh(names, [100 * scores[name] for name in names], color=COLOURS[0])
    low = 100 * min(scores.values())
    right.set(xlabel="validation accuracy, %", xlim=(low - 1, None))
    right.invert_yaxis()
    return made
