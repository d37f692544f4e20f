"""Operations that put results side by side, choose among them, or pad them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, at, entries
from merkhet.unit_prior.rules.state import State, constant, least_index, together
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

CONDITIONS = ("condition", "mask")


def _joined(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of results side by side: that of the heaviest."""
    states = list(data.values())
    if len(states) == 1:
        return replace(states[0])
    heaviest = states[0]
    for state in states[1:]:
        heaviest = state if state.heavier(heaviest) else heaviest
    peers = {name: one for name, one in data.items() if not heaviest.heavier(one)}
    fields = _side_by_side(walk, node, data, peers)
    attained = bool(fields["attained"])
    every = list(peers.values())
    signed = heaviest.theta > 0 or all(one.nonneg for one in states)  # so that sums do not cancel
    return State(
        heaviest.theta,
        least_index(*states),
        **fields,
        random=any(one.random for one in states),
        up=attained and all(one.up for one in every),
        down=attained and all(one.down for one in every),
        low=all(one.low for one in states),
        high=all(one.high for one in states),
        nonneg=all(one.nonneg for one in states),
        pools=signed and _all_pool(states, every, attained=attained),
        centred=_centred(node, states),
        holes=any(one.holes for one in states),
        weights=together(states),
        name=node.name,
        rising=node.name,
        reason=f"joined: the heaviest has {heaviest.theta:g}" + _told(heaviest, attained=attained),
    )


def _centred(node: Node, states: list[State]) -> frozenset[int]:
    """Return the axes along which entries of a result may sum to 0: any, if some of them do."""
    return frozenset(range(len(node.shape)) if any(one.centred for one in states) else ())


def _told(heaviest: State, *, attained: bool) -> str:
    """Say what was lost, "" for nothing."""
    return "" if attained or not heaviest.attained else ", an upper bound: some may be left out"


def _all_pool(states: list[State], peers: list[State], *, attained: bool) -> bool:
    """Tell whether sums of results side by side keep the tail: nothing can cancel."""
    return attained and all(one.pools for one in peers) and all(one.low for one in states)


def _side_by_side(
    walk: Walk, node: Node, data: dict[str, State], peers: dict[str, State]
) -> dict[str, Any]:
    """Return at which entries of a joined result the tail is proved."""
    keeps = node.op in ("cat", "stack")
    if len(peers) == len(data) and all(one.attained and one.uniform for one in peers.values()):
        return dict(EVERY) if keeps or node.op.endswith("_scatter") else dict(NOWHERE)
    if node.op == "index_put":
        return dict(NOWHERE)
    marks = {name: torch.zeros(walk.shape_of(node, name)) for name in data}
    for name, one in peers.items():
        found = entries(one, walk.shape_of(node, name))
        if found is None:
            return at(None, attained=keeps)
        marks[name] = found.float()
    where = walk.replay(node, marks)
    return at(where > 0, attained=False) if isinstance(where, torch.Tensor) else dict(NOWHERE)


def _chosen(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of entries taken from two results: at most that of the heavier."""
    taken = {name: state for name, state in data.items() if name not in CONDITIONS}
    states = list(taken.values()) or [constant()]
    heaviest = max(states, key=lambda one: one.theta)
    peers = {name: one for name, one in taken.items() if not heaviest.heavier(one)}
    fields = _taken(walk, node, peers, fixed=_fixed(data))
    sure = bool(fields["attained"])
    numbers = [node.arguments.get(name) for name in ("value", "other")]
    fills = [float(one) for one in numbers if isinstance(one, int | float)]
    told = "some entries are replaced" if sure else "an upper bound: which entries is not known"
    nonneg = all(one.nonneg for one in states) and all(fill >= 0 for fill in fills)
    return State(
        heaviest.theta,
        least_index(*states),
        **fields,
        random=any(state.random for state in data.values()),
        up=sure and all(one.up for one in peers.values()),
        down=sure and all(one.down for one in peers.values()),
        low=all(one.low for one in states),
        high=all(one.high for one in states),
        nonneg=nonneg,
        pools=sure and nonneg and all(one.pools for one in peers.values()),
        centred=_centred(node, states),
        holes=any(one.holes for one in states) or not all(map(math.isfinite, fills)),
        weights=together(data.values()),
        name=node.name,
        rising=node.name,
        reason=told,
    )


def _fixed(data: dict[str, State]) -> bool:
    """Tell whether which entries are taken does not depend on the weights."""
    return not any(state.random for name, state in data.items() if name in CONDITIONS)


def _taken(walk: Walk, node: Node, peers: dict[str, State], *, fixed: bool) -> dict[str, Any]:
    """Return at which entries the tail is proved, of entries taken by a mask that is known."""
    mask = walk.constant(node, "mask" if node.op == "masked_fill" else "condition")
    if mask is None or not fixed:
        return dict(NOWHERE)
    if node.op == "masked_fill":
        mask = ~mask.bool()
    found = torch.zeros(node.shape, dtype=torch.bool)
    for name, keep in (("input", mask.bool()), ("other", ~mask.bool())):
        one = peers.get(name)
        where = None if one is None else entries(one, walk.shape_of(node, name))
        if where is not None:
            found = found | (where & keep)
    return at(found, attained=False)


def _padded(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of entries with a border, of a constant or of copies, or cropped."""
    state = data["input"]
    kind, fill = node.arguments.get("mode", "constant"), float(node.arguments.get("value") or 0)
    marked: dict[str, Any] = {"value": 0} if "value" in node.arguments else {}
    fields = walk.through(node, state, keeps=False, **marked)
    sure = bool(fields["attained"])
    signs = {"up": state.up and sure, "down": state.down and sure, "pools": state.pools and sure}
    lost = "" if sure or not state.attained else "an upper bound: what is heavy may be cut off"
    return same(
        node,
        state,
        **fields,
        **signs,
        nonneg=state.nonneg and (kind != "constant" or fill >= 0),
        holes=state.holes or not math.isfinite(fill),
        own=None,
        reason=lost if state.random else "",
    )


def _shaped(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of constants that take their shape from a result."""
    fill = node.arguments.get("fill_value", 1)
    known = "empty" not in node.op and isinstance(fill, int | float)
    value = torch.tensor(0.0 if "zeros" in node.op or not known else float(fill))
    if known:
        walk.values[node.name] = value.expand(node.shape)
    return replace(constant(node.name), **at(value.ne(0), attained=False), nonneg=bool(value >= 0))


JOINS: dict[str, Ruled] = {
    **dict.fromkeys(("cat", "stack", "slice_scatter", "select_scatter", "index_put"), _joined),
    **dict.fromkeys(("where", "masked_fill"), _chosen),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones"), _shaped),
    **dict.fromkeys(("new_full", "empty_like"), _shaped),
}
