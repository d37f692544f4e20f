"""The likeliest networks of a mixture at each cost, and the likeliest within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.nodes import Nodes, every_path, path_edges
from merkhet.cnmm.points import programme
from merkhet.cnmm.points.budgets import Minimum, best_of_each, spread
from merkhet.core.building import check_counts
from merkhet.core.errors import InputError

ENUMERATED = 4096  # paths, up to which all are looked at


@dataclass(frozen=True)
class Candidate:
    """A network of a mixture.

    Attributes:
        nodes: Its path.
        log_probability: Log p, natural.
        cost: In the unit of the cost table, exact.
    """

    nodes: Nodes
    log_probability: float
    cost: float

    @property
    def rank(self) -> tuple[float, float, Nodes]:
        """What candidates are sorted by, the likeliest first; of equals the cheapest."""
        return -self.log_probability, self.cost, self.nodes


def best_paths(
    model: CNMM | Sequence[Tensor],
    table: CostTable,
    buckets: int | Sequence[float] = 32,
    best: int = 3,
) -> list[Candidate]:
    """Return the likeliest few paths of each bucket of cost.

    Up to 4,096 paths all are looked at, and the answer is exact. Beyond, starts of paths that end
    in one node compete for `best` places where they cost the same up to
    r = (dearest - cheapest) / 2048: for every path there is, then, one no less likely among all
    that are looked at, whose cost is off by r times the number of nodes at most. The costs that
    are told are exact in either case.

    Args:
        model: The mixture, or its gates' logits, (T - 1,) for each stage.
        table: What its edges cost.
        buckets: The upper ends of the buckets, each of which begins above the one before; or how
            many: ends are then even in log cost, from the cheapest path to the dearest, the first
            at the cheapest itself (even in cost, where the cheapest costs nothing).
        best: How many of each bucket.

    Returns:
        By cost; fewer than `best` of a bucket that has no more.

    Raises:
        InputError: The table is of another mixture, `buckets` or `best` are no such numbers, or
            an end is below what the cheapest path costs; names that.
    """
    check_counts(best=best)
    logits = gates_of(model, table)
    ends = spread(buckets, least_path(table), table.range()[1])
    levels = best_of_each(_paths(logits, table, best), ends, best)
    return sorted((one for level in levels for one in level), key=lambda one: (one.cost, *one.rank))


def best_within(model: CNMM | Sequence[Tensor], table: CostTable, budget: float) -> Candidate:
    """Return the likeliest path whose cost is within a budget.

    Exact, for mixtures of any size: of two starts of paths that end in one node, the one that is
    dearer and no likelier is given up.

    Args:
        model: The mixture, or its gates' logits, of shape (T - 1,) for each stage.
        table: What its edges cost.
        budget: The most that the network may cost, in the unit of the table; a cost that is above
            it by rounding alone, 1e-12 of it, fits.

    Raises:
        InputError: No path is so cheap; names the cheapest. Or the table is of another mixture.
    """
    logits = gates_of(model, table)
    least = least_path(table)
    most = max(least.check(budget), least.cost)
    found = programme.undominated(logits, table, most)
    return min((_candidate(one, table) for one in found), key=lambda one: one.rank)


def least_path(table: CostTable) -> Minimum:
    """Return the path that costs least; of equals, one of fewest blocks."""
    nodes = []
    for stage, count in zip(table.edges, table.counts, strict=True):
        best: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 1, (0,))]
        for j in range(1, count):
            ways = ((best[i], stage[i, j]) for i in range(j))
            best.append(min((cost + more, n + 1, (*own, j)) for (cost, n, own), more in ways))
        nodes.append(best[-1][2])
    chosen = tuple(nodes)
    return Minimum("network", chosen, table.of_path(chosen), table.unit)


def gates_of(model: CNMM | Sequence[Tensor], table: CostTable) -> list[Tensor]:
    """Return the gates' logits in float64 on the CPU, (T - 1,) for each stage, checked.

    Raises:
        InputError: Neither mixture nor logits, a table of another mixture, or a logit that is not
            finite.
    """
    given = mixture_of(model).logits() if isinstance(model, nn.Module) else _checked(model)
    logits = [one.detach().double().cpu() for one in given]
    table.check(logits)
    if not all(bool(torch.isfinite(own).all()) for own in logits):
        raise InputError("a gate's logit is not finite: the mixture's training has diverged")
    return logits


def _checked(logits: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gates' logits of each stage, if that is what they are."""
    is_list = isinstance(logits, Sequence)
    if not is_list or not all(isinstance(one, Tensor) and one.dim() == 1 for one in logits):
        raise InputError(
            f"gates in a {type(logits).__name__}: give a CNMM, or a list of its logits, a tensor "
            "(T - 1,) for each stage"
        )
    return logits


def _paths(logits: Sequence[Tensor], table: CostTable, best: int) -> list[Candidate]:
    """Return all paths where they are few, else those that the programme finds."""
    if 2 ** sum(count - 2 for count in table.counts) <= ENUMERATED:
        return enumerated(logits, table)
    return [_candidate(one, table) for one in programme.likely(logits, table, best)]


def enumerated(logits: Sequence[Tensor], table: CostTable) -> list[Candidate]:
    """Return every path: the plain form.

    Args:
        logits: Of the gates, (T - 1,) for each stage.
        table: What edges cost.
    """
    gains = programme.steps(logits, table)

    def log_probability(nodes: Nodes) -> float:
        pairs = zip(gains, nodes, strict=True)
        return math.fsum(stage[edge][0] for stage, own in pairs for edge in path_edges(own))

    paths = every_path(table.counts)
    return [Candidate(nodes, log_probability(nodes), table.of_path(nodes)) for nodes in paths]


def _candidate(start: programme.Start, table: CostTable) -> Candidate:
    """Return a whole path with its exact cost."""
    return Candidate(start.nodes, start.log_probability, table.of_path(start.nodes))
