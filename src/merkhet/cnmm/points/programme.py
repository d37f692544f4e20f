"""Dynamic programmes over the starts of paths: log p and cost are sums over the edges.

A start of a path ends in a node. Of those that end in the same node each programme keeps some, and
grows them by an edge: `likely` the likeliest few in every cell of cost, `undominated` those than
which no other is as cheap and as likely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.gates import log_probability
from merkhet.cnmm.nodes import Nodes
from merkhet.cnmm.part_inputs import Edge
from merkhet.cnmm.points.budgets import fits

CELLS = 2048  # of cost, between the cheapest path and the dearest
Steps = dict[Edge, tuple[float, float]]


class Start(NamedTuple):
    """The start of a path, from the first stage's first node to some node.

    Attributes:
        log_probability: Of the gates of the nodes so far.
        cost: Of the edges so far, and what every network costs.
        nodes: Of the stages so far.
    """

    log_probability: float
    cost: float
    nodes: Nodes

    def opened(self) -> Start:
        """Return it with the first node of the next stage."""
        return Start(self.log_probability, self.cost, (*self.nodes, (0,)))

    def grown(self, node: int, gain: float, cost: float) -> Start:
        """Return it with one more edge, that to a node."""
        nodes = (*self.nodes[:-1], (*self.nodes[-1], node))
        return Start(self.log_probability + gain, self.cost + cost, nodes)


Keep = Callable[[Iterable[Start]], list[Start]]


def likely(logits: Sequence[Tensor], table: CostTable, best: int) -> list[Start]:
    """Return likely whole paths of all costs.

    Args:
        logits: Of the gates, (T - 1,) for each stage.
        table: What edges cost.
        best: How many starts are kept of those that end in one node, in each cell of cost.
    """
    low, high = table.range()
    width = (high - low) / CELLS or 1.0
    return _run(logits, table, lambda starts: _likeliest(starts, width, best))


def undominated(logits: Sequence[Tensor], table: CostTable, budget: float) -> list[Start]:
    """Return the whole paths within a budget than which no other is as cheap and as likely.

    Args:
        logits: Of the gates, (T - 1,) for each stage.
        table: What edges cost.
        budget: The most that a path may cost.
    """
    return _run(logits, table, lambda starts: _front(x for x in starts if fits(x.cost, budget)))


def steps(logits: Sequence[Tensor], table: CostTable) -> list[Steps]:
    """Return what each edge adds to log p and to the cost, for each stage.

    Edge i -> j adds log(1 - pi_k) of the nodes k that it skips, and log pi_j of an inner node j.

    Args:
        logits: Of the gates, (T - 1,) for each stage.
        table: What edges cost.
    """
    return [
        {(i, j): (_gain(own, i, j), cost) for (i, j), cost in stage.items()}
        for own, stage in zip(logits, table.edges, strict=True)
    ]


def _run(logits: Sequence[Tensor], table: CostTable, keep: Keep) -> list[Start]:
    """Return whole paths, of the starts that `keep` keeps at each (stage, node)."""
    starts = [Start(0.0, table.fixed, ())]
    for edges, count in zip(steps(logits, table), table.counts, strict=True):
        reached = [[one.opened() for one in starts]]
        for j in range(1, count):
            grown = (one.grown(j, *edges[i, j]) for i in range(j) for one in reached[i])
            reached.append(keep(grown))
        starts = reached[-1]
    return starts


def _likeliest(starts: Iterable[Start], width: float, best: int) -> list[Start]:
    """Return the likeliest few of each cell of cost."""
    cells: dict[int, list[Start]] = {}
    for start in starts:
        cells.setdefault(int(start.cost / width), []).append(start)
    return [one for cell in cells.values() for one in sorted(cell, key=_rank)[:best]]


def _front(starts: Iterable[Start]) -> list[Start]:
    """Return the starts than which no other is as cheap and as likely."""
    kept: list[Start] = []
    for start in sorted(starts, key=lambda one: (one.cost, *_rank(one))):
        if not kept or start.log_probability > kept[-1].log_probability:
            kept.append(start)
    return kept


def _rank(start: Start) -> tuple[float, float, Nodes]:
    """Return what starts are sorted by, the likeliest first; of equals the cheapest."""
    return -start.log_probability, start.cost, start.nodes


def _gain(logits: Tensor, i: int, j: int) -> float:
    """Return what edge i -> j adds to log p."""
    skipped = log_probability(logits[i : j - 1], (0, j - i))
    active = log_probability(logits[j - 1 : j], (0, 1, 2)) if j <= len(logits) else 0.0
    return float(skipped + active)
