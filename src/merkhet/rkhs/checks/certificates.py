"""The check of certificates: within which radius predictions are proven to stay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode
from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.rkhs.bracket import lipschitz
from merkhet.rkhs.certificates import certified_accuracy, certified_radius
from merkhet.rkhs.checks.looking import (
    affordable,
    function_of,
    half_distances,
    predictions,
    seconds_to_certify,
    units,
)
from merkhet.rkhs.pictures import plot_accuracy
from merkhet.rkhs.prepared import as_named

RADII = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
SHORT = 0.5  # of the yardstick; a median above it is no finding


def certified(subject: Subject, seconds: float) -> Section:
    """Certify the predictions of the sample."""
    needed = seconds_to_certify(subject.network)
    if needed > seconds:
        raise InputError(
            f"certified norms of the layers need about {math.ceil(needed)} s and {seconds:.0f} s "
            "are left for it: allow more seconds"
        )
    count = affordable(subject, seconds / 2, 4.0)  # float64 passes cost about two
    inputs = subject.inputs[:count]
    given = subject.labels is not None
    labels = subject.labels[:count].to(inputs.device) if subject.labels is not None else None
    labels = predictions(subject, inputs) if labels is None else labels
    radii = _radii(subject, inputs, labels)
    half = half_distances(inputs, labels)
    return Section(
        title="Certified radii",
        summary=_summary(radii, subject, given),
        findings=_findings(radii, half, subject),
        tables=(_table(radii, subject),),
        pictures=_pictures(radii, subject),
        figures=_figures(radii, half),
        notes=(
            f"{count} of {len(subject.inputs)} inputs, as far as the time went; "
            + ("" if given else "without labels, the predictions stand for them; ")
            + "a radius is 0 where the prediction is wrong. No change that is shorter changes the "
            "prediction, whoever makes it; longer ones may or may not.",
            "Radius: the least of (f_y - f_j) / (|w_y - w_j| L) over the other classes j, L an "
            "upper bound on the Lipschitz constant before the head w; in float64.",
        ),
    )


def _radii(subject: Subject, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the certified radii, (n,).

    Raises:
        InputError: The network has no finite bound.
    """
    function = function_of(subject)
    with in_mode(function, training=False):
        bracket = as_named(lipschitz(function, inputs[:2], ascents=0))
        if not math.isfinite(bracket.upper):
            raise InputError(
                f"there is no finite Lipschitz bound to certify by: {'; '.join(bracket.reasons)}"
            )
        return certified_radius(function, inputs, labels, bracket=bracket, pixels=False)


def _summary(radii: Tensor, subject: Subject, given: bool) -> str:
    """Say how far predictions are safe."""
    what = "right, and provably so," if given else "provably the same"
    share = f"; {float((radii > 0).double().mean()):.1%} are right at all" if given else ""
    median = float(radii.median())
    if median == 0:
        return f"Fewer than half of {len(radii)} predictions are {what} within any radius{share}."
    within = f"a radius of {median:.3g} or more, in {units(subject)}"
    if median == math.inf:
        within = "any radius: no change of the input changes the output"
    return f"Half of {len(radii)} predictions are {what} within {within}{share}."


def _findings(radii: Tensor, half: Tensor | None, subject: Subject) -> tuple[Finding, ...]:
    """Find radii that are short beside the distance between classes."""
    right = radii > 0
    if half is None or not bool(right.any()):
        return ()
    # Those that are wrong have no radius, whatever the bound: more training mends them.
    median, yardstick = float(radii[right].median()), float(half[right.cpu()].median())
    share = median / yardstick if yardstick else 1.0
    if share > SHORT:
        return ()
    return (
        Finding(
            name="certified(median,right)",
            value=median,
            sentence=f"The median certified radius of right predictions is {median:.3g}, "
            f"{_percent(share)} of the way on which two examples of different labels meet.",
            yardstick=f"half the distance to the nearest example of another label, {yardstick:.3g} "
            "in the median: no classifier is certified farther everywhere",
            remedy="A bound grows with the product of the layers' norms: train under a spectral "
            "constraint, together with a penalty on the gradient.",
            code="from merkhet.rkhs import GradientPenalty, SpectralConstraint, train_classifier\n"
            "prepared = preprocess(inputs)\n"
            "train_classifier(network, (prepared, labels), 0.01 * GradientPenalty(), "
            "SpectralConstraint(1.0, example=prepared))",
            weight=0.1 + 0.3 * (1 - share),
        ),
    )


def _percent(share: float) -> str:
    """Return a share in words; one that would round to 0 is none."""
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _table(radii: Tensor, subject: Subject) -> Table:
    """Return certified accuracy by radius."""
    shares = certified_accuracy(radii, RADII).tolist()
    rows = tuple((f"{at:g}", f"{share:.1%}") for at, share in zip(RADII, shares, strict=True))
    return Table("Certified accuracy", (f"radius in {units(subject)}", "at least right"), rows)


def _pictures(radii: Tensor, subject: Subject) -> tuple[Picture, ...]:
    """Draw the curve."""
    made = plot_accuracy({"certified": radii}, unit=units(subject))
    caption = "Accuracy that is certified against every change up to an l2 radius."
    return (Picture(caption, to_svg(made)),)


def _figures(radii: Tensor, half: Tensor | None) -> dict[str, float]:
    """Return the numbers by name; the infinite ones, of a constant network, are left out."""
    figures = {"certified(median)": float(radii.median())}
    if bool((radii > 0).any()):
        figures["certified(median,right)"] = float(radii[radii > 0].median())
    if half is not None:
        figures["certified(yardstick)"] = float(torch.median(half))
    shares = certified_accuracy(radii, RADII).tolist()
    for at, share in zip(RADII, shares, strict=True):
        figures[f"certified(accuracy,{at:g})"] = share
    return {name: value for name, value in figures.items() if math.isfinite(value)}
