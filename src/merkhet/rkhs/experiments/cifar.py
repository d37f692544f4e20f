"""A thousand labelled pictures of CIFAR-10: penalties on a reduced VGG, with ReLU and GELU."""

from __future__ import annotations

import dataclasses
from typing import Any

from merkhet.report import Trial, experiment
from merkhet.rkhs.estimators import PAPER, Recipe
from merkhet.rkhs.experiments.few_labels import (
    VALIDATION,
    Plan,
    accuracies,
    gain,
    tell,
    tuned_baseline,
    validated,
)

LABELS = 1000
ACTIVATIONS = ("relu", "gelu")
COPIES = "cropped"
PENALTIES: dict[str, tuple[str, tuple[float, ...]]] = {
    "loss gradient": ("loss_gradient*{:g}", (0.01, 0.1)),
    "gradient, mean": ("gradient(reduction=mean)*{:g}", (0.0003, 0.003)),
    "gradient, sup": ("gradient*{:g}", (0.00003, 0.0003)),
    "adversarial loss": ("adversarial_loss({:g})", (0.1, 0.3)),
    "spectral": ("spectral*{:g}", (0.0003, 0.003)),
}


def plan_of(size: str, activation: str) -> Plan:
    """Return how large the experiment is with an activation."""
    if size == "full":
        network = ("vgg11", {"norm": "none", "activation": activation})
        return Plan("cifar10", network, PAPER, (0.02, 0.05), (0.0, 5e-4), others=10)
    arguments: dict[str, Any] = {"norm": "none", "activation": activation, "width": 0.125}
    recipe = Recipe(steps=300, batch_size=50, optimiser="adamw")
    return Plan("cifar10", ("vgg11", arguments), recipe, (2e-3, 4e-3), (0.01, 0.3), 3, 3, 1)


@experiment
def cifar(trial: Trial) -> None:
    """CIFAR-10 with 1,000 labels: penalties against a tuned network, for ReLU and GELU."""
    trial.record.settings = {
        activation: dataclasses.asdict(plan_of(trial.size, activation))
        for activation in ACTIVATIONS
    }
    for activation in ACTIVATIONS:
        plan = plan_of(trial.size, activation)
        trial.record.seeds = list(range(plan.draws))
        _compare(trial, plan, activation)
    trial.record.notes = (
        "Every arm sees pictures moved by up to 4 pixels and mirrored. Rates, decays and strengths "
        "are tuned on one draw of labelled pictures that is not among those compared, by accuracy "
        f"on the last {VALIDATION:,} training pictures. Intervals are Student's over draws. The "
        "network is an eighth as wide as the paper's and sees each picture 15 times, so that "
        "accuracies are below the paper's. The pictures were stored as JPEG by their publisher."
    )
    trial.picture(_draw(trial))


def _compare(trial: Trial, plan: Plan, activation: str) -> None:
    """Record the test accuracies with an activation, and what each penalty gains."""
    base = tuned_baseline(trial, plan, LABELS, COPIES)
    arms = {"no penalty": base}
    for name, (form, strengths) in PENALTIES.items():
        texts = [form.format(strength) for strength in strengths]
        tried = {text: dataclasses.replace(base, penalty=text) for text in texts}
        scores = validated(trial, plan, LABELS, tried)
        arms[name] = tried[max(texts, key=lambda text: scores[text])]
    trial.record.settings[activation]["arms"] = {
        name: dataclasses.asdict(arm) for name, arm in arms.items()
    }
    found = accuracies(trial, plan, LABELS, arms, range(plan.draws), test=True)
    tell(trial, activation, found)
    for name in PENALTIES:
        gain(trial, f"gain, {activation}: {name}", found[name], found["no penalty"])


def _draw(trial: Trial) -> Any:
    """Draw the test accuracies, one panel for each activation."""
    from merkhet.report.figures import figure
    from merkhet.report.lines import draw_points

    made, axes = figure(columns=2, width=4.6, height=3.2)
    for axis, activation in zip(axes, ACTIVATIONS, strict=True):
        arms = ("no penalty", *PENALTIES)
        names = [f"test accuracy, {activation}, {arm}" for arm in arms]
        draw_points(axis, trial.record, arms, names)
        axis.set(xlabel="test accuracy, %", title=f"CIFAR-10, 1,000 labels, {activation}")
    return made
