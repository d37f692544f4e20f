"""Products and quotients of two results."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.activations import squashed
from merkhet.unit_prior.rules.entries import NOWHERE, as_of, both, nonzero
from merkhet.unit_prior.rules.growth import GROWTHS
from merkhet.unit_prior.rules.one_layer import gated, one_layer
from merkhet.unit_prior.rules.powers import squared
from merkhet.unit_prior.rules.shape import halves
from merkhet.unit_prior.rules.state import (
    State,
    apart,
    bounded,
    constant,
    fresh,
    least_index,
    together,
)
from merkhet.unit_prior.rules.sums import flipped
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

INDEPENDENT, ONE_LAYER = "independent", "two units on one input"


def _multiplied(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a product of two results, or of one and a number."""
    if len(data) == 1:
        ((name, state),) = data.items()
        return scaled(walk, node, state, "other" if name == "input" else "input")
    one, other = data["input"], data["other"]
    for key, state, rest in (("other", other, one), ("input", one, other)):
        if not state.random:
            return by_constant(node, rest, walk.constant(node, key), state)
    return product(node, one, other)


def scaled(walk: Walk, node: Node, state: State, name: str) -> State:
    """Return the state of a result times, or over, a constant.

    Args:
        walk: The reading.
        node: The operation.
        state: Of the result.
        name: The argument that is the constant.
    """
    value = walk.constant(node, name)
    if value is not None and node.op in ("div", "floor_divide"):
        value = value.reciprocal()
    return by_constant(node, state, value)


def by_constant(
    node: Node, state: State, value: Tensor | None, factor: State | None = None
) -> State:
    """Return the state of a result times a constant.

    Args:
        node: The operation.
        state: Of the result.
        value: The constant; None where it is not known.
        factor: Its state, which says where it is not 0.
    """
    if value is not None and bool((value > 0).all()):
        kept = {"rising": state.rising, "floor": state.floor, "norm": state.norm}
        return same(node, state, **kept, away=state.away, copies=state.copies)
    if value is not None and bool((value < 0).all()):
        return same(node, flipped(state))
    if value is not None and not bool(value.ne(0).any()):
        return replace(constant(node.name, "times 0"), **NOWHERE, nonneg=True)
    left = nonzero(state, value, factor)
    above = value is not None and bool((value >= 0).all())
    limited = state.low and state.high
    lost = "" if left["attained"] else "; an upper bound: what is heavy may meet a factor 0"
    return same(
        node,
        state,
        **left,
        up=left["attained"] and state.up and (above or state.down),
        down=left["attained"] and state.down and (above or state.up),
        low=limited or (above and state.low),
        high=limited or (above and state.high),
        nonneg=above and state.nonneg,
        copies=state.copies,
        pools=left["attained"] and above and state.pools,
        own=state.own if state.odd else None,
        reason=f"times a constant{lost}" if state.attained else "",
    )


def product(node: Node, a: State, b: State) -> State:
    """Return the state of a product: theta_a + theta_b, by Hoelder's inequality.

    It is exact for independent factors, for a power of one result, and for two units of one layer
    (or functions of them that grow linearly on a side, or are bounded away from 0 there): given the
    layer's input h, whose entry h_1 both see, signs and sizes are independent, so that
    E|ab|^k >= c^k (E|w|^k)^2 E|h_1|^(2k). A gate that is at least 1/2 with probability 1/2 given
    the other factor leaves its tail as it is.
    """
    if a.name == b.name and a.name:
        return squared(node, a)
    for one, other in ((a, b), (b, a)):
        if other.norm == ("inverse", one.name):
            return reset(node, one)
    proof = _proof(a, b)
    fields = both(a, b) if proof else NOWHERE
    attained = bool(fields["attained"])
    told = proof if attained or not proof else "an upper bound: heavy entries may not meet"
    up, down = _sides(a, b) if attained else (False, False)
    theta = a.theta + b.theta
    return State(
        theta,
        _index(a, b, proof),
        **fields,
        random=a.random or b.random,
        up=up,
        down=down,
        low=theta == 0 or (a.nonneg and b.nonneg),
        high=theta == 0,
        nonneg=a.nonneg and b.nonneg,
        pools=attained and ((a.nonneg and b.nonneg) or (proof == ONE_LAYER and gated(a, b))),
        weights=together((a, b)),
        name=node.name,
        rising=node.name,
        reason=f"{a.theta:g} + {b.theta:g} of the factors; "
        + (told or "an upper bound: they depend on the same weights"),
    )


def _proof(a: State, b: State) -> str:
    """Say why the tail of a product is the sum of the two, or nothing."""
    if not (a.attained and b.attained):
        return ""
    if one_layer(a, b) and not apart(a, b):
        return ONE_LAYER
    if apart(a, b):
        return INDEPENDENT
    for one, gate in ((a, b), (b, a)):
        own = gate.own
        if gate.theta == 0 and own is not None and own.kind == "gate" and fresh(own, one):
            return "the gate is open with probability 1/2 whatever the other factor"
        if gate.theta == 0 and gate.floor and gate.floor == one.rising and one.up:
            return "the gate is open where the other factor is positive"
    return ""


def _index(a: State, b: State, proof: str) -> float | None:
    """Return the index of a product: the moments that independence or Hoelder's inequality gives.

    Of two units on one input h, E|ab|^p is finite if E|w|^p and E|h|^(2p) are; of powers m and n of
    them, if E|w|^(mp), E|w|^(np) and E|h|^((m + n) p) are.
    """
    least = least_index(a, b)
    if least is None or proof == INDEPENDENT:
        return least
    if proof == ONE_LAYER:
        assert a.own is not None
        assert b.own is not None
        base, power = a.own.base, a.own.power + b.own.power
        return least if base.index is None or not power else min(least, base.index / power)
    infinite = [one.index for one in (a, b) if math.isinf(one.theta)]
    return 1 / sum(1 / index for index in infinite if index) if 0.0 not in infinite else 0.0


def _sides(a: State, b: State) -> tuple[bool, bool]:
    """Return on which sides a product attains its tail, from those of factors of free signs."""
    gates = [one for one, gate in ((a, b), (b, a)) if gate.theta == 0 and gate.floor]
    if gates and not apart(a, b) and not one_layer(a, b):
        return gates[0].up, False
    up = (a.up and b.up) or (a.down and b.down)
    return up, (a.up and b.down) or (a.down and b.up)


def reset(node: Node, state: State, why: str = "divided by its own norm: bounded") -> State:
    """Return the state of a result that is divided by its own norm."""
    found = bounded(state.weights, node.name, why)
    signs: dict[str, Any] = {"up": state.up, "down": state.down, "nonneg": state.nonneg}
    left: dict[str, Any] = {"centred": state.centred, "pools": state.pools, "random": state.random}
    return replace(found, **as_of(state), **signs, **left)


def cut(state: State) -> State:
    """Return a state whose entries are cut to whole numbers: what is bounded may become 0."""
    lost: dict[str, Any] = {**NOWHERE, "up": False, "down": False, "pools": False, "own": None}
    return replace(state, **lost) if state.random and state.theta == 0 else state


def _divided(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a quotient."""
    if node.op == "floor_divide" or node.arguments.get("rounding_mode") is not None:
        dropped: dict[str, Any] = {"norm": None, "floor": "", "away": False}
        data = {name: replace(cut(state), **dropped) for name, state in data.items()}
    below = data.get("other")
    if below is None or not below.random:
        return scaled(walk, node, data["input"], "other")
    above = data.get("input", constant())
    if below.norm == ("root", above.name):
        return reset(node, above)
    if not below.away:
        return "it divides by a result that may come close to 0: small values decide its tail"
    inverse = bounded(below.weights, f"1 / {below.name}", "", attained=below.attained)
    return product(node, above, replace(inverse, **as_of(below), down=False, nonneg=True))


def _glu(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of one half of a result times the sigmoid of the other."""
    one, other = halves(walk, node, data["input"])
    return product(node, one, squashed(node, other, GROWTHS["sigmoid"]))


PRODUCTS: dict[str, Ruled] = {
    "mul": _multiplied,
    "glu": _glu,
    **dict.fromkeys(("div", "floor_divide"), _divided),
}
