"""Results that do not depend on the weights: their values, and which of their entries are 0."""

from __future__ import annotations

from dataclasses import replace

from merkhet.core.graph import Node, Unknown
from merkhet.unit_prior.rules.entries import NOWHERE, as_of, fitted
from merkhet.unit_prior.rules.parameters import valued
from merkhet.unit_prior.rules.state import State, constant
from merkhet.unit_prior.rules.walk import Ruled, Walk

DRAWN = ("rand", "bernoulli", "exponential", "multinomial", "normal")
UNSEEN = "torch.export could not trace this network, and hooks do not see what it computes"


def steady(walk: Walk, node: Node, data: dict[str, State], rule: Ruled) -> State | Unknown:
    """Return the state of what is computed from constants alone.

    Args:
        walk: The reading.
        node: The operation.
        data: States of its operands, by argument.
        rule: Of the operation, which says where entries that are 0 go.
    """
    if any(word in node.op for word in DRAWN):
        return Unknown(node.name, node.op, node.path, "it draws numbers of its own")
    if node.op == "untraced" or node.op.startswith("module:"):
        return Unknown(node.name, node.op, node.path, UNSEEN)
    plain = constant(node.name)
    if node.size == 0 or walk.hollow(node) or _nothing(walk, node, data):
        return replace(plain, **NOWHERE)
    value = walk.fold(node)
    if value is not None:
        return valued(plain, value)
    if all(state.attained and state.uniform for state in data.values()):
        return plain
    found = rule(walk, node, data)
    if not isinstance(found, State):
        return replace(plain, **NOWHERE)
    return replace(plain, **as_of(fitted(found, node.shape)))


def _nothing(walk: Walk, node: Node, data: dict[str, State]) -> bool:
    """Tell whether a result is taken from itself, or 0 times another."""
    if node.op == "mul":
        factors = [walk.constant(node, name) for name in ("input", "other")]
        return any(one is not None and not bool(one.ne(0).any()) for one in factors)
    return node.op == "sub" and len(node.inputs) == 2 and len(set(node.inputs)) == 1
