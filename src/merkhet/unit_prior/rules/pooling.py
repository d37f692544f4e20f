"""Operations that add up, compare or take the largest of entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, as_of, at, either
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
WHOLE = ("sum", "mean", "cumsum", "amax", "max", "logsumexp", "amin", "min")  # drop no entry


def _summed(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of sums of entries with factors that are not negative.

    Sums of entries that are bounded from below keep the upper tail. Sums of units over positions
    are units on the sum of their inputs; over rows, they are no lighter than each of them.
    """
    state = data["input"]
    rows = replace(state.own, rows=None) if state.own is not None and state.odd else None
    own = replace(rows, kind="odd", layout=(*rows.layout, node.name)) if rows else None
    energy = state.norm is not None and state.norm[0] == "square" and _keeps(node)
    fields = NOWHERE if _cancels(walk, node, state) else _over(walk, node, state)
    sure = bool(fields["attained"])
    return same(
        node,
        state,
        **fields,
        away=state.away and node.op not in ("cumsum", "col2im"),
        up=state.up and sure and (state.low or own is not None),
        down=state.down and sure and (state.high or own is not None),
        pools=state.pools and sure,
        centred=_left(node, state),
        own=own,
        norm=("energy", state.norm[1]) if energy and state.norm else None,
        reason=_told(state, sure=sure),
    )


def _told(state: State, *, sure: bool) -> str:
    """Say what sums do to tails, "" for nothing new."""
    if sure or not state.attained or not state.random:
        return ""
    return "an upper bound: entries may cancel, or heavy ones be left out"


def _over(walk: Walk, node: Node, state: State) -> dict[str, Any]:
    """Return for which results a heavy entry is among those that they are taken over."""
    if state.uniform and state.attained and node.op != "col2im":
        return dict(EVERY)
    return walk.through(node, state, keeps=node.op in WHOLE)


def _cancels(walk: Walk, node: Node, state: State) -> bool:
    """Tell whether entries may cancel: of no known sign, or over what a norm centres."""
    return not state.pools or bool(_dims(walk, node) & state.centred)


def _left(node: Node, state: State) -> frozenset[int]:
    """Return the axes along which results may sum to 0 still."""
    return frozenset(range(len(node.shape))) if state.centred else frozenset()


def _dims(walk: Walk, node: Node) -> frozenset[int]:
    """Return the axes that are summed over."""
    rank, given = len(walk.shape_of(node, "input")), node.arguments.get("dim")
    if node.op not in ("sum", "mean", "cumsum"):
        return frozenset(range(rank)) if node.op == "col2im" else _last(node, rank)
    dims = range(rank) if given is None or given == [] else given
    dims = [dims] if isinstance(dims, int) else dims
    return frozenset(int(dim) % rank for dim in dims) if rank else frozenset()


def _last(node: Node, rank: int) -> frozenset[int]:
    """Return the last axes, those that pooling is over by its name."""
    return frozenset(range(rank - int(node.op[-2]), rank))


def _keeps(node: Node) -> bool:
    """Tell whether a sum keeps its dimensions, so that it is one over the entries it divides."""
    return bool(node.arguments.get("keepdim")) and node.op in ("sum", "mean")


def _largest(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...]:
    """Return the state of maxima: as heavy upwards as what they are taken of."""
    found = _extreme(walk, node, data, upwards=node.arguments.get("largest") is not False)
    return found if len(node.shapes) < 2 else (found, _index(node, data))


def _least(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...]:
    """Return the state of minima: as heavy downwards as what they are taken of."""
    found = _extreme(walk, node, data, upwards=False)
    return found if len(node.shapes) < 2 else (found, _index(node, data))


def _extreme(walk: Walk, node: Node, data: dict[str, State], *, upwards: bool) -> State:
    """Return the state of the largest or smallest of entries, or of one or two results."""
    states = list(data.values())
    heaviest = states[0]
    for state in states[1:]:
        heaviest = state if state.heavier(heaviest) else heaviest
    peers = [one for one in states if not heaviest.heavier(one)]
    sided = [one for one in peers if (one.up if upwards else one.down)]
    fields = _among(walk, node, sided)
    random = any(one.random for one in states)
    there = attained = bool(fields["attained"])
    told = "the heaviest on that side" if there else "an upper bound: that side may be lighter"
    low = all(one.low for one in states) or (upwards and any(one.low for one in states[:2]))
    high = all(one.high for one in states) or (not upwards and any(one.high for one in states[:2]))
    return State(
        heaviest.theta,
        least_index(*states),
        **fields,
        random=random,
        up=attained and upwards,
        down=attained and not upwards,
        low=low,
        high=high,
        nonneg=all(one.nonneg for one in states),
        pools=attained and _one_sided(heaviest, states, low if upwards else high),
        weights=together(states),
        name=node.name,
        rising=node.name,
        reason=told,
    )


def _one_sided(heaviest: State, states: list[State], below: bool) -> bool:
    """Tell whether sums of extremes do not cancel: bounded on one side, or not negative."""
    return (heaviest.theta > 0 and below) or all(one.nonneg for one in states)


def _among(walk: Walk, node: Node, sided: list[State]) -> dict[str, Any]:
    """Return for which results an entry that is heavy on the right side is among those compared."""
    if len(sided) == 2:
        return either(*sided)
    if not sided or len(node.inputs) + len(node.parameters) > 1:
        return as_of(sided[0]) if sided else dict(NOWHERE)
    (state,) = sided
    if node.op in SORTS:
        return at(None, attained=state.attained and (state.uniform or node.op == "sort"))
    if state.uniform and state.attained:
        return dict(EVERY)
    if node.op not in WHOLE:
        return walk.through(node, state, keeps=False)
    largest = walk.largest(node, state)
    return at(largest, attained=state.attained)


def _index(node: Node, data: dict[str, State]) -> State:
    """Return the state of places and truths: bounded."""
    why = "bounded: places or truths"
    found = bounded(together(data.values()), f"{node.name} places", why)
    return one_sign(replace(found, **NOWHERE))  # a truth may be the same for all weights


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
    fields = (
        dict(EVERY) if state.uniform and state.attained else walk.through(node, state, keeps=True)
    )
    sure = bool(fields["attained"])
    found = same(node, state, **fields, own=None, norm=kept, up=sure, pools=sure)
    plain = replace(found, away=state.away, centred=frozenset())
    return replace(one_sign(plain), high=state.theta == 0)


def _spread(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a standard deviation or variance: a bound."""
    state, factor = data["input"], 2.0 if node.op == "var" else 1.0
    why = "an upper bound: entries may be alike"
    index = None if state.index is None else state.index / factor
    plain: dict[str, Any] = {**NOWHERE, "up": False, "pools": False, "own": None}
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
