"""Operations that add up, compare or take the largest of entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.state import State, bounded, least_index, one_sign, together
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

SUMS = (
    *("sum", "mean", "cumsum", "col2im"),
    *(f"avg_pool{n}d" for n in (1, 2, 3)),
    *(f"adaptive_avg_pool{n}d" for n in (1, 2, 3)),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
)
MAXIMA = (
    *("amax", "max", "logsumexp", "maximum", "topk", "sort"),
    *(f"max_pool{n}d" for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"adaptive_max_pool{n}d" for n in (1, 2, 3)),
)
MINIMA = ("amin", "min", "minimum")
SORTS = ("sort", "topk")


def _summed(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of sums of entries with factors that are not negative.

    Sums of entries that are bounded from below keep the upper tail. Sums of units over positions
    are units on the sum of their inputs; over rows, they are no lighter than each of them.
    """
    state = data["input"]
    rows = replace(state.own, rows=None) if state.own is not None and state.odd else None
    own = replace(rows, kind="odd", layout=(*rows.layout, node.name)) if rows else None
    kept = {"uniform": state.pools, "away": state.away and node.op != "cumsum"}
    energy = state.norm is not None and state.norm[0] == "square" and _keeps(node)
    if _centred(walk, node):
        state = replace(state, pools=False)
    told = "" if state.pools or not state.attained else "an upper bound: entries may cancel"
    return same(
        node,
        state,
        **kept,
        attained=state.attained and state.pools,
        up=state.up and state.pools and (state.low or own is not None),
        down=state.down and state.pools and (state.high or own is not None),
        own=own,
        norm=("energy", state.norm[1]) if energy and state.norm else None,
        reason=told if state.random else "",
    )


def _centred(walk: Walk, node: Node) -> bool:
    """Tell whether sums over what a norm centres are taken: they are 0."""
    source = walk.parameters.network.node(node.inputs[0])
    rank, given = len(source.shape), node.arguments.get("dim")
    dims = range(rank) if given is None else [given] if isinstance(given, int) else given
    over = {int(dim) % rank for dim in dims} if rank else set()
    return (source.op == "layer_norm" and rank - 1 in over) or (
        source.op == "group_norm" and 1 in over
    )


def _keeps(node: Node) -> bool:
    """Tell whether a sum keeps its dimensions, so that it is one over the entries it divides."""
    return bool(node.arguments.get("keepdim")) and node.op in ("sum", "mean")


def _largest(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...]:
    """Return the state of maxima: as heavy upwards as what they are taken of."""
    found = _extreme(node, list(data.values()), upwards=True)
    return found if len(node.shapes) < 2 else (found, _index(node, data))


def _least(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...]:
    """Return the state of minima: as heavy downwards as what they are taken of."""
    found = _extreme(node, list(data.values()), upwards=False)
    return found if len(node.shapes) < 2 else (found, _index(node, data))


def _extreme(node: Node, states: list[State], *, upwards: bool) -> State:
    """Return the state of the largest or smallest of entries, or of one or two results."""
    heaviest = states[0]
    for state in states[1:]:
        heaviest = state if state.heavier(heaviest) else heaviest
    peers = [one for one in states if not heaviest.heavier(one)]
    there = any(one.up if upwards else one.down for one in peers)
    random = any(one.random for one in states)
    attained = there or not random
    told = "the heaviest on that side" if there else "an upper bound: that side may be lighter"
    low = all(one.low for one in states) or (upwards and any(one.low for one in states[:2]))
    high = all(one.high for one in states) or (not upwards and any(one.high for one in states[:2]))
    return State(
        heaviest.theta,
        least_index(*states),
        attained=attained,
        uniform=all(one.uniform for one in peers) and node.op not in SORTS,
        random=random,
        up=attained and upwards,
        down=attained and not upwards,
        low=low,
        high=high,
        nonneg=all(one.nonneg for one in states),
        pools=attained and (low if upwards else high),
        weights=together(states),
        name=node.name,
        rising=node.name,
        reason=told,
    )


def _index(node: Node, data: dict[str, State]) -> State:
    """Return the state of places and truths: bounded."""
    return one_sign(bounded(together(data.values()), node.name, "bounded: places or truths"))


def _compared(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of comparisons."""
    return _index(node, data)


def _normed(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a norm: at most the sum of sizes, at least each size."""
    order = node.arguments.get("ord", node.arguments.get("p", 2))
    if order is not None and float(order) < 1:
        return "of norms only those of order 1 and more are read"
    state = data["input"]
    kept = ("root", state.name) if node.arguments.get("keepdim") else None
    found = same(node, state, own=None, norm=kept, up=state.attained, pools=state.attained)
    return replace(one_sign(found), high=state.theta == 0)


def _spread(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a standard deviation or variance: a bound."""
    state, factor = data["input"], 2.0 if node.op == "var" else 1.0
    why = "an upper bound: entries may be alike"
    index = None if state.index is None else state.index / factor
    plain: dict[str, Any] = {"attained": False, "up": False, "pools": False, "own": None}
    found = same(node, state, theta=factor * state.theta, index=index, reason=why, **plain)
    return replace(one_sign(found), high=state.theta == 0)


POOLING: dict[str, Ruled] = {
    **dict.fromkeys(SUMS, _summed),
    **dict.fromkeys(MAXIMA, _largest),
    **dict.fromkeys(MINIMA, _least),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _normed),
    **dict.fromkeys(("std", "var"), _spread),
}
COMPARISONS: dict[str, Ruled] = dict.fromkeys(
    (
        *("eq", "ne", "lt", "le", "gt", "ge", "__and__", "__or__", "logical_and", "logical_or"),
        *("logical_not", "bitwise_not", "bitwise_and", "isinf", "isnan", "argmax", "argmin"),
        *("one_hot", "argsort", "bucketize", "isfinite", "all", "any"),
    ),
    _compared,
)
