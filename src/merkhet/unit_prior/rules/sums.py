"""Sums and differences of two results."""

from __future__ import annotations

from dataclasses import replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.state import State, apart, fresh, least_index, together
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

MAY_CANCEL = "an upper bound: the two depend on the same weights and may cancel"


def _added(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a sum or difference."""
    minus = {"sub": "other", "rsub": "input"}.get(node.op)
    terms = {
        name: flipped(state) if (name == minus) != _negative(node, name) else state
        for name, state in data.items()
    }
    if len(terms) == 1:
        ((name, state),) = terms.items()
        number = "other" if name == "input" else "input"
        return _shifted(node, state, walk.sign(node, number), zero=_zero(walk, node, number))
    for name, other in (("input", "other"), ("other", "input")):
        if not terms[name].random:
            sign, zero = walk.sign(node, name), _zero(walk, node, name)
            return _shifted(node, terms[other], sign, zero=zero)
    return total(node, terms["input"], terms["other"])


def _zero(walk: Walk, node: Node, name: str) -> bool:
    """Tell whether a constant argument is 0."""
    return walk.zeros(node, name) == "all"


def _negative(node: Node, name: str) -> bool:
    """Tell whether a term is taken with a negative factor."""
    scaled = "input" if node.op == "rsub" else "other"
    alpha = node.arguments.get("alpha")
    return name == scaled and alpha is not None and float(alpha) < 0


def _shifted(node: Node, state: State, sign: int, *, zero: bool) -> State:
    """Return the state of a result plus a constant.

    Args:
        node: The operation.
        state: Of the result.
        sign: Of all entries of the constant, 0 where it is not known.
        zero: Whether the constant is 0.
    """
    more = sign > 0 and node.op == "add"
    energy = state.norm is not None and state.norm[0] == "energy" and (more or zero)
    own = replace(state.own, kind="odd") if state.parameter and state.own else state.own
    limited = state.low and state.high
    return same(
        node,
        state,
        own=own if state.odd else None,
        away=(state.nonneg and more) or (state.away and (more or zero)),
        nonneg=state.nonneg and (more or zero),
        floor=(state.rising if limited else state.floor) if more else "",
        norm=state.norm if energy else None,
    )


def flipped(state: State) -> State:
    """Return the state of minus a result."""
    return replace(
        state,
        up=state.down,
        down=state.up,
        low=state.high,
        high=state.low,
        nonneg=False,
        away=False,
        rising="",
        floor="",
        norm=None,
        own=state.own if state.odd else None,
    )


def total(node: Node, a: State, b: State) -> State:
    """Return the state of a sum: the heavier of the two, exactly where nothing can cancel.

    By Minkowski's inequality |a + b|_k >= |a|_k - |b|_k, which settles unequal tails. Where they
    are equal: if b is symmetric about 0 given a, E|a + b|^k is at least E|a|^k and E|b|^k; if a
    and b are independent, at least P(|b| <= m) E(|a| - m)_+^k; if both are bounded from below, the
    upper tail is no lighter than either's.
    """
    if a.heavier(b) or b.heavier(a):
        big, small = (a, b) if a.heavier(b) else (b, a)
        return _dominated(node, big, small)
    up, down, proof = _equal(a, b)
    attained = bool(proof)
    theta = max(a.theta, b.theta)
    return State(
        theta,
        least_index(a, b),
        attained=attained,
        uniform=(a.attained and a.uniform) or (b.attained and b.uniform),
        random=a.random or b.random,
        up=up,
        down=down,
        low=a.low and b.low,
        high=a.high and b.high,
        nonneg=a.nonneg and b.nonneg,
        away=(a.away and b.nonneg) or (b.away and a.nonneg),
        pools=attained and (a.pools or b.pools),
        weights=together((a, b)),
        name=node.name,
        rising=(a.rising if a.rising == b.rising else "") or node.name,
        reason=f"the larger of two equal tails; {proof or MAY_CANCEL}",
    )


def _dominated(node: Node, big: State, small: State) -> State:
    """Return the state of a sum of unequal tails."""
    bound = "" if big.attained else "; an upper bound, as the heavier one's is"
    return State(
        big.theta,
        big.index,
        attained=big.attained,
        uniform=big.uniform,
        random=True,
        up=big.up,
        down=big.down,
        low=big.low and small.low,
        high=big.high and small.high,
        nonneg=big.nonneg and small.nonneg,
        pools=big.pools,
        weights=together((big, small)),
        name=node.name,
        rising=(big.rising if big.rising == small.rising else "") or node.name,
        reason=f"the heavier of the two, {big.theta:g} over {small.theta:g}{bound}",
    )


def _equal(a: State, b: State) -> tuple[bool, bool, str]:
    """Return whether tails up and down are attained by a sum, and the proof, "" for none."""
    if not (a.attained or b.attained):
        return False, False, ""
    signs = [(one, other) for one, other in ((a, b), (b, a)) if _symmetric(one, other)]
    if len(signs) == 2:
        return True, True, "each is symmetric given the other"
    if signs:
        ((_, given),) = signs
        return given.up, given.down, "one is symmetric given the other"
    if apart(a, b):
        return a.up or b.up, a.down or b.down, "independent"
    if (a.nonneg and b.nonneg) or (a.theta > 0 and a.low and b.low and (a.up or b.up)):
        return a.up or b.up, False, "both are bounded from below"
    return False, False, ""


def _symmetric(one: State, given: State) -> bool:
    """Tell whether a result is symmetric about 0 given another."""
    return one.odd and one.own is not None and fresh(one.own, given)


SUMS: dict[str, Ruled] = dict.fromkeys(("add", "sub", "rsub"), _added)
