"""Products of matrices, one of which may be weights or constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.activations import unproved
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, at, entries
from merkhet.unit_prior.rules.normal import averaged, differ
from merkhet.unit_prior.rules.products import product
from merkhet.unit_prior.rules.state import State, fresh
from merkhet.unit_prior.rules.units import ROW, meeting, weighted
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

OPERANDS = ("input", "mat1", "batch1", "other", "mat2", "batch2", "vec", "vec2", "tensor")


def _matrix_product(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of a product of matrices, one of which may be weights."""
    names = [name for name in OPERANDS if name in data]
    if len(names) != 2 or len(data) != 2:
        return "only products of two results are read; write x @ matrix + bias"
    for name, other in (names, names[::-1]):
        if not data[name].random and not data[other].parameter:
            return _combined(walk, node, data, other, name)
    return _two(walk, node, data, (names[0], names[1]))


def _combined(walk: Walk, node: Node, data: dict[str, State], name: str, factor: str) -> State:
    """Return the state of sums of entries by constant factors.

    Args:
        walk: The reading.
        node: The operation.
        data: States of its arguments.
        name: Of the argument that is the entries.
        factor: Of the argument that is the constant.
    """
    state, value, first = data[name], walk.constant(node, factor), name in OPERANDS[:3]
    nonneg = value is not None and bool((value >= 0).all())
    axis = _contracted(len(walk.shape_of(node, name)), first=first)
    own = state.own
    rows = None if own is None or not state.odd else own.rows
    units = rows is not None and rows.dim() > axis and _each(rows, axis)
    pools = nonneg and state.pools and axis not in state.centred
    there = bool(data[factor].attained) and (units or pools)
    fields = _met(walk, node, state, name, factor) if there else NOWHERE
    sure = bool(fields["attained"])
    one_sided = {"up": sure and state.low and state.up, "down": sure and state.high and state.down}
    both = dict.fromkeys(("up", "down"), sure)
    kept = None if own is None or not sure else replace(own, rows=None, kind="odd")
    return same(
        node,
        state,
        **fields,
        **(both if state.odd else one_sided),
        low=state.low and (nonneg or state.high),
        high=state.high and (nonneg or state.low),
        nonneg=state.nonneg and nonneg,
        pools=sure and nonneg and state.pools,
        centred=frozenset(range(len(node.shape)) if state.centred else ()),
        own=kept if state.odd else None,
        reason="" if sure else "an upper bound: entries may cancel",
    )


def _contracted(rank: int, *, first: bool) -> int:
    """Return the axis of an operand that a product of matrices sums over."""
    return rank - 1 if first or rank == 1 else rank - 2


def _each(rows: torch.Tensor, axis: int) -> bool:
    """Tell whether entries along an axis are of different rows, or there is only one."""
    return rows.shape[axis] == 1 or differ(rows, axis)


def _met(walk: Walk, node: Node, state: State, name: str, factor: str) -> dict[str, Any]:
    """Return at which results a heavy entry meets a factor other than 0."""
    value = walk.constant(node, factor)
    marks = entries(state, walk.shape_of(node, name))
    if value is None or marks is None:  # of an unknown constant not all factors are 0
        return at(None, attained=state.attained and state.uniform and value is None)
    found = walk.replay(node, {name: marks.float(), factor: value.ne(0).float()})
    return at(found > 0, attained=False) if isinstance(found, torch.Tensor) else dict(NOWHERE)


def _two(walk: Walk, node: Node, data: dict[str, State], names: tuple[str, str]) -> State:
    """Return the state of sums of products of two results."""
    for name, other in (names, names[::-1]):
        if data[other].parameter:
            return _applied(walk, node, data, (name, other))
    return _results(node, *(data[name] for name in names))


def _applied(walk: Walk, node: Node, data: dict[str, State], names: tuple[str, str]) -> State:
    """Return the state of weights applied to a result by a product of matrices."""
    h, weight = (data[name] for name in names)
    met = meeting(walk, node, data, names)
    ranks = [len(walk.shape_of(node, name)) for name in names]
    right = names[1] in OPERANDS[3:]
    summed = frozenset({_contracted(ranks[0], first=right)})
    if right and node.op in ("matmul", "mm") and ranks[1] >= 2:
        told: dict[str, Any] = {"axis": -1, "along": ranks[1] - 1, "window": ROW}
        return weighted(node, h, weight, met=met, summed=summed, **told)
    return weighted(node, h, weight, met=met, summed=summed)


def _results(node: Node, a: State, b: State) -> State:
    """Return the state of sums of products of two results, neither of which is weights."""
    light, heavy = (b, a) if a.theta > b.theta or not b.random else (a, b)
    if light.nonneg and light.theta == 0 and light.random:
        found = averaged(node, heavy, [light], 2)
        weights = light.norm is not None and light.norm[0] == "weights"  # in no row are all 0
        return found if light.uniform or weights else unproved(found)
    own = heavy.own
    exact = own is not None and heavy.odd and own.base.theta == 0 and fresh(own, light)
    there = heavy.attained and heavy.uniform and light.attained and light.uniform
    sure = exact and light.theta == 0 and there and not light.centred
    told = "a unit on a bounded input" if sure else "an upper bound: terms may cancel"
    return replace(
        product(node, a, b),
        **(EVERY if sure else NOWHERE),
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
    parts = list(data.items())
    if len(parts) == 1:
        plain: dict[str, Any] = {"own": None, "up": False, "down": False, "pools": False}
        return same(node, parts[0][1], **NOWHERE, **plain, reason="an upper bound: einsum")
    pairs = [(one, other) for one in data for other in data if one != other]
    for name, other in pairs if len(parts) == 2 else ():
        if data[other].parameter:
            return _contraction(walk, node, data, (name, other))
    found = _results(node, parts[0][1], parts[1][1])
    for _, state in parts[2:]:
        found = _results(node, found, state)
    gone: dict[str, Any] = {"up": False, "down": False, "pools": False, "own": None}
    return found if len(parts) == 2 else replace(found, **NOWHERE, **gone)


def _contraction(walk: Walk, node: Node, data: dict[str, State], names: tuple[str, str]) -> State:
    """Return the state of an einsum of entries and weights: each weight must come once a sum."""
    letters = str(node.arguments["equation"]).replace(" ", "").partition("->")
    operands = letters[0].split(",")
    place = int(names[1].rpartition(".")[2])
    weights, entry = operands[place], operands[1 - place]
    once = all(len(set(one)) == len(one) for one in operands) and "." not in letters[0]
    kept = letters[2] if letters[1] else [one for one in entry if one not in weights]
    alone = set(entry) - set(kept) - set(weights)
    met = meeting(walk, node, data, names) if once and not alone else NOWHERE
    return weighted(node, data[names[0]], data[names[1]], met=met)


MATRICES: dict[str, Ruled] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot"), _matrix_product),
    "einsum": _einsum,
}
