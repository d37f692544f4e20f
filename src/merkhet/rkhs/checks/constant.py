"""The check of the Lipschitz constant: how far a change of the input can move the output."""

from __future__ import annotations

import math

from merkhet.core.modes import in_mode
from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.rkhs.bracket import Bracket
from merkhet.rkhs.bracket import lipschitz as bracket
from merkhet.rkhs.checks.looking import affordable, function_of, seconds_to_certify, units
from merkhet.rkhs.pictures import plot_bracket
from merkhet.rkhs.prepared import as_named
from merkhet.rkhs.rules_state import Part

MOST = 64  # inputs whose gradients are taken
GRADIENTS = 32  # of an input; of more outputs fewer are taken
ASCENTS = 64  # passes of an input that the search goes on from
LOOSE = 10.0  # upper over lower bound, above which it is a finding
MOST_ROWS, MOST_REASONS = 60, 3


def lipschitz(subject: Subject, seconds: float) -> Section:
    """Bracket the network's Lipschitz constant, with the factor of each part."""
    passes = 6.0 * min(subject.output[0].numel(), GRADIENTS) + ASCENTS  # in float64
    count = min(MOST, affordable(subject, seconds / 2, passes))
    needed = seconds_to_certify(subject.network)
    method = "certified" if needed < seconds / 2 else "power"
    function = function_of(subject)
    with in_mode(function, training=False):
        found = as_named(bracket(function, subject.inputs[:count], method=method))
    finite = math.isfinite(found.upper)
    return Section(
        title="Lipschitz constant",
        summary=_summary(found, subject),
        findings=_findings(found) if finite else (),
        tables=(_table(found),) if found.parts else (),
        pictures=_pictures(found),
        figures=_figures(found),
        notes=_notes(found, subject, count, needed),
    )


def _summary(found: Bracket, subject: Subject) -> str:
    """Say what lies between which bounds."""
    steepest = (
        "At the steepest of the inputs looked at, small changes move the output by "
        f"{found.lower:.3g} times their l2 length in {units(subject)}: the Lipschitz constant is "
        "at least that."
    )
    if found.lower == 0:
        steepest = f"No change of the output was seen ({found.where})."
    if not math.isfinite(found.upper):
        told = "; ".join(found.reasons[:MOST_REASONS])
        more = len(found.reasons) - MOST_REASONS
        others = f"; and {more} more" if more > 0 else ""
        return f"{steepest} There is no finite upper bound: {told}{others}."
    bound = "is estimated to be at most" if found.estimate else "is at most"
    return f"{steepest} By the norms of its parts it {bound} {found.upper:.3g}."


def _findings(found: Bracket) -> tuple[Finding, ...]:
    """Find a bound that is far above what was seen."""
    ratio = found.upper / max(found.lower, 1e-30)
    if ratio < LOOSE:
        return ()
    widest = max(found.parts, key=lambda part: part.factor)
    where = f"{widest.path or 'the input'} ({widest.operation})"
    return (
        Finding(
            name="lipschitz(ratio)",
            value=ratio,
            sentence=f"The bound on the Lipschitz constant, {found.upper:.3g}, is {ratio:.3g} "
            f"times what was seen, {found.lower:.3g}: what it certifies is up to as many times "
            "too short.",
            yardstick="1, where bound and network meet; networks trained without regard to it "
            "reach hundreds and more",
            remedy=f"The largest factor is {widest.factor:.3g}, of {where}. {_remedy(widest)}",
            code="from merkhet.rkhs import SpectralConstraint\n"
            "constraint = SpectralConstraint(1.0, example=preprocess(inputs[:2]))\n"
            "constraint(network, 1)  # now, and after each step of training",
            weight=min(0.35, 0.1 + 0.05 * math.log10(ratio)),
        ),
    )


def _remedy(widest: Part) -> str:
    """Return what lowers the factor of a part."""
    train = "train under a spectral constraint, which holds the weights of every layer down"
    if "batch_norm" in widest.operation:
        return f"Train without batch norm, which scales past any bound on weights; then {train}."
    if any(word in widest.operation for word in ("conv", "linear")):
        return f"{train[0].upper()}{train[1:]}."
    return f"No bound on weights lowers it: replace it by a part of a smaller slope; and {train}."


def _table(found: Bracket) -> Table:
    """Return the factor of each part, in the order of the network."""
    shown = found.parts[:MOST_ROWS]
    rows = tuple(
        (part.path or "input", part.operation, f"{part.factor:.4g}", part.how) for part in shown
    )
    caption = "Factors of the upper bound"
    if len(shown) < len(found.parts):
        caption += f" (the first {len(shown)} of {len(found.parts)})"
    return Table(caption, ("part", "operation", "factor", "how it was found"), rows)


def _pictures(found: Bracket) -> tuple[Picture, ...]:
    """Draw the factors, where there are any."""
    if not any(0 < part.factor < math.inf for part in found.parts):
        return ()
    caption = "Factor of each part in the upper bound, on a logarithmic scale; 1 changes nothing."
    return (Picture(caption, to_svg(plot_bracket(found))),)


def _figures(found: Bracket) -> dict[str, float]:
    """Return the numbers; an upper bound that is only estimated has another name."""
    figures = {"lipschitz(lower)": found.lower}
    if math.isfinite(found.upper):
        figures[f"lipschitz({'upper,estimate' if found.estimate else 'upper'})"] = found.upper
        if found.upper > 0:  # a constant has no ratio
            figures["lipschitz(ratio)"] = found.upper / max(found.lower, 1e-30)
    return figures


def _notes(found: Bracket, subject: Subject, count: int, needed: float) -> tuple[str, ...]:
    """Say what was computed how."""
    norms = "Norms of linear parts are certified: in float64, with a slack for rounding."
    if found.estimate:
        norms = (
            "Norms of linear parts are estimates, by power iteration: certified ones need about "
            f"{math.ceil(needed)} s; allow more seconds for them."
        )
    return (
        f"Lower bound by changes of {count} of {len(subject.inputs)} inputs; upper bound for all "
        f"inputs, l2 to l2, with the preparation of the inputs. {norms}",
        "The Lipschitz constant is not the norm |f| of a kernel's space, which is at least as "
        "large. Bietti, Mialon, Chen and Mairal, ICML 2019, arXiv 1810.00363.",
    )
