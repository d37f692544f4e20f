"""The check of flips: the smallest changes found that make the network predict another class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode
from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.rkhs.checks.looking import (
    affordable,
    function_of,
    half_distances,
    predictions,
    units,
)
from merkhet.rkhs.pictures import plot_accuracy, plot_flips
from merkhet.rkhs.smallest_flips import Flips, smallest_flips

MOST = 128
STEPS, CLASSES, RESTARTS = 10, 3, 1
PASSES = (RESTARTS + 1) * STEPS * (3 * CLASSES + 18)  # gradients, and halvings, of each step
SHORT = 0.5  # of the yardstick; a median above it is no finding
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SHOWN = 4


def flips(subject: Subject, seconds: float) -> Section:
    """Search the smallest changes that flip predictions."""
    count = min(MOST, affordable(subject, seconds, PASSES))
    inputs = subject.inputs[:count]
    before = predictions(subject, inputs)
    clip = _clip(subject, inputs)
    function = function_of(subject)
    with in_mode(function, training=False):
        found = smallest_flips(
            function,
            (inputs, before),
            clip=clip,
            steps=STEPS,
            classes=CLASSES,
            restarts=RESTARTS,
            seed=subject.seed,
            batch_size=subject.batch_size,
        )
    if not bool(found.found.any()):
        raise InputError(
            f"no change that flips a prediction was found for {count} inputs: the network does not "
            "follow its gradients, or predicts one class"
        )
    own = before if subject.labels is None else subject.labels[:count]
    half = half_distances(inputs, own)
    return Section(
        title="Smallest flips",
        summary=_summary(found, inputs, subject),
        findings=_findings(found, half, subject),
        tables=(_table(found, inputs, subject),),
        pictures=_pictures(found, inputs, before.cpu(), subject),
        figures=_figures(found, inputs, half),
        notes=_notes(found, subject, count, clip),
    )


def _clip(subject: Subject, inputs: Tensor) -> tuple[float, float] | None:
    """Return the range of valid inputs: [0, 1] for pictures that keep to it."""
    within = float(inputs.min()) >= 0 and float(inputs.max()) <= 1
    return (0.0, 1.0) if subject.kind == "pictures" and within else None


def _relative(found: Flips, inputs: Tensor) -> Tensor:
    """Return the sizes as shares of the inputs' own lengths, (n,); inf for inputs of length 0."""
    lengths = inputs.flatten(1).double().norm(dim=1).cpu()
    shares: Tensor = (found.sizes / lengths).where(lengths > 0, math.inf)
    return shares


def _summary(found: Flips, inputs: Tensor, subject: Subject) -> str:
    """Say how little changes a prediction."""
    missed = int((~found.found).sum())
    left = f" For {missed} of them none was found." if missed else ""
    median = float(found.sizes.median())
    if median == math.inf:
        return (
            f"For {len(inputs) - missed} of {len(inputs)} inputs a change was found that changes "
            f"the predicted class; the shortest has an l2 length of {float(found.sizes.min()):.3g},"
            f" in {units(subject)}."
        )
    relative = float(_relative(found, inputs).median())
    own = f": {relative:.1%} of the input's own length in the median" if relative < math.inf else ""
    return (
        f"A change of l2 length {median:.3g}, in {units(subject)}, or less changes the predicted "
        f"class of half of {len(inputs)} inputs{own}.{left}"
    )


def _findings(found: Flips, half: Tensor | None, subject: Subject) -> tuple[Finding, ...]:
    """Find changes that are short beside the distance between classes."""
    if half is None:
        return ()
    median, yardstick = float(found.sizes.median()), float(half.median())
    share = median / yardstick if yardstick else 1.0
    if share > SHORT:
        return ()
    return (
        Finding(
            name="flips(median)",
            value=median,
            sentence=f"Half of the predictions flip under a change of l2 length {median:.3g}, "
            f"{share:.1%} of the way on which two examples of different labels meet.",
            yardstick=f"half the distance to the nearest example of another label, {yardstick:.3g} "
            "in the median",
            remedy="Train on the worst change in a ball; a radius of a quarter of the yardstick "
            "is a start. A penalty on the gradient costs less and helps less.",
            code="from merkhet.rkhs import AdversarialLoss, train_classifier\n"
            "from merkhet.rkhs.prepared import Prepared\n"
            "whole = Prepared(network, preprocess, inputs[:1])  # a radius in raw inputs\n"
            f"train_classifier(whole, (inputs, labels), AdversarialLoss({yardstick / 4:.2g}))",
            weight=0.2 + 0.6 * (1 - share / SHORT),
        ),
    )


def _table(found: Flips, inputs: Tensor, subject: Subject) -> Table:
    """Return quantiles of the sizes."""
    rows = tuple(
        (
            f"{at:.0%}",
            _told(_quantile(found.sizes, at), ".3g"),
            _told(_quantile(_relative(found, inputs), at), ".1%"),
        )
        for at in QUANTILES
    )
    columns = ("share of inputs", f"length in {units(subject)}", "of the input's own")
    return Table("Changes of at most this length flip", columns, rows)


def _quantile(sizes: Tensor, at: float) -> float:
    """Return the least size that a share of the sizes does not exceed."""
    ordered = sizes.sort().values
    return float(ordered[max(0, -(-round(at * 1000) * len(ordered) // 1000) - 1)])


def _told(value: float, form: str) -> str:
    """Return a number in a form, or say that there is none."""
    return format(value, form) if value < math.inf else "not found"


def _pictures(
    found: Flips, inputs: Tensor, before: Tensor, subject: Subject
) -> tuple[Picture, ...]:
    """Draw the curve, and examples from the shortest to the longest change."""
    radii, share = {"under the changes found": found.sizes}, "predictions that stand"
    curve = to_svg(plot_accuracy(radii, unit=units(subject), share=share))
    caption = "Share of predictions that stand against the changes found, by their l2 length."
    drawn = (Picture(caption, curve),)
    if subject.kind != "pictures":
        return drawn
    order = found.sizes.argsort()[: int(found.found.sum())]
    places = torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().long()
    rows = order[places]
    shown = inputs.cpu()[rows]
    made = plot_flips(
        shown,
        found.points.cpu()[rows] - shown,
        [_name(subject, int(label)) for label in before[rows]],
        [_name(subject, int(label)) for label in found.labels[rows]],
    )
    caption = (
        "Left, pictures of the sample with the class predicted; middle, what is added, scaled to "
        "be seen, with its l2 length; right, the sum, with the class predicted then. From the "
        "shortest change to the longest."
    )
    return (Picture(caption, to_svg(made)), *drawn)


def _name(subject: Subject, label: int) -> str:
    """Return the name of a class."""
    return subject.classes[label] if label < len(subject.classes) else str(label)


def _figures(found: Flips, inputs: Tensor, half: Tensor | None) -> dict[str, float]:
    """Return the numbers by name; a size that was not found is left out."""
    named = {
        "median": float(found.sizes.median()),
        "median,relative": float(_relative(found, inputs).median()),
        "found": float(found.found.double().mean()),
    }
    if half is not None:
        named["yardstick"] = float(half.median())
    return {f"flips({name})": value for name, value in named.items() if value < math.inf}


def _notes(
    found: Flips, subject: Subject, count: int, clip: tuple[float, float] | None
) -> tuple[str, ...]:
    """Say what was searched, and what it is not."""
    within = "kept within [0, 1]" if clip else "not kept within a range"
    return (
        f"{count} of {len(subject.inputs)} inputs, {STEPS} steps from each input and "
        f"{RESTARTS} random point near it, {CLASSES} other classes in each; changes are {within}.",
        "The sizes are upper bounds: a longer search may find shorter changes, and only a "
        "certified radius is a promise. Moosavi-Dezfooli et al., CVPR 2016, arXiv 1511.04599.",
    )
