"""Activations, by how they grow."""

from __future__ import annotations

from dataclasses import replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, as_of
from merkhet.unit_prior.rules.growth import DOWN, GROWTHS, UP, Growth, Side
from merkhet.unit_prior.rules.state import Own, State, bounded
from merkhet.unit_prior.rules.walk import Ruled, Walk

WAVES = ("sin", "cos")  # come back to 0: no gates
FLAT = ("hardshrink", "softshrink", "threshold", "floor", "ceil", "round", "trunc")  # around 0
SLOPES = ("alpha", "beta")  # of ELU and softplus; others than positive ones turn them over


def growth_of(walk: Walk, node: Node) -> Growth:
    """Return how an activation grows, by its arguments where they matter."""
    if node.op in GROWTHS:
        return GROWTHS[node.op]
    if node.op in ("leaky_relu", "rrelu", "prelu"):
        return Growth(UP, _left(walk, node), uneven=_bent(walk, node))
    if node.op == "clamp_min":
        return Growth(UP, nonneg=float(node.arguments["min"]) >= 0)
    if node.op == "clamp_max":
        return Growth(None, DOWN)
    low, high = (node.arguments.get(end) for end in ENDS[node.op])
    odd = low is not None and high is not None and float(low) == -float(high)
    nonneg = low is not None and float(low) >= 0
    return Growth(None if high is not None else UP, None if low is not None else DOWN, odd, nonneg)


ENDS = {"clamp": ("min", "max"), "hardtanh": ("min_val", "max_val")}


def _left(walk: Walk, node: Node) -> Side:
    """Return how a leaky ReLU grows on the left; bounded there where its slope may be 0."""
    if node.op == "rrelu":  # as evaluated: the middle of the two
        middle = float(node.arguments["lower"]) + float(node.arguments["upper"])
        return (1.0, -1 if middle > 0 else 1) if middle else None
    name = "weight" if node.op == "prelu" else "negative_slope"
    sign = walk.sign(node, name)
    return (1.0, -sign) if sign else None


def _bent(walk: Walk, node: Node) -> bool:
    """Tell whether a leaky ReLU is certain to bend at 0: no slope is 1."""
    if node.op == "prelu":
        slopes = walk.constant(node, "weight")
        return slopes is not None and bool(slopes.ne(1).all())
    return node.op == "rrelu" or float(node.arguments["negative_slope"]) != 1


def activated(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state after a function of each entry."""
    state = data["input"]
    if set(data) - {"input", "weight"} or ("weight" in data and data["weight"].random):
        return "its slopes or ends are results: only constants are read"
    if any(float(node.arguments.get(name, 1)) <= 0 for name in SLOPES):
        return f"{node.op} is read with positive {' and '.join(SLOPES)} only"
    growth = growth_of(walk, node)
    if growth.power == 0:
        found = squashed(node, state, growth)
        return found if _beyond(node, state) else unproved(found)
    found = grown(node, state, growth)
    if node.op in FLAT and state.theta == 0:
        return unproved(found)
    if node.op == "prelu" and growth.left is None:
        return _either_slope(walk, node, found)
    floor = state.rising if growth.open else ""
    tagged = state.norm is not None and node.op == "clamp_min" and state.norm[0] != "square"
    away = node.op == "clamp_min" and float(node.arguments["min"]) > 0
    return replace(found, floor=floor, norm=state.norm if tagged else None, away=away)


def unproved(state: State) -> State:
    """Return a state of which nothing is known to be heavy, or other than 0."""
    return replace(state, **NOWHERE, up=False, down=False, pools=False)


def _beyond(node: Node, state: State) -> bool:
    """Tell whether what is cut off at two ends is not 0 for certain."""
    if node.op not in ENDS:
        return True
    low, high = (float(node.arguments[end]) for end in ENDS[node.op])
    return low > 0 or high < 0 or (state.up and high > 0) or (state.down and low < 0)


def _either_slope(walk: Walk, node: Node, found: State) -> State:
    """Return the state after a PReLU whose slopes are of several signs, or 0."""
    slopes = walk.constant(node, "weight")
    if slopes is not None and not bool(slopes.ne(0).any()):
        return found
    return replace(found, low=found.theta == 0, high=found.theta == 0, pools=False)


def grown(node: Node, state: State, growth: Growth) -> State:
    """Return the state after a function that grows like powers: p theta, from |u^p|_k = |u|_pk^p.

    It is exact where the argument attains its tail on a side on which the function grows fastest.

    Args:
        node: The operation.
        state: Of the argument.
        growth: Of the function.
    """
    power = growth.power
    sides = [
        side[1]
        for side, there in ((growth.right, state.up), (growth.left, state.down))
        if side and side[0] == power and there
    ]
    fields = as_of(state) if sides else NOWHERE
    attained = bool(fields["attained"])
    reach = [
        side[1]
        for side, never in ((growth.right, state.high), (growth.left, state.low))
        if side and not (never and state.theta > 0)
    ]
    theta = power * state.theta
    above = growth.nonneg or -1 not in reach  # bounded from below, or of one sign
    signed = growth.nonneg or (above and theta > 0)  # so that sums do not cancel
    return State(
        theta,
        None if state.index is None else state.index / power,
        **fields,
        random=state.random,
        up=attained and 1 in sides,
        down=attained and -1 in sides,
        low=theta == 0 or above,
        high=theta == 0 or 1 not in reach,
        nonneg=growth.nonneg,
        pools=attained and (signed or (state.odd and growth.uneven) or _negated(node, state)),
        copies=state.copies,
        centred=state.centred if node.op == "neg" else frozenset(),
        own=_own(state, growth, power),
        weights=state.weights,
        name=node.name,
        rising=state.rising if growth.odd and 1 in sides and growth.right == UP else node.name,
        reason=_grown_reason(node, state, power, attained=attained),
    )


def _negated(node: Node, state: State) -> bool:
    """Tell whether sums of entries are minus those of a state that keeps its tail in sums."""
    return node.op == "neg" and state.pools


def _own(state: State, growth: Growth, power: float) -> Own | None:
    """Return the last layer of weights after an activation of its results."""
    if state.own is None or not state.odd:
        return None
    own = replace(state.own, power=state.own.power * power)
    if growth.odd:
        return own if power == 1 or power == 0 else replace(own, kind="odd")
    if power not in (0, 1):
        return None
    if growth.open and power == 0:
        return replace(own, kind="gate")
    even = growth.right and growth.left and growth.right[1] == growth.left[1]
    return replace(own, kind="even" if even else "other")


def _grown_reason(node: Node, state: State, power: float, *, attained: bool) -> str:
    """Say what an activation does to tails."""
    if not state.random:
        return state.reason
    told = "linear growth keeps the tail" if power == 1 else f"{power:g} times {state.theta:g}"
    if attained:
        return told
    if not state.attained:
        return f"{told}, an upper bound as before"
    return f"{told}; an upper bound: where {node.op} grows the tail is not known to be as heavy"


def squashed(node: Node, state: State, growth: Growth) -> State:
    """Return the state after a bounded function."""
    found = bounded(state.weights, node.name, f"{node.op} is bounded")
    alive = state.up or not growth.nonneg
    fields = EVERY if growth.open else as_of(state) if alive else NOWHERE
    own = None if node.op in WAVES else _own(state, growth, 0.0)
    opened = state.rising if growth.open else state.floor if growth.odd else ""
    down = state.down and not growth.nonneg
    attained = bool(fields["attained"])
    up = state.up or growth.open
    return replace(
        found,
        **fields,
        copies=state.copies,
        up=up,
        down=down,
        nonneg=growth.nonneg,
        pools=attained and (growth.nonneg or (state.odd and state.pools)),
        own=own,
        rising=state.rising if growth.odd else node.name,
        floor=opened,
        random=state.random,
    )


ACTIVATIONS: dict[str, Ruled] = {
    **dict.fromkeys(GROWTHS, activated),
    **dict.fromkeys(("leaky_relu", "rrelu", "prelu", "clamp_min", "clamp_max"), activated),
    **dict.fromkeys(ENDS, activated),
}
BOUNDED_OPS = tuple(op for op, growth in GROWTHS.items() if growth.power == 0)
