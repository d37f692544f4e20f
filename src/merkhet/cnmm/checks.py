"""The audit's check of mixtures: how good the likeliest network is at each cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.nodes import Nodes, written
from merkhet.cnmm.objective import SURE
from merkhet.cnmm.points.search import Candidate, best_paths
from merkhet.cnmm.recalibration import batch_norms, recalibrated
from merkhet.core.intervals import wilson
from merkhet.core.modes import evaluating, uncompiled
from merkhet.report import Check, Finding, Picture, Section, Subject, Table
from merkhet.report.figures import figure, to_svg

LEVELS = 6  # of cost, fewer where time is short
LEAST = 16  # inputs for batch-norm statistics, and for scores
NEAR = 0.01  # points of accuracy for which nobody pays
WORTH = 0.3  # of the dearest network's cost
Interval = tuple[float, float]


@dataclass(frozen=True)
class Rated:
    """A network of the mixture on the sample.

    Attributes:
        candidate: Its nodes, probability and cost.
        score: Accuracy; without labels, agreement with the dearest network here.
        interval: At 95 %.
    """

    candidate: Candidate
    score: float
    interval: Interval


def is_no_mixture(subject: Subject) -> str | None:
    """Say why there are no operating points, or return None."""
    if not isinstance(uncompiled(subject.module), CNMM):
        return "the network is no mixture (merkhet.cnmm.CNMM)"
    if subject.output.dim() != 2:
        return "the mixture gives no scores of classes, one row for each input"
    if len(subject.inputs) < 2 * LEAST:
        return f"{2 * LEAST} inputs are needed: half for batch norms, half for scores"
    return None


def operating_points(subject: Subject, seconds: float) -> Section:
    """Score the likeliest network at each cost, with batch-norm statistics of its own."""
    model = mixture_of(subject.module)
    table = count_costs(model, subject.preprocess(subject.inputs[:1].clone()))
    rated = _rated(subject, model, table, seconds)
    what = "accuracy" if subject.labels is not None else "agreement with the dearest network"
    cheap, dear = rated[0], rated[-1]
    return Section(
        title="Operating points",
        summary=f"The mixture holds {2 ** sum(count - 2 for count in model.counts):,} networks. "
        f"The likeliest ones go from {_said(cheap.candidate.cost)} multiply-adds with {what} "
        f"{cheap.score:.1%} to {_said(dear.candidate.cost)} with {dear.score:.1%}.",
        findings=tuple(_findings(model, rated, table)),
        tables=(_table(rated, what),),
        pictures=(_picture(rated, what),),
        figures={
            f"cnmm({what.split()[0]},{written(one.candidate.nodes)})": one.score for one in rated
        },
        notes=(
            f"Batch-norm statistics from {len(subject.inputs) // 2} inputs, scores on the others, "
            "which no network was chosen by: the likeliest at each cost is shown. "
            "`merkhet cnmm points` chooses by held-out data, and measures latencies.",
            "Ruiz and Verbeek, ICCV 2019, arXiv 1908.06694.",
        ),
    )


CHECKS = (
    Check(
        "operating_points",
        4.0,
        refuse=is_no_mixture,
        run=operating_points,
        quiet=True,
        gives=("cnmm",),
    ),
)


def _rated(subject: Subject, model: CNMM, table: CostTable, seconds: float) -> list[Rated]:
    """Return the likeliest networks by cost, as many as the time allows, two at the least."""
    found = best_paths(model, table, LEVELS, best=1)
    order = [found[-1], found[0], *found[1:-1]] if len(found) > 1 else found
    half = len(subject.inputs) // 2
    inputs = subject.preprocess(subject.inputs.clone())
    targets = None if subject.labels is None else subject.labels[half:]
    rated: list[Rated] = []
    deadline = time.perf_counter() + seconds
    for candidate in order:
        if len(rated) >= 2 and time.perf_counter() > deadline:
            break
        given = _predicted(model, candidate.nodes, inputs, half, subject.batch_size)
        targets = given if targets is None else targets
        hits = int((given == targets.to(given)).sum())
        rated.append(Rated(candidate, hits / len(given), wilson(hits, len(given))))
    return sorted(rated, key=lambda one: one.candidate.cost)


def _predicted(model: CNMM, nodes: Nodes, inputs: Tensor, half: int, size: int) -> Tensor:
    """Return the classes of the second half of the inputs, by one network."""
    gates = model.path(nodes)
    batches = inputs[:half].split(max(size, LEAST)) if batch_norms(model) else ()
    own = recalibrated(model, gates, [batch for batch in batches if len(batch) > 1])
    with evaluating(own):
        return torch.cat([own(batch, gates).argmax(1) for batch in inputs[half:].split(size)])


def _findings(model: CNMM, rated: list[Rated], table: CostTable) -> list[Finding]:
    """Return what is worth doing something about."""
    found = []
    dear = rated[-1]
    near = [one for one in rated if one.score >= dear.score - NEAR]
    cost = dear.candidate.cost
    share = near[0].candidate.cost / cost if cost else 1.0
    if share < 1 - WORTH:
        nodes = near[0].candidate.nodes
        found.append(
            Finding(
                name="cnmm(cheaper)",
                value=share,
                sentence=f"The network {written(nodes)} is within {NEAR:.0%} of the dearest one at "
                f"{share:.0%} of its multiply-adds.",
                yardstick=f"{near[0].score:.1%} against {dear.score:.1%}, "
                f"[{dear.interval[0]:.1%}, {dear.interval[1]:.1%}]",
                remedy="Take it out of the mixture as a plain network.",
                code="from merkhet.cnmm import extract\n"
                f"small = extract(network, {nodes}, [preprocess(inputs)])",
                weight=0.3 * (1 - share),
            )
        )
    found.extend(_collapsed(model))
    return found


def _collapsed(model: CNMM) -> list[Finding]:
    """Return the finding that gates have chosen, where nearly all have."""
    open = torch.cat([logits.detach().sigmoid() for logits in model.logits()])
    chosen = ((open < SURE) | (open > 1 - SURE)).double()
    if not len(open) or chosen.mean() < 0.9:
        return []
    return [
        Finding(
            name="cnmm(collapsed)",
            value=float(chosen.mean()),
            sentence=f"{int(chosen.sum())} of {len(open)} gates have all but chosen: the mixture "
            "is close to one network.",
            yardstick=f"probabilities within {SURE:g} of 0 or 1",
            remedy="Train with gates held longer, more entropy or less cost.",
            code='merkhet cnmm train --schedule \'{"entropy": 0.1, "cost": 0.01}\'',
            weight=0.5,
        )
    ]


def _table(rated: list[Rated], what: str) -> Table:
    """Return the networks as a table."""
    rows = tuple(
        (
            written(one.candidate.nodes),
            _said(one.candidate.cost),
            f"{one.candidate.log_probability:.2f}",
            f"{one.score:.1%} [{one.interval[0]:.1%}, {one.interval[1]:.1%}]",
        )
        for one in rated
    )
    return Table("The likeliest network at each cost", ("nodes", "cost", "log p", what), rows)


def _picture(rated: list[Rated], what: str) -> Picture:
    """Return score against cost."""
    from merkhet.cnmm.pictures import plain_ticks

    made, (axis,) = figure(width=6.4, height=3.6)
    costs = [one.candidate.cost / 1e6 for one in rated]
    axis.fill_between(
        costs,
        [100 * one.interval[0] for one in rated],
        [100 * one.interval[1] for one in rated],
        alpha=0.15,
    )
    axis.plot(costs, [100 * one.score for one in rated], "o-")
    axis.set(xscale="log", xlabel="million multiply-adds", ylabel=f"{what}, %")
    plain_ticks(axis)
    return Picture("Score against cost, with 95 % intervals", to_svg(made))


def _said(cost: float) -> str:
    """Return a number of multiply-adds in words."""
    return f"{cost / 1e6:.3g} M"
