"""What each edge of a mixture costs, and with that every path, node set and the mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.gates import edge_weights, with_ends
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import Nodes, as_nodes, path_edges, set_edges
from merkhet.core.costs import costs
from merkhet.core.errors import choose
from merkhet.core.graph import trace
from merkhet.core.modes import evaluating

UNITS = {"multiply_adds": "multiply-adds", "parameters": "parameters", "latency": "s"}
Edge = tuple[int, int]


@dataclass(frozen=True)
class CostTable:
    """The cost of every edge, for one example (of a batch, for latencies), of folded blocks.

    Attributes:
        by: "multiply_adds", "parameters" or "latency".
        fixed: Of stem and head, which every network has.
        edges: For each stage, the cost of each edge (i, j).
    """

    by: str
    fixed: float
    edges: tuple[Mapping[Edge, float], ...]

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
        """
        total = logits[0].new_tensor(self.fixed)
        for own, stage in zip(logits, self.edges, strict=True):
            values = with_ends(own.sigmoid())
            total = total + (edge_weights(values) * values * _matrix(stage, own)).sum()
        return total

    def _sum(self, nodes: Nodes, edges_of: Callable[[Sequence[int]], list[Edge]]) -> float:
        """Return the fixed cost and that of the edges that a function finds among nodes."""
        pairs = zip(nodes, self.edges, strict=True)
        return self.fixed + sum(stage[edge] for own, stage in pairs for edge in edges_of(own))


def count_costs(model: CNMM, example: Tensor, by: str = "multiply_adds") -> CostTable:
    """Count what every edge costs.

    Args:
        model: The mixture; batch norms count as folded.
        example: Pictures, (batch, channels, height, width), of the size that matters.
        by: "multiply_adds" of one example, or "parameters".

    Raises:
        InputError: Another name, or pictures that do not fit the mixture.
    """
    choose("cost", by, ("multiply_adds", "parameters"))
    count = _parameters if by == "parameters" else _multiply_adds(model, example[:1])
    fixed, edges = 0.0, [dict[Edge, float]() for _ in model.parts()]
    for place, part in _parts(model):
        if place is None:
            fixed += count(part)
        else:
            stage, edge = place
            edges[stage][edge] = count(part)
    return CostTable(by, fixed, tuple(edges))


def run_parts(
    model: CNMM, example: Tensor
) -> Iterator[tuple[tuple[int, Edge] | None, nn.Module, Tensor]]:
    """Yield the parts of a mixture with inputs of the shape that they meet.

    Args:
        model: The mixture.
        example: Pictures, (batch, channels, height, width).

    Yields:
        (stage, edge) or None for stem and head; the part; its input.
    """
    met: list[tuple[tuple[int, Edge] | None, nn.Module, Tensor]] = []
    handles = []
    with evaluating(model):
        for place, part in _parts(model):

            def hook(part: nn.Module, inputs: tuple[Tensor], place: object = place) -> None:
                met.append((place, part, inputs[0].detach()))  # type: ignore[arg-type]

            handles.append(part.register_forward_pre_hook(hook))
        try:
            model(example)
        finally:
            for handle in handles:
                handle.remove()
    yield from met


def _parts(model: CNMM) -> Iterator[tuple[tuple[int, Edge] | None, nn.Module]]:
    """Yield stem, blocks and head with their places."""
    yield None, model.stem
    for number, stage in enumerate(model.parts()):
        for edge in set_edges(range(stage.num_nodes)):
            yield (number, edge), stage.block(*edge)
    yield None, model.head


def _parameters(part: nn.Module) -> float:
    """Return how many parameters a part has, once it is folded."""
    return float(sum(parameter.numel() for parameter in folded(part).parameters()))


def _multiply_adds(model: CNMM, example: Tensor) -> Callable[[nn.Module], float]:
    """Return the function that gives the multiply-adds of a part, for one example."""
    with evaluating(model):
        counted = costs(trace(model, example)).by_module()
    paths = {id(part): path for path, part in model.named_modules()}

    def count(part: nn.Module) -> float:
        own = paths[id(part)]
        inside = (path == own or path.startswith(f"{own}.") for path in counted)
        rows = zip(counted.values(), inside, strict=True)
        return float(sum(cost.multiply_adds or 0 for cost, yes in rows if yes))

    return count


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
