"""The tail parameter of every operation of any network under a prior on its weights, by rule.

A variable X has tail parameter theta if P(|X| > x) is at most a exp(-b x^(1/theta)), which is
|X|_k <= c k^theta for all k (Vladimirova et al., ICML 2019); it is optimal if |X|_k >= c' k^theta
as well. Moments are over the weights, the input being fixed. The rules and their proofs:

- weights applied to h, independent of them: theta_h + theta_w, exactly. Given all but one weight
  the rest is symmetric, so that E|sum_j w_j h_j|^k >= E|w_1|^k E|h_1|^k. A weight that its own
  input depends on (a tied one) leaves an upper bound. Biases: the maximum.
- phi that grows like |u|^p: p theta; bounded: 0. A sum: the maximum; exact where one is heavier,
  or symmetric given the other, or independent of it, or both are bounded from below.
- products: the sum of both, by Hoelder's inequality; exact for independent factors and for units
  of one layer, because E[E[|a|^k given h]^2] >= (E|a|^k)^2.
- norms over the entries at hand: bounded, 0. Attention: that of the values, whose averages
  they are. Weights of power tails: the least index (Breiman's lemma), and theta is infinite.

What masks, selections, padding, strides and pruning by known constants leave of a tail is followed
entry by entry; where it is not known which entries are left, the claim is a bound.

Standing assumption of all that is called exact: the network's inputs, and constants computed from
them, are in general position. No unit looks at an input that is all zeros, and no norm is over
entries that the input makes all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from merkhet.core.graph import Network, Node, Rule, Unknown, read, trace
from merkhet.unit_prior import weight_priors
from merkhet.unit_prior.rules.activations import ACTIVATIONS, BOUNDED_OPS
from merkhet.unit_prior.rules.entries import NOWHERE, fitted
from merkhet.unit_prior.rules.joins import JOINS
from merkhet.unit_prior.rules.matrices import MATRICES
from merkhet.unit_prior.rules.modules import by_module
from merkhet.unit_prior.rules.normal import NORMAL
from merkhet.unit_prior.rules.parameters import Parameters
from merkhet.unit_prior.rules.pooling import COMPARISONS, POOLING
from merkhet.unit_prior.rules.powers import POWERS
from merkhet.unit_prior.rules.products import PRODUCTS
from merkhet.unit_prior.rules.recurrent import RECURRENT
from merkhet.unit_prior.rules.shape import SHAPES
from merkhet.unit_prior.rules.state import State, bounded, constant
from merkhet.unit_prior.rules.steady import UNSEEN, steady
from merkhet.unit_prior.rules.sums import SUMS
from merkhet.unit_prior.rules.walk import Ruled, Walk, heaviest
from merkhet.unit_prior.rules.weights import WEIGHTS
from merkhet.unit_prior.weight_priors import WeightPrior

RULES: dict[str, Ruled] = {
    **{**SHAPES, **JOINS, **POOLING, **COMPARISONS, **ACTIVATIONS, **POWERS},
    **{**SUMS, **PRODUCTS, **NORMAL, **MATRICES, **WEIGHTS, **RECURRENT},
}
# These are bounded whatever they are given, so that what is unknown before them does not matter.
RESETS = (*BOUNDED_OPS, *COMPARISONS, "layer_norm", "group_norm", "rms_norm", "softmax")
SILENT = ("shape", "dropout", "input", "constant")  # left out of tables


@dataclass(frozen=True)
class Tail:
    """The asymptotic tail of the entries of a result, over the prior on weights.

    Attributes:
        theta: Tail parameter; 0 of bounded entries, inf where it is heavier than any
            exp(-x^(1/theta)).
        index: Of power tails, the order from which on moments are infinite; else None.
        exact: Whether theta is optimal, for the heaviest entries; else it is an upper bound.
        random: Whether it depends on the weights.
        reason: The rule, in words.
    """

    theta: float
    index: float | None
    exact: bool
    random: bool
    reason: str

    def __str__(self) -> str:
        told = f"{self.theta:g}" if self.index is None else f"inf (index {self.index:g})"
        return told if self.exact else f"<= {told}" if self.index is None else f"{told}, a bound"


@dataclass(frozen=True)
class TailReading:
    """What `tail_rule` found.

    Attributes:
        network: The graph that was read.
        prior: On its weights.
        tails: By node.
        modules: By module path, of what the module returned last; "" is the network's output.
    """

    network: Network
    prior: WeightPrior
    tails: Mapping[str, Tail | Unknown]
    modules: Mapping[str, Tail | Unknown]

    @property
    def output(self) -> Tail | Unknown:
        """The tail of the network's first output."""
        return self.tails[next(iter(self.network.outputs.values()))]

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """The operations that no rule covered, each once."""
        found = (tail for tail in self.tails.values() if isinstance(tail, Unknown))
        return tuple(dict.fromkeys(found))

    def __str__(self) -> str:
        rows = [("path", "operation", "theta", "why"), *(self._row(node) for node in self._told())]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(
                [*(cell.ljust(wide) for cell, wide in zip(row, widths, strict=False)), row[3]]
            )
            for row in rows
        ]
        return "\n".join([*lines, *self.network.caveats()])

    def _told(self) -> list[Node]:
        """Return the nodes that a table shows: those that compute something with weights."""
        return [
            node
            for node in self.network.nodes
            if node.kind not in SILENT
            and not (isinstance(tail := self.tails[node.name], Tail) and not tail.random)
        ]

    def _row(self, node: Node) -> tuple[str, str, str, str]:
        """Return a line of the table."""
        tail = self.tails[node.name]
        told = "unknown" if isinstance(tail, Unknown) else str(tail)
        return node.path or "-", node.op, told, tail.reason


def tail_rule(
    module: nn.Module, example: Any, weight_prior: str | WeightPrior = "gaussian"
) -> TailReading:
    """Return the tail parameter of every operation of a network, by rule.

    The tail is that of a unit over draws of the weights, for a fixed input; it is the limit far
    out, which at usual widths is reached at probabilities that no sample sees. Weights are the
    parameters with two axes or more, biases those that are called so; scales and shifts of norms
    and other vectors are constants. The network is read as evaluated: its weights are not looked
    at, its kept statistics are constants.

    Args:
        module: Any network.
        example: What it is called with; its shapes count, not its values.
        weight_prior: The prior on weights, by name or itself; "init" is torch.nn's own, under which
            dense layers and convolutions are bounded at any depth.

    Returns:
        The tails, with the reason at each operation; where no rule is proved, `Unknown` says so.

    Raises:
        InputError: The network does not run on the example, a weight is made of other parameters
            (weight norm), or no such prior.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> tail_rule(network, torch.ones(1, 4)).output.theta
        1.0
    """
    prior = weight_priors.weight_prior(weight_prior)
    return read_tails(module, trace(module, example), prior)


def read_tails(module: nn.Module, network: Network, prior: WeightPrior) -> TailReading:
    """Return what `tail_rule` does, of a network that is traced already.

    Args:
        module: The network.
        network: Its graph.
        prior: On its weights.
    """
    walk = Walk(Parameters(module, network, prior))
    rules = {op: _ruled(walk, rule, op) for op, rule in RULES.items()}
    rules["literal"] = _ruled(walk, _literal, "")
    rules["unknown"] = _ruled(walk, _unread, "")
    states = read(network, rules, constant()).states
    tails = {name: _tail(state) for name, state in states.items()}
    return TailReading(network, prior, tails, by_module(module, network, tails))


def _ruled(walk: Walk, rule: Ruled, op: str) -> Rule:
    """Return a rule that says why not in words, and passes on what is unknown."""

    def ruled(node: Node, given: tuple[Any, ...]) -> Any:
        if node.op == "getitem" and isinstance(given[0], tuple):
            return given[0][node.arguments["index"]]
        data = walk.operands(node, given)
        if isinstance(data, Unknown):
            return _whatever(walk, node) if op in RESETS else data
        empty = bool(node.shapes) and node.size == 0
        if empty or not any(state.random for state in data.values()):
            return steady(walk, node, data, rule)
        if walk.hollow(node) and op not in JOINS:
            return Unknown(node.name, node.op, node.path, "a part of what it is given is empty")
        found = rule(walk, node, data)
        if isinstance(found, str):
            return Unknown(node.name, node.op, node.path, found)
        if isinstance(found, tuple):
            pairs = zip(found, node.shapes, strict=True)
            return tuple(fitted(one, shape) for one, shape in pairs)
        return fitted(found, node.shape)

    return ruled


def _whatever(walk: Walk, node: Node) -> State:
    """Return the state after what is bounded whatever it is given."""
    everything = dict.fromkeys(walk.parameters.roles)
    found = bounded(everything, node.name, f"{node.op} is bounded, whatever comes before")
    return replace(found, **NOWHERE)


def _unread(walk: Walk, node: Node, data: dict[str, State]) -> str:
    """Say why an operation without a rule is not read."""
    return UNSEEN if node.op.startswith("module:") else f"no rule covers {node.op!r}"


def _literal(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of a parameter that stands alone."""
    return replace(data["input"])


def _tail(state: Any) -> Tail | Unknown:
    """Return what a state says to the outside."""
    if isinstance(state, Unknown):
        return state
    one = heaviest(state)
    exact = one.attained or one.theta == 0
    return Tail(one.theta, one.index, exact, one.random, one.reason)
