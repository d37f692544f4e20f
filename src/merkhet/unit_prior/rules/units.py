"""Layers of weights: what they are applied to, and which of their entries see it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, at, entries
from merkhet.unit_prior.rules.state import Own, State, least_index, together
from merkhet.unit_prior.rules.walk import Walk

ROW = "a row"  # the window of a dense layer
LEFT_OUT = {"bias": None, "alpha": 1, "beta": 0}  # of a layer that is applied to marks


def weighted(
    node: Node,
    h: State,
    weight: State,
    bias: State | None = None,
    *,
    met: dict[str, Any],
    axis: int | None = None,
    along: int = 0,
    summed: frozenset[int] = frozenset(),
    window: str = "",
) -> State:
    """Return the state of sums of weights times entries: theta_h + theta_w.

    Given h and all weights of a unit but one, w_1, the rest is symmetric about 0, so that
    E|g|^k >= E|w_1 h_1|^k = E|w_1|^k E|h_1|^k if w_1 is independent of h_1; and by Minkowski's
    and Hoelder's inequalities |g|_k is at most a constant times |w|_k |h|_k. For power tails the
    same lines show which moments are finite.

    Args:
        node: The operation.
        h: What the weights are applied to.
        weight: The weights.
        bias: What is added.
        met: Which units see a heavy entry through a weight that is there, as `meeting` has it.
        axis: Of the result, along which units have other weights; None where that is not known.
        along: Of the weight, along which its rows are; rows are known of whole weights only.
        summed: Axes of h that every unit sums over with weights of its own.
        window: Layers of the same are applied to the same entries; by default none is.
    """
    tied = not set(weight.weights).isdisjoint(h.weights)
    theta = max(h.theta + weight.theta, bias.theta if bias else 0.0)
    extra = (bias,) if bias is not None and bias.random else ()
    parts = (h, weight, *extra)
    index = least_index(*parts)
    if tied and index and h.index and weight.index:
        index = 1 / (1 / h.index + 1 / weight.index)  # Hoelder's, for they are not independent
    fields = NOWHERE if tied else met
    attained = bool(fields["attained"])
    names = (*weight.weights, *(name for one in extra for name in one.weights))
    whole = all(one.name in one.weights for one in (weight, *extra))
    rows = _rows(node, axis) if whole else None
    return State(
        theta,
        index,
        **fields,
        random=True,
        up=attained,
        down=attained,
        low=theta == 0,
        high=theta == 0,
        pools=attained and h.pools,
        centred=h.centred - summed,
        own=Own(names, rows, h, layout=(window or node.name,), along=along),
        weights=together(parts),
        name=node.name,
        rising=node.name,
        reason=_weighted_reason(h, weight, tied, attained=attained),
    )


def meeting(walk: Walk, node: Node, data: dict[str, State], names: tuple[str, str]) -> Any:
    """Return for which units a heavy entry meets a weight that is there.

    Args:
        walk: The reading.
        node: The operation, which multiplies and adds up.
        data: States of its arguments.
        names: Of the arguments that are entries and weights.
    """
    h, weight = (data[name] for name in names)
    if not (h.attained and weight.attained):
        return dict(NOWHERE)
    wide = "conv" in node.op
    if h.uniform and weight.uniform and not wide and node.op != "einsum":
        return dict(EVERY)
    marks = [entries(data[name], walk.shape_of(node, name)) for name in names]
    if marks[0] is None or marks[1] is None:
        return at(None, attained=weight.uniform and not wide)
    changes = dict(zip(names, (one.float() for one in marks if one is not None), strict=True))
    if wide and weight.uniform and (h.uniform or node.arguments.get("groups", 1) == 1):
        changes |= _one_channel(node, *changes.values())
    found = walk.replay(node, {**_left_out(node), **changes})
    if not isinstance(found, Tensor):
        return dict(NOWHERE)
    return at((found > 0).expand(node.shape), attained=False)


def _one_channel(node: Node, entries: Tensor, kernel: Tensor) -> dict[str, Any]:
    """Return arguments of a convolution of one channel, which is heavy where any of many is."""
    axis = entries.dim() - (kernel.dim() - 2) - 1
    return {"input": entries.amax(axis, keepdim=True), "weight": kernel[:1, :1], "groups": 1}


def _left_out(node: Node) -> dict[str, Any]:
    """Return arguments that leave out what a layer adds."""
    found = {name: value for name, value in LEFT_OUT.items() if name in node.arguments}
    if "bias" in node.parameters:
        found["bias"] = None
    return {**found, "input": torch.zeros(())} if node.op == "addmm" else found


def _weighted_reason(h: State, weight: State, tied: bool, *, attained: bool) -> str:
    """Say how the tails of weights add to those of what they are applied to."""
    if math.isinf(weight.theta):
        told = f"a power tail of the least index; weights {_told(weight)}, input {_told(h)}"
    elif weight.theta == 0:
        told = f"bounded weights: at finite width nothing gets heavier, {_told(h)} (input)"
    else:
        told = f"{_told(weight)} (weights) + {_told(h)} (input)"
    if tied:
        return f"{told}; an upper bound: {next(iter(weight.weights))} is already in its input"
    if not h.attained:
        return f"{told}; an upper bound, as its input's is"
    return told if attained else f"{told}; an upper bound: no weight is known to see what is heavy"


def _told(state: State) -> str:
    """Return theta, or the index of a power tail, in short."""
    return f"{state.theta:g}" if state.index is None else f"{state.index:g}"


def _rows(node: Node, axis: int | None) -> Tensor | None:
    """Return which row of the weights makes each entry of a node's result."""
    if axis is None or not node.shape:
        return None
    shape = [1] * len(node.shape)
    shape[axis] = -1
    rows = torch.arange(node.shape[axis], dtype=torch.int32).view(shape)
    return rows.expand(node.shape)
