"""Normalisation, softmax, attention, and products of matrices."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.products import product
from merkhet.unit_prior.rules.state import (
    Own,
    State,
    bounded,
    fresh,
    one_sign,
    together,
)
from merkhet.unit_prior.rules.walk import ROW, Ruled, Walk, same, weighted


def _normalised(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of what is divided by its own spread: at most sqrt(n) of n entries."""
    state = data["input"]
    count = _entries(walk, node)
    alone = count == 1 and node.op != "rms_norm"
    why = "normalised: at most sqrt(n) of the n entries it is over, whatever the weights"
    found = bounded(state.weights, node.name, why, attained=state.attained and not alone)
    return replace(found, random=state.random, pools=found.attained and not _centred(walk, node))


def _centred(walk: Walk, node: Node) -> bool:
    """Tell whether sums over positions alone are 0: each channel is normalised by itself."""
    groups = node.arguments.get("num_groups", node.arguments.get("group"))
    each = node.op == "group_norm" and groups == node.shape[1]
    return each or node.op in ("instance_norm", "batch_norm")


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
    state = data["input"]
    found = same(node, state, reason="as evaluated: kept statistics scale it by constants")
    return replace(found, nonneg=False, away=False) if state.random else found


def _softmax(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of weights that sum to 1."""
    found = bounded(data["input"].weights, node.name, "softmax is bounded by 1")
    return replace(one_sign(found), random=data["input"].random)


def _log_softmax(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of x_i - log sum_j e^(x_j): at least x_j - x_i in size, for any j.

    It is exact where x_j is symmetric given x_i, as units of one layer are.
    """
    state = data["input"]
    rows = state.own.rows if state.own is not None and state.odd else None
    dim = int(node.arguments["dim"])
    sure = state.attained and rows is not None and _differ(rows, dim)
    why = "" if sure else "an upper bound: entries may be alike"
    flags = {"attained": sure, "up": False, "down": sure, "pools": sure}
    return same(node, state, high=True, own=None, reason=why, **flags)


def _differ(rows: Tensor, dim: int) -> bool:
    """Tell whether entries along a dimension come from different rows."""
    return rows.shape[dim] > 1 and bool((rows.select(dim, 0) != rows.select(dim, 1)).all())


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
        attained=bool(proof),
        uniform=bool(proof),
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
    if not values.attained:
        return ""
    if positions == 1:
        return "of a single value"
    if not any(one.random for one in others):
        return "by constant weights" if values.pools else ""
    own: Own | None = values.own
    if own is not None and values.odd and own.base.theta == 0 and fresh(own, *others):
        return "a unit on an average of bounded inputs"
    return "bounded" if values.theta == 0 and values.nonneg else ""


def _matrix_product(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a product of matrices, one of which may be weights."""
    names = [name for name in OPERANDS if name in data]
    if len(names) != 2 or len(data) != 2:
        return "only products of two results are read; write x @ matrix + bias"
    for name, other in (names, names[::-1]):
        if not data[name].random and not data[other].parameter:
            return _combined(walk, node, data[other], nonneg=walk.nonnegative(node, name))
    return _two(walk, node, data[names[0]], data[names[1]])


OPERANDS = ("input", "mat1", "batch1", "other", "mat2", "batch2", "vec", "vec2", "tensor")


def _combined(walk: Walk, node: Node, state: State, *, nonneg: bool) -> State:
    """Return the state of sums of entries by constant factors.

    Args:
        walk: The reading.
        node: The operation.
        state: Of the entries.
        nonneg: Whether no factor is negative.
    """
    own = state.own
    unit = own is not None and state.odd and own.base.theta == 0
    sure = state.attained and (unit or (nonneg and state.pools))
    one_sided = {"up": sure and state.low and state.up, "down": sure and state.high and state.down}
    both = dict.fromkeys(("up", "down"), sure)
    kept = None if own is None or not unit else replace(own, rows=None, kind="odd")
    return same(
        node,
        state,
        attained=sure,
        **(both if state.odd else one_sided),
        low=state.low and (nonneg or state.high),
        high=state.high and (nonneg or state.low),
        nonneg=state.nonneg and nonneg,
        away=False,
        pools=sure and (unit or nonneg),
        own=kept,
        reason="" if sure else "an upper bound: entries may cancel",
    )


def _two(walk: Walk, node: Node, a: State, b: State) -> State:
    """Return the state of sums of products of two results."""
    for h, weight in ((a, b), (b, a)):
        if weight.parameter:
            if weight is b and node.op in ("matmul", "mm"):
                return weighted(node, h, weight, axis=-1, window=ROW)
            return weighted(node, h, weight)
    light, heavy = (b, a) if a.theta > b.theta or not b.random else (a, b)
    if light.nonneg and light.theta == 0 and light.random:
        return averaged(node, heavy, [light], 2)
    own = heavy.own
    exact = own is not None and heavy.odd and own.base.theta == 0 and fresh(own, light)
    sure = exact and light.theta == 0 and heavy.attained
    told = "a unit on a bounded input" if sure else "an upper bound: terms may cancel"
    return replace(
        product(node, a, b),
        attained=sure,
        uniform=sure,
        up=sure,
        down=sure,
        low=a.theta + b.theta == 0 or (a.nonneg and b.nonneg),
        pools=False,
        own=None,
        norm=None,
        reason=f"{a.theta:g} + {b.theta:g} of the factors; {told}",
    )


def _einsum(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of sums of products of one or more results."""
    parts = list(data.values())
    if len(parts) == 1:
        return replace(same(node, parts[0], own=None), attained=False, up=False, pools=False)
    found = _two(walk, node, parts[0], parts[1])
    for other in parts[2:]:
        found = _two(walk, node, found, other)
    return found


NORMAL: dict[str, Ruled] = {
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), _normalised),
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax"), _softmax),
    "log_softmax": _log_softmax,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot"), _matrix_product),
    "einsum": _einsum,
}
