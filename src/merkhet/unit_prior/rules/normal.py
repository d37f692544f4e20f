"""Normalisation, softmax and attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, at, nonzero
from merkhet.unit_prior.rules.products import by_constant
from merkhet.unit_prior.rules.state import Own, State, bounded, fresh, one_sign, together
from merkhet.unit_prior.rules.walk import Ruled, Walk, same


def _normalised(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of what is divided by its own spread: at most sqrt(n) of n entries."""
    state = data["input"]
    count = _entries(walk, node)
    alone = node.op != "rms_norm" and (count == 1 or _alike(node, state))
    why = "normalised: at most sqrt(n) of the n entries it is over, whatever the weights"
    kept = state.attained and not alone
    fields = at(None, attained=kept) | ({"uniform": True} if kept and state.uniform else {})
    found = replace(bounded(state.weights, node.name, why), **fields)
    fields = nonzero(found, _scale(walk, node))
    plain = node.op == "rms_norm"
    sure = bool(fields["attained"]) and (state.pools or not plain)
    centred = state.centred if plain else _centred(node)
    return replace(found, **fields, random=state.random, pools=sure, centred=centred)


def _alike(node: Node, state: State) -> bool:
    """Tell whether all that are normalised together are copies of one entry, perhaps."""
    return bool(state.copies) and all(
        axis in state.copies or node.shape[axis] == 1 for axis in _centred(node)
    )


def _scale(walk: Walk, node: Node) -> Tensor:
    """Return the factor of each entry, to be spread over the result; 1 where there is none."""
    scale = walk.constant(node, "weight")
    if scale is None:
        return torch.ones(())
    if node.op in ("layer_norm", "rms_norm"):
        return scale.expand(node.shape)
    return scale.view(-1, *[1] * (len(node.shape) - 2)).expand(node.shape)


def _centred(node: Node) -> frozenset[int]:
    """Return the axes over which a norm takes the mean away."""
    rank, given = len(node.shape), node.arguments.get("normalized_shape", ())
    if node.op == "layer_norm":
        return frozenset(range(rank - (len(given) if isinstance(given, list | tuple) else 1), rank))
    places, groups = frozenset(range(2, rank)), node.arguments.get("num_groups")
    if node.op == "batch_norm":
        return places | {0}
    together = node.op == "group_norm" and (groups or node.arguments.get("group")) != node.shape[1]
    return places | {1} if together else places


def _entries(walk: Walk, node: Node) -> int:
    """Return how many entries are normalised together; 0 where that does not matter."""
    shape = node.shape
    if node.op in ("layer_norm", "rms_norm"):
        given = node.arguments["normalized_shape"]
        return math.prod(given) if isinstance(given, list | tuple) else int(given)
    if node.op == "group_norm":
        groups = node.arguments.get("num_groups", node.arguments.get("group", 1))
        return math.prod(shape[1:]) // int(groups)
    return math.prod(shape[2:]) * (shape[0] if node.op == "batch_norm" else 1)


def _batch_norm(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state after batch norm: by kept statistics it scales, else it normalises."""
    kept = "running_mean" in node.parameters
    if node.op == "instance_norm":
        kept = node.arguments.get("use_input_stats") is False
    if not kept:
        return _normalised(walk, node, data)
    state, scale = data["input"], _scale(walk, node)
    shifts = [walk.constant(node, name) for name in ("bias", "running_mean")]
    moved = any(shift is not None and bool(shift.ne(0).any()) for shift in shifts)
    found = by_constant(node, state, scale)
    signs: dict[str, Any] = {"up": found.up, "down": found.down}
    if state.theta == 0 and moved:
        signs = {"up": False, "down": False}  # a shift may leave entries of one sign
    why = "as evaluated: kept statistics scale it by constants"
    told = why if found.attained or not state.attained else f"{why}; an upper bound: all are 0"
    lost: dict[str, Any] = {
        "nonneg": False,
        "away": False,
        "norm": None,
        "floor": "",
        "rising": node.name,
    }
    return replace(found, **signs, **lost, name=node.name, reason=told)


def _softmax(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of weights that sum to 1."""
    found = bounded(data["input"].weights, node.name, "softmax is bounded by 1")
    uniform = not data["input"].holes  # what is masked is 0
    found = replace(one_sign(found), uniform=uniform, norm=("weights", node.name))
    return replace(found, random=data["input"].random)


def _log_softmax(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of x_i - log sum_j e^(x_j): at least x_j - x_i in size, for any j.

    It is exact where x_j is symmetric given x_i, as units of one layer are.
    """
    state = data["input"]
    rows = state.own.rows if state.own is not None and state.odd else None
    dim = int(node.arguments["dim"])
    sure = state.attained and state.uniform and rows is not None and differ(rows, dim)
    why = "" if sure else "an upper bound: entries may be alike"
    flags = {**(EVERY if sure else NOWHERE), "up": False, "down": sure, "pools": sure}
    lost: dict[str, Any] = {
        "own": None,
        "nonneg": False,
        "low": state.theta == 0,
        "centred": frozenset(),
    }
    return same(node, state, high=True, reason=why, **lost, **flags)


def differ(rows: Tensor, dim: int) -> bool:
    """Tell whether entries along a dimension come from different rows, two of them at least."""
    return rows.shape[dim] > 1 and bool(rows.sort(dim)[0].diff(dim=dim).ne(0).all())


def _attention(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of attention: averages of values, no heavier than the values."""
    others = [data[name] for name in ("query", "key")]
    return averaged(node, data["value"], others, walk.shape_of(node, "value")[-2])


def averaged(node: Node, values: State, others: list[State], positions: int) -> State:
    """Return the state of averages of values, by weights that may depend on other results.

    At most the largest value, so theta of the values bounds it. If the values are units W h on
    bounded h, and their W is none that the averaging weights depend on, the average is W applied
    to an average of h: a unit again, of theta_w exactly.

    Args:
        node: The operation.
        values: State of the values.
        others: States that the averaging weights come from.
        positions: How many values are averaged.
    """
    proof = _averages_exactly(values, others, positions)
    own = values.own if proof and values.odd else None
    moved = None if own is None else replace(own, rows=None, layout=(*own.layout, node.name))
    told = proof or "an upper bound: large values may be averaged away"
    return State(
        values.theta,
        values.index,
        **(EVERY if proof else NOWHERE),
        random=values.random or any(one.random for one in others),
        up=bool(proof) and (values.odd or (values.up and values.low)),
        down=bool(proof) and (values.odd or (values.down and values.high)),
        low=values.low,
        high=values.high,
        nonneg=values.nonneg,
        pools=bool(proof),
        own=moved,
        weights=together((values, *others)),
        name=node.name,
        rising=node.name,
        reason=f"averages keep the tail {values.theta:g} of the values; {told}",
    )


def _averages_exactly(values: State, others: list[State], positions: int) -> str:
    """Say why averages have the tail of the values, or nothing."""
    if not values.attained or not values.uniform:
        return ""
    if positions == 1:
        return "of a single value"
    sums = values.pools and not values.centred
    if not any(one.random for one in others):
        return "by constant weights" if sums else ""
    own: Own | None = values.own
    if own is None or not values.odd or own.base.theta > 0 or not fresh(own, *others):
        return "bounded" if values.theta == 0 and values.nonneg else ""
    return "a unit on an average of bounded inputs" if sums else ""


NORMAL: dict[str, Ruled] = {
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), _normalised),
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax"), _softmax),
    "log_softmax": _log_softmax,
    "scaled_dot_product_attention": _attention,
}
