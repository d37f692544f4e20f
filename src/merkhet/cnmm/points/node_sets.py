"""Nested node sets: a mixture made cheaper node by node, without training anew.

To drop a node is to drop all networks that use it. What is left is the mixture of the networks
among the other nodes, their probabilities renormalised: KL(left, all) = sum -log(1 - pi) over the
nodes that are dropped.

Reference: Ruiz and Verbeek, "Adaptative inference cost with convolutional neural mixture models",
ICCV 2019 (arXiv 1908.06694), which prunes mixtures so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.gates import Gates, log_kept
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.nodes import Nodes, full_nodes, shortest_nodes
from merkhet.cnmm.points.budgets import Minimum, fits
from merkhet.cnmm.points.search import gates_of
from merkhet.core.errors import InputError

Loss = Callable[[Sequence[Gates]], float]


@dataclass(frozen=True)
class NodeSet:
    """The mixture of all networks among some nodes.

    Attributes:
        nodes: Those that are left.
        kl: KL divergence of the networks that are left from all, in nats.
        cost: Of the mixture of them, of all edges among the nodes, in the unit of the cost table.
        loss: The measured loss, where nodes are dropped by it; else None.
    """

    nodes: Nodes
    kl: float
    cost: float
    loss: float | None = None

    @property
    def log_probability(self) -> float:
        """Log of the probability that a network drawn from the whole mixture is among these."""
        return 0.0 - self.kl  # not -0.0

    @property
    def rank(self) -> tuple[float, float, Nodes]:
        """What node sets are sorted by, the likeliest first; of equals the cheapest."""
        return self.kl, self.cost, self.nodes


def nested_node_sets(model: CNMM, table: CostTable, loss: Loss | None = None) -> list[NodeSet]:
    """Return node sets, each the one before without one node, from all nodes to two a stage.

    Greedy: every time the node is dropped that costs least, in KL or in measured loss, for what
    it saves; what it saves depends on the nodes that are left and is counted anew. The first and
    last node of a stage stay.

    Args:
        model: The mixture.
        table: What its edges cost.
        loss: Called with gates, as `model(x, gates)` is, returns the loss on data that are held
            out, of training and of the final test; n (n + 1) / 2 + 1 times for n inner nodes. By
            default nodes are dropped by their probability, and nothing is run.

    Raises:
        InputError: The table is of another mixture, or a loss is no finite number.

    Shapes:
        The gates of each stage: values (T + 1,).
    """
    logits = gates_of(model, table)
    if loss is not None and not callable(loss):
        raise InputError(f"loss = {loss!r}: give a function from gates to a number")
    harm = _by_probability(logits) if loss is None else _by_loss(mixture_of(model), loss)
    nodes = full_nodes(table.counts)
    now = _measured(harm, nodes)
    found = [_node_set(logits, table, nodes, now if loss else None)]
    while nodes != shortest_nodes(table.counts):
        cost = found[-1].cost
        tried = [(one, _measured(harm, one), table.of_subset(one)) for one in _one_less(nodes)]
        before = now
        nodes, now, _ = min(tried, key=lambda one: _rate(one[1] - before, cost - one[2]))
        found.append(_node_set(logits, table, nodes, now if loss else None))
    return found


def node_set_within(
    model: CNMM, table: CostTable, budget: float, loss: Loss | None = None
) -> NodeSet:
    """Return the largest of the nested node sets whose mixture costs a budget or less.

    Args:
        model: The mixture.
        table: What its edges cost.
        budget: The most that it may cost, in the unit of the table.
        loss: As in `nested_node_sets`.

    Raises:
        InputError: Two nodes a stage cost more; names what they cost. Or as in
            `nested_node_sets`.

    Shapes:
        The gates of each stage: values (T + 1,).
    """
    gates_of(model, table)
    least_set(table).check(budget)
    found = nested_node_sets(model, table, loss)
    return next(one for one in found if fits(one.cost, budget))


def least_set(table: CostTable) -> Minimum:
    """Return the cheapest node set: two nodes a stage, one block."""
    nodes = shortest_nodes(table.counts)
    return Minimum("node set", nodes, table.of_subset(nodes), table.unit)


def _node_set(
    logits: Sequence[Tensor], table: CostTable, nodes: Nodes, loss: float | None
) -> NodeSet:
    """Return a node set with its numbers."""
    return NodeSet(nodes, _divergence(logits, nodes), table.of_subset(nodes), loss)


def _divergence(logits: Sequence[Tensor], nodes: Nodes) -> float:
    """Return KL(left, all)."""
    return 0.0 - sum(float(log_kept(*pair)) for pair in zip(logits, nodes, strict=True))


def _by_probability(logits: Sequence[Tensor]) -> Callable[[Nodes], float]:
    """Return the function from nodes to the divergence."""
    return lambda nodes: _divergence(logits, nodes)


def _by_loss(model: CNMM, loss: Loss) -> Callable[[Nodes], float]:
    """Return the function from nodes to the loss that is measured with them."""

    def measured(nodes: Nodes) -> float:
        with torch.no_grad():
            found: object = loss(model.subset(nodes))
        try:
            return float(found)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a loss is {found!r}: return one finite number") from error

    return measured


def _measured(harm: Callable[[Nodes], float], nodes: Nodes) -> float:
    """Return the harm of a choice of nodes, checked."""
    value = harm(nodes)
    if not math.isfinite(value):
        raise InputError(f"the loss of nodes {nodes} is {value}: return a finite number")
    return value


def _one_less(nodes: Nodes) -> Iterator[Nodes]:
    """Yield the node sets with one inner node less."""
    for stage, own in enumerate(nodes):
        for place in range(1, len(own) - 1):
            yield (*nodes[:stage], own[:place] + own[place + 1 :], *nodes[stage + 1 :])


def _rate(harm: float, saved: float) -> tuple[float, float]:
    """Return what is to be least: harm for each unit of cost saved; of equals, harm.

    Where a loss falls the gain counts the more, the more is saved too.
    """
    if harm <= 0:
        return harm * saved, harm
    return (harm / saved if saved > 0 else math.inf), harm
