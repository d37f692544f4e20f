"""Operations that move, pick, repeat or join entries."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.state import (
    Own,
    State,
    constant,
    least_index,
    together,
)
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

COPIES = (
    *("to", "clone", "alias", "detach", "contiguous", "type_as", "_conj"),
    *("dropout", "feature_dropout", "alpha_dropout"),
)
MOVES = (
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "permute"),
    *("transpose", "t", "numpy_T", "movedim", "roll", "flip", "pixel_shuffle", "pixel_unshuffle"),
    *("channel_shuffle", "rot90"),
)
REPEATS = (
    *("expand", "expand_as", "repeat", "tile", "repeat_interleave", "unfold", "im2col"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
)
PICKS = (
    *("select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "getitem"),
    *("index", "index_select", "gather", "diagonal", "tril", "triu"),
)


def _copied(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of the same values."""
    return replace(data["input"])


def _moved(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of the same entries in other places."""
    state = data["input"]
    own = None if state.own is None else _own_after(node, state.own, moved=True)
    return same(node, state, own=own)


def _repeated(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of entries some of which come several times."""
    state = data["input"]
    own = None if state.own is None else _own_after(node, state.own, moved=True)
    if own is not None and own.kind == "weights":
        own = replace(own, kind="odd")
    spread = node.op in ("expand", "expand_as")
    return same(node, state, own=own, norm=state.norm if spread else None, away=state.away)


def _own_after(node: Node, own: Own, *, moved: bool) -> Own:
    """Return the last layer of weights after a move, which row made each entry with it."""
    rows = own.rows
    if rows is not None:
        arguments = {key: value for key, value in node.arguments.items() if key != "input"}
        try:
            found = getattr(torch.ops.aten, node.op)(rows, **arguments)
        except (RuntimeError, TypeError, AttributeError):
            found = None  # places that depend on data: rows are not known any more
        rows = found if isinstance(found, torch.Tensor) else None
    return replace(own, rows=rows, layout=(*own.layout, node.name) if moved else own.layout)


def _picked(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...]:
    """Return the state of some of the entries: exact if that of every entry is."""
    state = data["input"]
    if len(data) > 1 and node.op in REPEATING:
        return _looked_up(node, data)
    if node.op not in SEVERAL:
        return _part(node, state, _parts(node, state.own)[0])
    named = enumerate(_parts(node, state.own))
    return tuple(_part(node, state, own, f"{node.name} {place}") for place, own in named)


def _looked_up(node: Node, data: dict[str, State]) -> State:
    """Return the state of entries at places that are results, of weights or of constants."""
    found = _part(node, data["input"], None)
    if not any(state.random for name, state in data.items() if name != "input"):
        return found
    bound = replace(found, attained=False, up=False, down=False, pools=False)
    why = "an upper bound: which entries depends on the weights"
    return replace(bound, weights=together(data.values()), reason=why)


def halves(node: Node, state: State) -> tuple[State, State]:
    """Return the states of the two halves of a result, along the node's dimension."""
    owns = [state.own, state.own]
    if state.own is not None and state.own.rows is not None:
        rows = state.own.rows.chunk(2, int(node.arguments["dim"]))
        owns = [_own_part(node, state.own, half) for half in rows]
    one, other = (_part(node, state, own, f"{node.name} {place}") for place, own in enumerate(owns))
    return one, other


REPEATING = ("index", "index_select", "gather")
SEVERAL = ("split", "split_with_sizes", "chunk", "unbind")


def _parts(node: Node, own: Own | None) -> list[Own | None]:
    """Return the last layer of weights of each part that is picked."""
    count = len(node.shapes)
    if own is None:
        return [None] * count
    if own.rows is None:
        return [replace(own, layout=(*own.layout, node.name))] * count
    arguments = {key: value for key, value in node.arguments.items() if key != "input"}
    try:
        found = getattr(torch.ops.aten, node.op)(own.rows, **arguments)
    except (RuntimeError, TypeError, AttributeError):
        found = [None] * count
    rows = list(found) if isinstance(found, list | tuple) else [found]
    return [_own_part(node, own, part) for part in rows]


def _own_part(node: Node, own: Own, rows: torch.Tensor | None) -> Own:
    """Return the last layer of weights of a part; counts tell whether rows were picked whole."""
    if own.kind == "weights" and node.op in REPEATING:
        own = replace(own, kind="odd")
    whole = rows is not None and _positions(rows) == _positions(own.rows)
    return replace(own, rows=rows, layout=own.layout if whole else (*own.layout, node.name))


def _positions(rows: torch.Tensor | None) -> float:
    """Return how many entries each row made."""
    return math.nan if rows is None else rows.numel() / max(len(rows.unique()), 1)


def _part(node: Node, state: State, own: Own | None, name: str = "") -> State:
    """Return the state of one part, under a name of its own where there are several."""
    attained = state.attained and state.uniform
    weights = dict(state.weights)
    if own is not None and own.rows is not None and own.base.weights.keys().isdisjoint(own.names):
        weights |= dict.fromkeys(own.names, own.used())
    return same(
        node,
        state,
        attained=attained,
        up=state.up and attained,
        down=state.down and attained,
        pools=state.pools and attained,
        own=own,
        weights=weights,
        name=name or node.name,
        rising=name or node.name,
        reason="" if attained or not state.attained else "some entries: their tail may be lighter",
    )


def _got(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of one result of several."""
    return data["input"]


def _joined(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of results side by side: that of the heaviest."""
    states = list(data.values())
    if len(states) == 1:
        return replace(states[0])
    heaviest = states[0]
    for state in states[1:]:
        heaviest = state if state.heavier(heaviest) else heaviest
    peers = [one for one in states if not heaviest.heavier(one)]
    attained = any(one.attained for one in peers)
    return State(
        heaviest.theta,
        least_index(*states),
        attained=attained,
        uniform=len(peers) == len(states) and all(one.attained and one.uniform for one in peers),
        random=any(one.random for one in states),
        up=all(one.up for one in peers),
        down=all(one.down for one in peers),
        low=all(one.low for one in states),
        high=all(one.high for one in states),
        nonneg=all(one.nonneg for one in states),
        pools=attained and all(one.pools for one in peers) and all(one.low for one in states),
        weights=together(states),
        name=node.name,
        rising=node.name,
        reason=f"joined: the heaviest has {heaviest.theta:g}",
    )


def _chosen(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of entries taken from two results: at most that of the heavier."""
    states = [state for name, state in data.items() if name not in ("condition", "mask")]
    found = _joined(walk, node, {str(place): state for place, state in enumerate(states)})
    assert isinstance(found, State)
    masked = not any(state.random for name, state in data.items() if name in ("condition", "mask"))
    constant = len([one for one in states if one.random]) == 1 and masked
    sure = found.attained and constant and node.op == "masked_fill"
    told = "some entries are replaced" if sure else "an upper bound: which entries is not known"
    return replace(
        found,
        attained=sure or not found.random,
        uniform=False,
        up=sure and found.up,
        down=sure and found.down,
        pools=sure and found.pools and found.nonneg,
        weights=together(data.values()),
        random=any(state.random for state in data.values()),
        own=None,
        reason=told,
    )


def _padded(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of entries with a border, of a constant or of copies."""
    state = data["input"]
    zeros = node.arguments.get("mode", "constant") == "constant"
    return same(node, state, uniform=state.uniform and not zeros, own=None, away=False)


def _shaped(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of constants that take their shape from a result."""
    return replace(constant(node.name), attained="zeros" not in node.op)


SHAPES: dict[str, Ruled] = {
    **dict.fromkeys(COPIES, _copied),
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(REPEATS, _repeated),
    **dict.fromkeys(PICKS, _picked),
    "getitem": _got,
    **dict.fromkeys(("cat", "stack", "slice_scatter", "select_scatter", "index_put"), _joined),
    **dict.fromkeys(("where", "masked_fill"), _chosen),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones"), _shaped),
    **dict.fromkeys(("new_full", "empty_like"), _shaped),
}
