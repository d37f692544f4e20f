"""Activations, by how they grow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.state import Own, State, bounded
from merkhet.unit_prior.rules.walk import Ruled, Walk

Side = tuple[float, int] | None  # how it grows, |u|^power, and to which sign; None: bounded


@dataclass(frozen=True)
class Growth:
    """How a function grows towards + and - infinity.

    Attributes:
        right: Where its argument is large and positive.
        left: Where it is large and negative.
        odd: Whether phi(-u) = -phi(u).
        nonneg: Whether it has no negative value.
        open: Whether it is above a positive constant for u >= 0.
        uneven: Whether phi(u) + phi(-u) grows as phi does.
    """

    right: Side = None
    left: Side = None
    odd: bool = False
    nonneg: bool = False
    open: bool = False
    uneven: bool = True

    @property
    def power(self) -> float:
        """The larger of the two powers; 0 for a bounded function."""
        return max((side[0] for side in (self.right, self.left) if side), default=0.0)


UP, DOWN = (1.0, 1), (1.0, -1)
RIGHT = Growth(UP)
GROWTHS: dict[str, Growth] = {
    **dict.fromkeys(
        ("elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "threshold"), RIGHT
    ),
    "relu": Growth(UP, nonneg=True),
    "softplus": Growth(UP, nonneg=True, open=True),
    "log_sigmoid": Growth(None, DOWN),
    "abs": Growth(UP, UP, nonneg=True),
    "neg": Growth(DOWN, UP, odd=True, uneven=False),
    **dict.fromkeys(("hardshrink", "softshrink"), Growth(UP, DOWN, odd=True, uneven=False)),
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), Growth(UP, DOWN, uneven=False)),
    **dict.fromkeys(("tanh", "erf", "softsign", "atan", "sign", "sgn"), Growth(odd=True)),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), Growth(nonneg=True, open=True)),
    "relu6": Growth(nonneg=True),
    **dict.fromkeys(("sin", "cos", "erfc", "heaviside"), Growth()),
}
WAVES = ("sin", "cos")  # come back to 0: no gates


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
    if node.op == "rrelu":
        return DOWN
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
    growth = growth_of(walk, node)
    if growth.power == 0:
        return squashed(node, state, growth)
    found = grown(node, state, growth)
    floor = state.rising if growth.open else ""
    tagged = state.norm is not None and node.op == "clamp_min" and state.norm[0] != "square"
    away = node.op == "clamp_min" and float(node.arguments["min"]) > 0
    return replace(found, floor=floor, norm=state.norm if tagged else None, away=away)


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
    attained = state.attained and bool(sides)
    reach = [
        side[1]
        for side, never in ((growth.right, state.high), (growth.left, state.low))
        if side and not (never and state.theta > 0)
    ]
    theta = power * state.theta
    above = growth.nonneg or -1 not in reach  # bounded from below, or of one sign
    return State(
        theta,
        None if state.index is None else state.index / power,
        attained=attained,
        uniform=state.uniform,
        random=state.random,
        up=attained and 1 in sides,
        down=attained and -1 in sides,
        low=theta == 0 or above,
        high=theta == 0 or 1 not in reach,
        nonneg=growth.nonneg,
        pools=attained and (above or (state.odd and growth.uneven) or _negated(node, state)),
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
    if growth.odd:
        return state.own if power == 1 or power == 0 else replace(state.own, kind="odd")
    if power not in (0, 1):
        return None
    gate = growth.open and power == 0
    return replace(state.own, kind="gate" if gate else "other")


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
    own = None if node.op in WAVES else _own(state, growth, 0.0)
    opened = state.rising if growth.open else state.floor if growth.odd else ""
    down = state.down and not growth.nonneg
    attained = growth.open or (state.attained and (state.up or not growth.nonneg))
    up = state.up or growth.open
    return replace(
        found,
        attained=attained,
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
