"""Operating points of a mixture: candidates at each cost by probability, chosen by validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.points.budgets import Choice, best_of_each, bucket_of, spread
from merkhet.cnmm.points.node_sets import least_set, nested_node_sets
from merkhet.cnmm.points.result import KINDS, OperatingPoint, OperatingPoints
from merkhet.cnmm.points.scores import Score, Sets, batches_of, score
from merkhet.cnmm.points.search import Candidate, best_paths, gates_of, least_path
from merkhet.cnmm.recalibration import batch_norms, recalibrated
from merkhet.cnmm.starts import inner_nodes, start_nodes
from merkhet.core.building import as_generator, check_counts
from merkhet.core.errors import InputError, choose
from merkhet.core.progress import progress_bar

if TYPE_CHECKING:
    from merkhet.cnmm.latency.table import LatencyTable

RECALIBRATION = 512  # pictures
MOST = 500  # candidates
METRICS = {"classification": "accuracy", "segmentation": "mean IoU"}
Levels = Sequence[Sequence[Choice]]
Measure = Callable[[Choice, tuple[Tensor, Tensor]], Score]


def operating_points(
    model: CNMM,
    table: CostTable | LatencyTable,
    budgets: int | Sequence[float],
    sets: Sets,
    *,
    kind: str = "paths",
    best: int = 3,
    gain: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> OperatingPoints:
    """Return the best networks of a mixture that are found at each cost.

    The candidates of a budget cost at most that, and more than the budget before: the likeliest
    few of them and, likely or not, the starts of the deepest network (`cnmm.starts`), which
    training favours. Each has batch-norm statistics of its own, from training pictures, and is
    scored on the validation data; the best one is kept, if it gains on every cheaper one. Those
    that are left are scored on the test data, once.

    Args:
        model: The mixture; left as it is.
        table: What its edges cost, counted or measured. A measured one is checked against the
            mixture and this device; its `costs` alone are taken as they are.
        budgets: Costs, in the unit of the table; or how many, even in log cost, from the cheapest
            candidate to the dearest.
        sets: The data.
        kind: "paths", single networks; or "node_sets", mixtures of all networks among some nodes,
            of one nested order.
        best: How many of the likeliest candidates are scored for each budget.
        gain: By how much a point's score on validation data must be above that of the next
            cheaper point, for example 0.005 for half a percent; 0 takes any gain, chance too.
        seed: Which training pictures serve, where there are more than 512.
        progress: Whether a terminal shows a bar.

    Returns:
        One point for each budget at most; its notes say where there are fewer, and why.

    Raises:
        InputError: A budget below the cheapest candidate; names that. Labels that do not fit the
            mixture, batch norms without training pictures, a table of another mixture, or an
            option that is not of these.

    Shapes:
        Pictures (n, channels, height, width); labels (n,) or (n, height, width).
    """
    check_counts(best=best)
    if not 0 <= gain < math.inf:
        raise InputError(f"gain = {gain!r}: give a score from 0 on, such as 0.005")
    mixture = mixture_of(model)
    sets.check(mixture)
    if not isinstance(table, CostTable):
        table = table.costs_of(mixture, sets.test[0])
    levels = _levels(mixture, table, budgets, choose("kind", kind, KINDS), best)
    measure = _measure(mixture, sets, kind, seed)
    total = sum(map(len, levels))
    with progress_bar("operating points", total, unit=f"{KINDS[kind]}s", shown=progress) as tell:
        winners = _winners(levels, measure, sets, tell)
    front = _front(winners, gain)
    count = _parameters(mixture, sets, kind)
    points = tuple(_point(one, measure(one.choice, sets.test), count(one.choice)) for one in front)
    notes = (*_notes(levels, winners, front), _data_note(mixture, sets))
    metric = METRICS[sets.task]
    return OperatingPoints(points, kind, table.by, metric, mixture.counts, notes)


@dataclass(frozen=True)
class _Scored:
    """A candidate and its score on the validation data."""

    choice: Choice
    validation: float


def _levels(
    model: CNMM, table: CostTable, budgets: int | Sequence[float], kind: str, best: int
) -> Levels:
    """Return the candidates of each budget."""
    gates_of(model, table)
    if kind == "paths":
        ends = _few(spread(budgets, least_path(table), table.range()[1]), best)
        likely = best_of_each(best_paths(model, table, ends, best), ends, best)
        return _with_starts(likely, ends, model, table)
    sets = nested_node_sets(model, table)
    ends = _few(spread(budgets, least_set(table), sets[0].cost), best)
    return best_of_each(sets, ends, best)


def _with_starts(
    levels: list[list[Candidate]], ends: Sequence[float], model: CNMM, table: CostTable
) -> list[list[Candidate]]:
    """Return candidates and the starts of the deepest network, likely or not."""
    for number in range(inner_nodes(table.counts) + 1):
        nodes = start_nodes(table.counts, number)
        one = Candidate(nodes, float(model.log_probability(nodes).detach()), table.of_path(nodes))
        place = bucket_of(one.cost, ends)
        if place < len(ends) and nodes not in [other.nodes for other in levels[place]]:
            levels[place].append(one)
    return levels


def _few(ends: list[float], best: int) -> list[float]:
    """Return budgets, if they and the candidates of each are not too many."""
    if len(ends) * best > MOST:
        raise InputError(
            f"{len(ends)} budgets with {best} candidates each: {MOST} candidates are the most; "
            "give fewer budgets or a smaller best"
        )
    return ends


def _measure(model: CNMM, sets: Sets, kind: str, seed: int) -> Measure:
    """Return the function that scores a candidate, with statistics of its own, on some data."""
    batches = _recalibration(model, sets.train, seed)
    gates_for = model.path if kind == "paths" else model.subset

    def measured(choice: Choice, data: tuple[Tensor, Tensor]) -> Score:
        gates = gates_for(choice.nodes)
        return score(recalibrated(model, gates, batches), gates, data, sets.ignore)

    return measured


def _recalibration(model: CNMM, train: Tensor | None, seed: int) -> tuple[Tensor, ...]:
    """Return the pictures that batch norms are measured on, in batches; none if there is none."""
    generator = as_generator(seed)
    if not batch_norms(model):
        return ()
    if train is None or len(train) < 2:
        raise InputError(
            "this mixture has batch norms, whose statistics differ from network to network: give "
            "some hundred training pictures, Sets(train=...)"
        )
    drawn = torch.randperm(len(train), generator=generator)[:RECALIBRATION]
    return batches_of(train[drawn.to(train.device)].to(next(model.parameters())))


def _winners(
    levels: Levels, measure: Measure, sets: Sets, tell: Callable[[int], None]
) -> list[_Scored]:
    """Return the best candidate of each level that has one, by validation; of equals, rank."""
    winners = []
    for level in filter(None, levels):
        scored = []
        for choice in level:
            scored.append(_Scored(choice, measure(choice, sets.validation).value))
            tell(1)
        winners.append(max(scored, key=lambda one: one.validation))
    return winners


def _front(winners: Sequence[_Scored], gain: float) -> list[_Scored]:
    """Return the winners that are better than every cheaper one of them, by cost."""
    front: list[_Scored] = []
    for one in winners:
        above = one.validation - front[-1].validation if front else math.inf
        if above > 0 and above >= gain:
            front.append(one)
    return front


def _parameters(model: CNMM, sets: Sets, kind: str) -> Callable[[Choice], int]:
    """Return the function that counts a candidate's parameters."""
    example = sets.test[0][:1].to(next(model.parameters()))
    table = count_costs(model, example, by="parameters")
    count = table.of_path if kind == "paths" else table.of_subset
    return lambda choice: int(count(choice.nodes))


def _point(one: _Scored, test: Score, parameters: int) -> OperatingPoint:
    """Return a chosen candidate with its score on the test data."""
    return OperatingPoint(
        one.choice.nodes,
        one.choice.cost,
        one.choice.log_probability,
        parameters,
        one.validation,
        test.value,
        test.interval,
    )


def _notes(levels: Levels, winners: Sequence[_Scored], front: Sequence[_Scored]) -> list[str]:
    """Return why there are fewer points than budgets."""
    notes = []
    empty, dropped = len(levels) - len(winners), len(winners) - len(front)
    if empty:
        notes.append(
            f"{empty} of {len(levels)} budgets are empty: no candidate lies between them and the "
            "budget before"
        )
    if dropped:
        notes.append(f"{dropped} dropped: a cheaper point is as good or better on validation data")
    return notes


def _data_note(model: CNMM, sets: Sets) -> str:
    """Return what data the numbers come from."""
    train = 0 if sets.train is None else min(len(sets.train), RECALIBRATION)
    norms = f"batch norms measured anew on {train:,} training pictures" * bool(batch_norms(model))
    chosen = f"chosen on {len(sets.validation[0]):,} validation pictures, so that their score there"
    test = f"is optimistic; then scored on {len(sets.test[0]):,} test pictures once"
    return f"{norms or 'no batch norms'}; {chosen} {test}"
