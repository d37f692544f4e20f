"""The norm of a convolutional kernel network's classifier against its generalisation gap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merkhet import data
from merkhet.ckn import CKN, Form
from merkhet.ckn.experiments import bounds
from merkhet.ckn.experiments.gaps import (
    CLASSES,
    ORDER,
    Pair,
    Run,
    gap,
    labelled,
    middle_margin,
    record_mean,
    record_order,
)
from merkhet.ckn.head import fit_head
from merkhet.ckn.norm import normalised_margins, rkhs_norm
from merkhet.report import Trial, experiment

# Pictures to label, to test on, to fit filters to; patches; and what the CNNs are given.
PLANS: dict[str, dict[str, Any]] = {
    "small": {
        "seeds": 4,
        "pool": 6000,
        "test": 2000,
        "fitted": 2000,
        "patches": 50_000,
        "filters": (32, 128),
        "labels": (200, 800, 3000),
        "cnn": {"labels": 100, "steps": 400, "channels": 8},
    },
    "full": {
        "seeds": 10,
        "pool": 20000,
        "test": 10000,
        "fitted": 20000,
        "patches": 500_000,
        "filters": (64, 256),
        "labels": (200, 800, 3000, 10000),
        "cnn": {"labels": 1000, "steps": 5000, "channels": 16},
    },
}
SHARES = (0.0, 0.25, 0.5, 1.0)  # of labels that are drawn anew
PENALTIES = (1e-1, 3e-3, 1e-4)
SEEN = 300  # training pictures at most whose normalised margins are taken
Setting = tuple[int, float, float]  # labels, share, penalty
MEASURES: dict[str, Callable[[Setting, Run], float]] = {
    "norm / (margin sqrt N)": lambda setting, run: run["inverse margin"] / math.sqrt(setting[0]),
    "norm / sqrt N": lambda setting, run: run["norm"] / math.sqrt(setting[0]),
    "norm": lambda setting, run: run["norm"],
    "1 / sqrt N": lambda setting, run: setting[0] ** -0.5,
}
FIRST = next(iter(MEASURES))


@experiment
def norm_and_generalisation(trial: Trial) -> None:
    """Norms and margins against the generalisation gap: CKNs, and the bounds for small CNNs."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan["seeds"]))
    trial.record.settings = {"data": "fashion-mnist", "shares": SHARES, "penalties": PENALTIES}
    trial.record.settings |= {"CNN shares": bounds.SHARES, "CNN decays": bounds.DECAYS, **plan}
    pool, test = _pictures("train", plan["pool"]), _pictures("test", plan["test"])
    found = _heads(trial, plan, pool, test)
    _record(trial, plan["labels"], found)
    for family in bounds.BOUNDS:
        networks = bounds.train_all(trial, plan["cnn"], family, pool, test)
        bounds.record_networks(trial, family, networks)
    trial.record.notes = (
        "Gap: test error less training error, test labels being as random as those trained with, "
        "in expectation: (1 - share) error + 0.9 share. CKN: R is the root mean square distance "
        "of Phi(x) from its mean over training pictures; norm: mean |f_i - f_j| over pairs of "
        "classes, times R; margin: "
        f"the normalised one over R, median over those of {SEEN} training pictures at most that "
        "are right; norm / (margin sqrt N): 1 / (margin sqrt N), the margin being normalised. "
        "CNNs: the bound of |f_i - f_j|, median over pairs, or the spectral complexity; over the "
        "median margin of the training pictures that are right. Their N and data are the same for "
        "all, and left out. Rank correlations are Spearman's over settings, a seed at a time; "
        "an infinite bound ranks last, and what is the same for all settings counts as 0. A log10 "
        "is the median over seeds, given where it is finite. Intervals are Student's over seeds, "
        "which draw the labelled pictures, the labels' noise and the CNNs' weights, cut to [-1, 1] "
        "for correlations; the CKN's filters are fitted once, the test pictures are the same."
    )
    trial.picture(_draw(trial, found))


def _pictures(split: str, count: int) -> Pair:
    """Return pictures (n, 1, 28, 28) between 0 and 1, and their labels."""
    found = data.load("fashion-mnist", split).sample(count, seed=0)
    assert found.labels is not None
    return found.floats(), found.labels


def _ckn(plan: dict[str, Any]) -> CKN:
    """Return the CKN before it is fitted."""
    return CKN(1, plan["filters"], 3, (2, 6), form=(Form(patches="centred"), Form()))


def _represented(plan: dict[str, Any], pool: Tensor, test: Tensor) -> dict[str, Any]:
    """Return a fitted CKN's weights, and features of the pool and of the test."""
    network = _ckn(plan)
    network.fit_unsupervised(pool[: plan["fitted"]], patches=plan["patches"], progress=False)
    pooled, tested = (network.encode(images).flatten(1) for images in (pool, test))
    return {"weights": dict(network.state_dict()), "pool": pooled, "test": tested}


def _heads(trial: Trial, plan: dict[str, Any], pool: Pair, test: Pair) -> dict[Setting, list[Run]]:
    """Return what each seed found of each number of labels, share and penalty."""
    features = trial.step("representation", partial(_represented, plan, pool[0], test[0]))
    network = _ckn(plan)
    network.load_state_dict(features["weights"])
    found: dict[Setting, list[Run]] = {}
    for count, share, seed in itertools.product(plan["labels"], SHARES, trial.record.seeds):
        drawn, labels = labelled(pool[1], count, share, seed)
        pairs = (features["pool"][drawn], labels), (features["test"], test[1])
        for penalty in PENALTIES:
            one = trial.step(
                f"CKN, {count} labels, {share:.0%} random, penalty {penalty:g}, seed {seed}",
                partial(_head, network, pool[0][drawn[:SEEN]], pairs, share, penalty),
            )
            found.setdefault((count, share, penalty), []).append(one)
    return found


def _head(
    network: CKN, seen: Tensor, pairs: tuple[Pair, Pair], share: float, penalty: float
) -> Run:
    """Return norm, margin and gap of a linear classifier of a CKN's features.

    Args:
        network: The CKN.
        seen: The first training pictures, whose margins are taken.
        pairs: Features and labels to learn from, and to measure the gap on.
        share: Of random labels.
        penalty: On the classifier's norm.
    """
    (ours, labels), (theirs, truth) = pairs
    linear = fit_head(ours, labels, CLASSES, penalty=penalty).linear
    model = nn.Sequential(network, nn.Flatten(), linear)
    radius = float((ours - ours.mean(0)).square().sum(1).mean().sqrt())
    margin = middle_margin(normalised_margins(model, seen, labels[: len(seen)])) / radius
    with torch.no_grad():
        norms = rkhs_norm(model, differences=True)
        scores = linear(ours), linear(theirs)
    return {
        "norm": radius * float(norms.sum()) / (CLASSES * (CLASSES - 1)),
        "margin": margin,
        "inverse margin": 1 / margin if margin > 0 else math.inf,
        "gap": gap((scores[0], labels), (scores[1], truth), share),
    }


def _record(trial: Trial, counts: tuple[int, ...], found: dict[Setting, list[Run]]) -> None:
    """Record each setting's figures, how the measures order them, and the goals."""
    for setting, runs in found.items():
        for what in ("norm", "margin", "gap"):
            record_mean(trial, f"{what}, {_name(*setting)}", [run[what] for run in runs])
    for name, measure in MEASURES.items():
        value, _ = record_order(trial, f"{name}, CKN", found, measure)
        if name == FIRST:
            _goal(trial, f"{name}, CKN", value, 0.7)
    for count in counts:
        chosen = {setting: runs for setting, runs in found.items() if setting[0] == count}
        name = f"{FIRST}, CKN, {count} labels"
        value, _ = record_order(trial, name, chosen, MEASURES[FIRST])
        _goal(trial, name, value, 0.5)
    clean, noisy = (found[counts[0], share, PENALTIES[-1]] for share in (SHARES[0], SHARES[-1]))
    for what, target in (("norm", "1.5 or more"), ("inverse margin", "2 or more")):
        name = f"{what} with random labels over true ones, CKN, {counts[0]} labels"
        ratios = [one[what] / other[what] for one, other in zip(noisy, clean, strict=True)]
        value, _ = record_mean(trial, name, ratios)
        trial.goal(name, target, round(value, 2), value >= float(target.split()[0]))


def _name(count: int, share: float, penalty: float) -> str:
    """Return a setting in words."""
    return f"CKN, {count} labels, {share:.0%} random, penalty {penalty:g}"


def _goal(trial: Trial, name: str, value: float, target: float) -> None:
    """Record whether a measure orders the settings."""
    goal = f"{ORDER}, {name}"
    trial.goal(goal, f"{target} or more", round(value, 3), value >= target)


def _draw(trial: Trial, found: dict[Setting, list[Run]]) -> Any:
    """Draw norms against the share of random labels, gaps against the measure, correlations."""
    from merkhet.report.figures import COLOURS, figure

    made, (left, middle, right) = figure(1, 3, width=4.6, height=3.8)
    for count, colour in zip(PLANS[trial.size]["labels"], COLOURS, strict=False):
        names = [f"norm, {_name(count, share, PENALTIES[-1])}" for share in SHARES]
        _curve(trial, left, SHARES, names, label=f"{count:,} labels", color=colour)
        runs = [(setting, run) for setting, seen in found.items() for run in seen]
        runs = [(setting, run) for setting, run in runs if setting[0] == count]
        places = [MEASURES[FIRST](*one) for one in runs]
        gaps = [run["gap"] for _, run in runs]
        middle.plot(places, gaps, "o", ms=3, color=colour, label=f"{count:,} labels")
    left.set(xlabel="share of random labels", ylabel=f"norm times R, penalty {PENALTIES[-1]:g}")
    middle.set(xscale="log", xlabel=f"{FIRST}, CKN", ylabel="generalisation gap")
    middle.minorticks_off()
    middle.legend(frameon=False, fontsize=8)
    names = [name for name in trial.record.figures if name.startswith(ORDER)]
    for place, name in enumerate(names):
        one = trial.record.figures[name]
        right.plot(one.interval or (), [place, place], color=COLOURS[3 * ("CNN" in name)])
        right.plot(one.value, place, "o", ms=4, color=COLOURS[3 * ("CNN" in name)])
    right.set_yticks(range(len(names)), [name.removeprefix(f"{ORDER}, ") for name in names])
    right.tick_params(axis="y", labelsize=7)
    right.set(xlabel=ORDER, xlim=(-1.1, 1.1))
    right.axvline(0, color="#999999", linewidth=0.8)
    right.invert_yaxis()
    return made


def _curve(trial: Trial, axis: Any, places: Sequence[float], names: list[str], **how: Any) -> None:
    """Draw recorded figures with their intervals."""
    shown = [trial.record.figures[name] for name in names]
    values = [one.value for one in shown]
    ends = [one.interval or (one.value, one.value) for one in shown]
    axis.fill_between(places, *zip(*ends, strict=True), alpha=0.2, color=how["color"])
    axis.plot(places, values, "o-", ms=3, **how)
