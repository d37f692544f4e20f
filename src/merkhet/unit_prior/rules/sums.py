"""Sums and differences of two results."""

from __future__ import annotations

from dataclasses import replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import NOWHERE, as_of, either
from merkhet.unit_prior.rules.state import State, apart, constant, fresh, least_index, together
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

MAY_CANCEL = "an upper bound: the two depend on the same weights and may cancel"


def _added(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a sum or difference."""
    terms = {name: _factored(node, name, state) for name, state in data.items()}
    for name, other in (("input", "other"), ("other", "input")):
        if name in terms and (other not in terms or not terms[other].random):
            return _shifted(walk, node, terms[name], other)
    return total(node, terms["input"], terms["other"])


def _factor(node: Node, name: str) -> float:
    """Return the factor that a term is taken with."""
    alpha = node.arguments.get("alpha")
    minus = {"sub": "other", "rsub": "input"}.get(node.op)
    scale = 1.0 if alpha is None or name != (minus or "other") else float(alpha)
    return -scale if name == minus else scale


def _factored(node: Node, name: str, state: State) -> State:
    """Return the state of a term times its factor, by name."""
    factor = _factor(node, name)
    if factor == 0:
        return replace(constant(node.name, "taken 0 times"), **NOWHERE)
    if factor < 0:
        return flipped(state)
    return state if factor == 1 else replace(state, name="")  # not the very values any more


def _shifted(walk: Walk, node: Node, state: State, name: str) -> State:
    """Return the state of a result plus a constant.

    Args:
        walk: The reading.
        node: The operation.
        state: Of the result, with its factor.
        name: The argument that is the constant.
    """
    value, factor = walk.constant(node, name), _factor(node, name)
    zero = factor == 0 or (value is not None and not bool(value.ne(0).any()))
    more = value is not None and bool((value * factor > 0).all())
    less = value is not None and bool((value * factor < 0).all())
    energy = state.norm is not None and state.norm[0] == "energy" and (more or zero)
    own = replace(state.own, kind="odd") if state.parameter and state.own else state.own
    limited = state.low and state.high
    tailed = state.theta > 0 or zero  # else a shift may leave entries of one sign
    return same(
        node,
        state,
        up=state.up and (tailed or more),
        down=state.down and (tailed or less),
        own=own if state.odd else None,
        holes=state.holes or value is None or not bool(value.isfinite().all()),
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
    fields = either(a, b) if proof else NOWHERE
    attained = bool(fields["attained"])
    theta = max(a.theta, b.theta)
    return State(
        theta,
        least_index(a, b),
        **fields,
        random=a.random or b.random,
        up=up,
        down=down,
        low=a.low and b.low,
        high=a.high and b.high,
        nonneg=a.nonneg and b.nonneg,
        away=(a.away and b.nonneg) or (b.away and a.nonneg),
        pools=attained and (a.pools or b.pools),
        centred=a.centred | b.centred,
        holes=a.holes or b.holes,
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
        **as_of(big),
        random=True,
        up=big.up,
        down=big.down,
        low=big.low and small.low,
        high=big.high and small.high,
        nonneg=big.nonneg and small.nonneg,
        pools=big.pools,
        centred=big.centred,
        holes=big.holes or small.holes,
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
