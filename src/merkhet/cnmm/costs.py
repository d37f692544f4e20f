"""What each edge of a mixture costs, and with that every path, node set and the mixture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.gates import edge_weights, with_ends
from merkhet.cnmm.latency.device import batch_of
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.nodes import Nodes, as_nodes, path_edges, set_edges
from merkhet.cnmm.part_inputs import Edge, parts_of
from merkhet.core.costs import costs
from merkhet.core.errors import InputError, choose
from merkhet.core.graph import trace
from merkhet.core.modes import evaluating

UNITS = {"multiply_adds": "multiply-adds", "parameters": "parameters", "latency": "s"}


@dataclass(frozen=True)
class CostTable:
    """The cost of every edge, for one example (of a batch, for latencies), of folded blocks.

    Attributes:
        by: "multiply_adds", "parameters" or "latency".
        fixed: Of stem and head, which every network has.
        edges: For each stage, the cost of each edge (i, j).

    Raises:
        InputError: Another name, no stage, an edge that lacks or is none, or a cost that is not a
            finite number from 0 on.
    """

    by: str
    fixed: float
    edges: tuple[Mapping[Edge, float], ...]

    def __post_init__(self) -> None:
        choose("cost", self.by, UNITS)
        if not self.edges:
            raise InputError("a cost table without a stage: give the costs of the edges of each")
        for number, stage in enumerate(self.edges):
            _check_edges(number, stage)
        edges = [{edge: _cost(one) for edge, one in stage.items()} for stage in self.edges]
        object.__setattr__(self, "fixed", _cost(self.fixed))
        object.__setattr__(self, "edges", tuple(edges))

    @property
    def unit(self) -> str:
        """Of all costs, in words."""
        return UNITS[self.by]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many nodes each stage has."""
        return tuple(1 + max(j for _, j in stage) for stage in self.edges)

    def of_path(self, nodes: Nodes) -> float:
        """Return the cost of the network through given nodes."""
        return self._sum(as_nodes(nodes, self.counts), path_edges)

    def of_subset(self, nodes: Nodes) -> float:
        """Return the cost of the mixture of all networks among given nodes: of all its edges."""
        return self._sum(as_nodes(nodes, self.counts), set_edges)

    def range(self) -> tuple[float, float]:
        """Return the costs of the cheapest path and of the dearest one.

        Not those of fewest and most blocks, where a block that skips nodes is dear.
        """
        low = high = self.fixed
        for stage in self.edges:
            low += _extreme(stage, min)
            high += _extreme(stage, max)
        return low, high

    def expected(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean cost of a network drawn with its probability, a scalar.

        sum_(i < j) pi_i prod_(i < k < j) (1 - pi_k) pi_j c_ij: exact, and differentiable. It is
        not the cost of the mixture, `of_subset` of all nodes.

        Args:
            logits: Of the gates, (T - 1,) for each stage.

        Raises:
            InputError: They are those of another mixture.
        """
        self.check(logits)
        total = logits[0].new_tensor(self.fixed)
        for own, stage in zip(logits, self.edges, strict=True):
            values = with_ends(own.sigmoid())
            total = total + (edge_weights(values) * values * _matrix(stage, own)).sum()
        return total

    def check(self, logits: Sequence[Tensor]) -> None:
        """Refuse the gates' logits of a mixture of other stages."""
        counts = tuple(len(own) + 2 for own in logits)
        if counts != self.counts:
            raise InputError(
                f"a cost table of stages of {self.counts} nodes for a mixture of {counts}: make "
                "one of this mixture, as in count_costs(model, example)"
            )

    def _sum(self, nodes: Nodes, edges_of: Callable[[Sequence[int]], list[Edge]]) -> float:
        """Return the fixed cost and that of the edges that a function finds among nodes."""
        pairs = zip(nodes, self.edges, strict=True)
        return self.fixed + sum(stage[edge] for own, stage in pairs for edge in edges_of(own))


def count_costs(model: nn.Module, example: Tensor, by: str = "multiply_adds") -> CostTable:
    """Count what every edge costs.

    Operations whose multiply-adds are not known, such as Fourier transforms, count as none, and a
    warning names them.

    Args:
        model: The mixture; batch norms count as folded.
        example: Pictures, (batch, channels, height, width), of the size that matters.
        by: "multiply_adds" of one example, or "parameters".

    Raises:
        InputError: Another name, no mixture, or pictures that do not fit it.
    """
    choose("cost", by, ("multiply_adds", "parameters"))
    mixture = mixture_of(model)
    count = _parameters if by == "parameters" else _multiply_adds(mixture, example)
    fixed, edges = 0.0, [dict[Edge, float]() for _ in mixture.parts()]
    for place, part in parts_of(mixture):
        if place is None:
            fixed += count(part)
        else:
            stage, edge = place
            edges[stage][edge] = count(part)
    return CostTable(by, fixed, tuple(edges))


def _parameters(part: nn.Module) -> float:
    """Return how many parameters a part has, once it is folded."""
    return float(sum(parameter.numel() for parameter in folded(part).parameters()))


def _multiply_adds(model: CNMM, example: Tensor) -> Callable[[nn.Module], float]:
    """Return the function that gives the multiply-adds of a part, for one example."""
    one = batch_of(example, 1).to(next(model.parameters()))
    with evaluating(model):
        every = costs(trace(model, one))
    counted = every.by_module()
    paths = {id(part): path for path, part in model.named_modules()}
    parts = [paths[id(part)] for _, part in parts_of(model)]
    _warn_of({node.op for node in every.unknown if any(_is_in(node.path, one) for one in parts)})

    def count(part: nn.Module) -> float:
        inside = [cost for path, cost in counted.items() if _is_in(path, paths[id(part)])]
        return float(sum(cost.multiply_adds or 0 for cost in inside))

    return count


def _is_in(path: str, part: str) -> bool:
    """Tell whether a module's path is that of a part, or of something inside it."""
    return path == part or path.startswith(f"{part}.")


def _warn_of(unknown: set[str]) -> None:
    """Name the operations that could not be counted, if there are some."""
    if unknown:
        warnings.warn(
            f"multiply-adds of {', '.join(sorted(unknown))} are not known and count as none: "
            "compare networks by measure_latency(model, example)",
            stacklevel=4,
        )


def _check_edges(number: int, stage: Mapping[Edge, float]) -> None:
    """Refuse the costs of a stage that are not those of every edge i -> j, i < j."""
    last = max((j for _, j in stage), default=1)
    wanted = set(set_edges(range(last + 1)))
    if set(stage) != wanted:
        wrong = sorted(wanted.symmetric_difference(stage))
        raise InputError(
            f"costs of stage {number}, whose last node is {last}: edges {wrong} lack or are none; "
            "give one for each (i, j) with 0 <= i < j"
        )


def _cost(given: object) -> float:
    """Return a cost, checked."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if not (is_number and 0 <= float(given) < math.inf):  # type: ignore[arg-type]
        raise InputError(f"a cost of {given!r}: costs are finite numbers, and 0 or more")
    return float(given)  # type: ignore[arg-type]


def _extreme(stage: Mapping[Edge, float], best: Callable[[Iterable[float]], float]) -> float:
    """Return the cost of the cheapest or dearest path through one stage."""
    last = max(j for _, j in stage)
    reached = {0: 0.0}
    for j in range(1, last + 1):
        reached[j] = best(reached[i] + stage[i, j] for i in range(j))
    return reached[last]


def _matrix(stage: Mapping[Edge, float], like: Tensor) -> Tensor:
    """Return the costs of a stage's edges, (T + 1, T + 1), 0 where there is no edge."""
    last = max(j for _, j in stage)
    rows = [[stage.get((i, j), 0.0) for j in range(last + 1)] for i in range(last + 1)]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
