"""Few labelled digits: what each penalty adds to a tuned network, with and without copies."""

from __future__ import annotations

import dataclasses
from typing import Any

from merkhet.report import Trial, experiment
from merkhet.rkhs.estimators import PAPER, Recipe
from merkhet.rkhs.experiments.few_labels import (
    DISPLACEMENT,
    GRADIENT,
    VALIDATION,
    Arm,
    Plan,
    accuracies,
    best,
    gain,
    tell,
    tuned_baseline,
    validated,
)

LABELS = (300, 1000)
TARGETS = {300: 2.0, 1000: 0.7}  # points over the baseline
PLANS = {
    "small": Plan(
        "mnist",
        ("small_cnn", {"widths": [16, 32], "norm": "none", "grid": 4}),
        Recipe(steps=400, batch_size=50, optimiser="adamw"),
        rates=(0.016, 0.032, 0.064, 0.128),
        decays=(0.01, 0.3),
        others=3,
        tuning=1,
    ),
    "full": Plan(
        "mnist",
        ("small_cnn", {"widths": [32, 64], "norm": "none", "grid": 4}),
        PAPER,
        rates=(0.02, 0.05, 0.1, 0.2),
        decays=(0.0, 5e-4),
        others=10,
    ),
}

# Penalties by name, with a place for their strength, and the strengths to choose from.
FIELDS = f"max_displacement={DISPLACEMENT:g}, max_gradient={GRADIENT:g}"
PENALTIES: dict[str, tuple[str, tuple[float, ...]]] = {
    "loss gradient": ("loss_gradient*{:g}", (0.4, 1.6)),
    "adversarial loss": ("adversarial_loss({:g})", (1.0, 1.5)),
    "gradient, mean": ("gradient(reduction=mean)*{:g}", (0.01, 0.03)),
    "gradient, sup": ("gradient*{:g}", (0.003, 0.01)),
    "adversarial": ("adversarial(1)*{:g}", (0.003, 0.01)),
    "tangent": (f"tangent(max_gradient={GRADIENT:g})*{{:g}}", (0.1, 0.3)),
    "deformation": (f"deformation({FIELDS}, samples=2, reduction=mean)*{{:g}}", (0.3, 1)),
    "spectral": ("spectral*{:g}", (0.0003, 0.001)),
}
SLOWER = (1.0, 0.5)  # of the baseline's rate, for penalties to choose from
Chosen = dict[str, tuple[str, float]]  # by name: an expression, and a factor of the rate
OF_DEFORMATIONS = ("tangent", "deformation")  # they see deformed pictures


@experiment
def digits(trial: Trial) -> None:
    """MNIST with 300 and 1,000 labels: each penalty against a network with tuned rate and decay."""
    plan = PLANS[trial.size]
    trial.record.seeds = list(range(plan.draws))
    trial.record.settings = dataclasses.asdict(plan)
    chosen = _chosen(trial, plan)
    leading = _leading(trial, plan, chosen)
    trial.record.settings |= {"penalties": chosen, "leading": leading}
    for labels in LABELS:
        _compare(trial, plan, labels, chosen, leading)
    trial.record.notes = (
        "Rate and decay are tuned for each number of labels, without and with copies, on a draw of "
        "labelled pictures that is not among those compared, by accuracy on the last "
        f"{VALIDATION:,} training pictures. Penalties keep the baseline's decay; their strengths, "
        f"and the baseline's rate or half of it, are tuned, and the best ones chosen, in the same "
        f"way at {LABELS[0]} labels. Copies: half of each batch is deformed, |tau| = "
        f"{DISPLACEMENT} pixels, |grad tau| = {GRADIENT}. The penalties 'tangent' and "
        "'deformation' look at deformed pictures too, without their labels. Intervals are "
        "Student's over draws of labelled pictures, the same for all; gains are paired."
    )
    trial.picture(_draw(trial))


def _chosen(trial: Trial, plan: Plan) -> Chosen:
    """Return the best expression and rate of each penalty, and two combinations of the best."""
    base = tuned_baseline(trial, plan, LABELS[0], "")
    chosen: Chosen = {}
    scores: dict[str, float] = {}
    for name, (form, strengths) in PENALTIES.items():
        tried: Chosen = {
            f"{strength:g}, rate times {slower:g}": (form.format(strength), slower)
            for strength in strengths
            for slower in SLOWER
        }
        found = validated(trial, plan, LABELS[0], _arms(base, tried))
        first = max(tried, key=lambda one: found[one])
        chosen[name], scores[name] = tried[first], found[first]
    ranked = sorted(PENALTIES, key=lambda name: -scores[name])
    first = next(name for name in ranked if name not in (*OF_DEFORMATIONS, "spectral"))
    deformed = next(name for name in ranked if name in OF_DEFORMATIONS)
    for other in ("spectral", deformed):
        (text, rate), (more, slower) = chosen[first], chosen[other]
        chosen[f"{first} + {other}"] = f"{text} + {more}", min(rate, slower)
    return chosen


def _arms(base: Arm, chosen: Chosen) -> dict[str, Arm]:
    """Return the baseline with each of the penalties."""
    return {
        name: dataclasses.replace(base, penalty=text, rate=base.rate * slower)
        for name, (text, slower) in chosen.items()
    }


def _leading(trial: Trial, plan: Plan, chosen: Chosen) -> dict[str, str]:
    """Return the best penalty of all, of those that see no deformed pictures, and on copies."""
    unseen = {name: one for name, one in chosen.items() if not _knows_deformations(name)}
    cases = {"": (chosen, ""), "no deformed pictures": (unseen, ""), "copies": (chosen, "deformed")}
    return {
        case: best(
            trial, plan, LABELS[0], _arms(tuned_baseline(trial, plan, LABELS[0], copies), some)
        )
        for case, (some, copies) in cases.items()
    }


def _compare(
    trial: Trial, plan: Plan, labels: int, chosen: Chosen, leading: dict[str, str]
) -> None:
    """Record the test accuracies at a number of labels, and what the best penalties gain."""
    base = tuned_baseline(trial, plan, labels, "")
    copied = tuned_baseline(trial, plan, labels, "deformed")
    arms, arms_copied = _arms(base, chosen), _arms(copied, chosen)
    start = f"{labels} labels"
    tell(trial, start, accuracies(trial, plan, labels, arms, range(plan.others), test=True))
    compared = {"no penalty": base, "no penalty, copies": copied}
    for case, name in leading.items():
        if case == "copies":
            compared[f"{name}, copies"] = arms_copied[name]
        else:
            compared[name] = arms[name]
    found = accuracies(trial, plan, labels, compared, range(plan.draws), test=True)
    tell(trial, start, found)
    for case, name in leading.items():
        end = ", copies" if case == "copies" else ""
        ours, theirs = found[f"{name}{end}"], found[f"no penalty{end}"]
        mean, low = gain(trial, f"gain, {start}{end}: {name}", ours, theirs)
        word = f" ({case})" if case else ""
        goal = f"gain of the best penalty{word}, {name}, over the tuned baseline, {start}"
        target = f"{TARGETS[labels]} points or more, interval above 0"
        trial.goal(goal, target, round(mean, 2), mean >= TARGETS[labels] and low > 0)


def _knows_deformations(name: str) -> bool:
    """Tell whether a penalty looks at deformed pictures, as copies do."""
    return any(one in name for one in OF_DEFORMATIONS)


def _draw(trial: Trial) -> Any:
    """Draw the test accuracies, one panel for each number of labels."""
    from merkhet.report.figures import figure
    from merkhet.report.lines import draw_points

    made, axes = figure(columns=len(LABELS), width=5.4, height=4.4)
    figures = trial.record.figures
    for axis, labels in zip(axes, LABELS, strict=True):
        start = f"test accuracy, {labels} labels, "
        names = [name for name in figures if name.startswith(start)]
        names.sort(key=lambda name: -figures[name].value)
        draw_points(axis, trial.record, [name.removeprefix(start) for name in names], names)
        axis.set(xlabel="test accuracy, %", title=f"MNIST, {labels:,} labels")
    return made
