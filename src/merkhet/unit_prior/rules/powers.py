"""Powers, roots, inverses and exponentials of each entry."""

from __future__ import annotations

import math
from dataclasses import replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.activations import grown
from merkhet.unit_prior.rules.entries import NOWHERE, as_of, at
from merkhet.unit_prior.rules.growth import Growth
from merkhet.unit_prior.rules.state import State, bounded
from merkhet.unit_prior.rules.walk import Ruled, Walk, same


def powered(node: Node, state: State, power: float) -> State | str:
    """Return the state of a power of each entry, or why it has none."""
    whole = power == int(power)
    if power <= 0:
        return _inverse(node, state, power)
    if not whole and not state.nonneg:
        return "a root or broken power of a result that may be negative"
    if whole and int(power) % 2:
        found = grown(node, state, Growth((power, 1), (power, -1), odd=True))
        return replace(found, rising=state.rising)
    found = grown(node, state, Growth((power, 1), (power, 1), nonneg=True))
    return squared(node, state) if power == 2 else replace(found, norm=_root(state, power))


def squared(node: Node, state: State) -> State:
    """Return the state of the square of each entry."""
    found = grown(node, state, Growth((2.0, 1), (2.0, 1), nonneg=True))
    return replace(found, norm=("square", state.name))


def _root(state: State, power: float) -> tuple[str, str] | None:
    """Return that a result is the root of a sum of squares, if it is."""
    if power == 0.5 and state.norm is not None and state.norm[0] == "energy":
        return "root", state.norm[1]
    return None


def _inverse(node: Node, state: State, power: float) -> State | str:
    """Return the state of a negative power, of what is away from 0."""
    if not state.away:
        return "an inverse of a result that may come close to 0: small values decide its tail"
    found = bounded(state.weights, node.name, "an inverse of what is above a constant: bounded")
    energy = power == -0.5 and state.norm is not None and state.norm[0] == "energy"
    norm = ("inverse", state.norm[1]) if energy and state.norm else None
    return replace(found, nonneg=True, down=False, norm=norm, random=state.random)


def _power(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a power with a number for exponent."""
    exponent = node.arguments.get("exponent")
    if len(data) != 1 or not isinstance(exponent, int | float) or "input" not in data:
        return "only powers with a number for exponent are read"
    if exponent == 1:
        return same(node, data["input"])
    return powered(node, data["input"], float(exponent))


def _fixed(power: float) -> Ruled:
    """Return the rule of one power."""

    def rule(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
        found = powered(node, data["input"], power)
        if power != 0.5 or isinstance(found, str):
            return found
        return replace(found, away=data["input"].away)

    return rule


def _exponential(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of an exponential: heavier than any exp(-t^(1 / theta)), unless bounded.

    Of a Gaussian it is log-normal: |e^X|_k = e^(k sigma^2 / 2) grows faster than any power of k.
    Of tails heavier than exponential no moment is finite.
    """
    state = data["input"]
    if state.high:
        found = bounded(state.weights, node.name, "exp of what is bounded from above")
        if node.op == "expm1":
            found = replace(found, **as_of(state), pools=False)
        found = replace(found, uniform=found.uniform and not state.holes)
        return replace(found, nonneg=node.op == "exp", down=node.op != "exp", random=state.random)
    if not state.random:
        return same(node, state, low=True)
    left = as_of(state) if not state.holes else at(None, attained=state.attained)
    fields = left if state.up else NOWHERE
    sure = state.attained and state.up
    none = state.theta > 1
    told = "no moment is finite" if none else "heavier than any Weibull tail (log-normal at 1/2)"
    return State(
        math.inf,
        0.0 if none else None,
        **fields,
        random=True,
        up=sure,
        down=False,
        low=True,
        nonneg=node.op == "exp",
        pools=sure,
        weights=state.weights,
        name=node.name,
        rising=node.name,
        reason=f"exp of a tail {state.theta:g}: {told}{'' if sure else '; an upper bound'}",
    )


def _logarithm(walk: Walk, node: Node, data: dict[str, State]) -> str:
    """Say why a logarithm is not read."""
    return "small values decide the tail of a logarithm; use log_softmax or softplus"


POWERS: dict[str, Ruled] = {
    "pow": _power,
    "square": _fixed(2.0),
    "sqrt": _fixed(0.5),
    "rsqrt": _fixed(-0.5),
    "reciprocal": _fixed(-1.0),
    **dict.fromkeys(("exp", "expm1", "exp2"), _exponential),
    **dict.fromkeys(("log", "log2", "log10", "log1p"), _logarithm),
}
