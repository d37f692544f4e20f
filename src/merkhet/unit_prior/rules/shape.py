"""Operations that move, pick, repeat or join entries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import EVERY, NOWHERE, as_of, at, entries
from merkhet.unit_prior.rules.replay import moved_axes, places
from merkhet.unit_prior.rules.state import Own, State, bounded, together
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


def _copied(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of the same values, which a cast may cut to whole numbers or truths."""
    state = data["input"]
    kind = node.dtype
    if kind is None or kind.is_floating_point or not state.random:
        return replace(state)
    if kind.is_complex:
        return "complex numbers are not read"
    why = "cast to truths: bounded" if kind == torch.bool else "cast to whole numbers: bounded"
    found = bounded(state.weights, node.name, why)
    if kind == torch.bool:
        return replace(found, **as_of(state), low=True, nonneg=True, down=False)
    return replace(found, **NOWHERE, nonneg=state.nonneg, up=False, down=False, pools=False)


def _moved(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of the same entries in other places."""
    state = data["input"]
    fields = as_of(state) if state.where is None else walk.through(node, state, keeps=True)
    own = None if state.own is None else _own_after(walk, node, state.own)
    kept = {"centred": _axes(walk, node, state.centred), "copies": _axes(walk, node, state.copies)}
    return same(node, state, **fields, **kept, own=own, away=state.away)


def _axes(walk: Walk, node: Node, axes: frozenset[int]) -> frozenset[int]:
    """Return the axes of a result that some axes of what is moved have become; all in doubt."""
    if not axes:
        return axes
    found = walk.replay(node, {"input": places(walk.shape_of(node, "input"), axes)})
    every = frozenset(range(len(node.shape)))
    return moved_axes(found) if isinstance(found, torch.Tensor) else every


def _repeated(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of entries some of which come several times."""
    state = data["input"]
    spread = node.op in ("expand", "expand_as")
    plain = state.uniform and node.op != "im2col"
    fields = as_of(state) if plain else walk.through(node, state, keeps=node.op in EVERYTHING)
    sure = bool(fields["attained"])
    own = None if state.own is None else _own_after(walk, node, state.own)
    if own is not None and own.kind == "weights":
        own = replace(own, kind="odd")
    return same(
        node,
        state,
        **fields,
        up=state.up and sure,
        down=state.down and sure,
        pools=state.pools and sure,
        centred=_axes(walk, node, state.centred),
        copies=_axes(walk, node, state.copies) | _grown(walk, node),
        own=own,
        norm=state.norm if spread else None,
        away=state.away and node.op != "im2col",
    )


def _grown(walk: Walk, node: Node) -> frozenset[int]:
    """Return the axes along which one entry was repeated."""
    before, after = walk.shape_of(node, "input"), node.shape
    if node.op not in EVERYTHING:
        return frozenset()
    sizes = (1,) * (len(after) - len(before)) + tuple(before)
    return frozenset(axis for axis, size in enumerate(after) if size > 1 and sizes[axis] == 1)


EVERYTHING = ("expand", "expand_as", "repeat", "tile", "repeat_interleave")  # drop no entry


def _own_after(walk: Walk, node: Node, own: Own) -> Own:
    """Return the last layer of weights after a move, which row made each entry with it."""
    return replace(own, rows=_moved_rows(walk, node, own), layout=(*own.layout, node.name))


def _moved_rows(walk: Walk, node: Node, own: Own) -> torch.Tensor | None:
    """Return which row made each entry, after a move; None where that is not known."""
    if own.rows is None or node.op == "im2col":
        return None
    found = walk.replay(node, {"input": own.rows})
    return found if isinstance(found, torch.Tensor) else None


def _picked(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...] | str:
    """Return the state of some of the entries: exact if that of every entry is."""
    state = data["input"]
    chosen = [one for name, one in data.items() if name != "input"]
    if any(one.random for one in chosen):
        return _looked_up(walk, node, data)
    owns, marks = _parts(walk, node, state.own), _marks(walk, node, state)
    if node.op not in SEVERAL:
        return _part(walk, node, state, owns[0], marks[0])
    named = enumerate(zip(owns, marks, strict=True))
    return tuple(
        _part(walk, node, state, own, mark, f"{node.name} {place}") for place, (own, mark) in named
    )


def _marks(walk: Walk, node: Node, state: State) -> list[dict[str, Any]]:
    """Return, for each part that is picked, at which entries the tail is proved."""
    count = len(node.shapes)
    if state.attained and state.uniform and node.op not in TRIANGLES:
        return [dict(EVERY)] * count
    where = entries(state, walk.shape_of(node, "input"))
    if where is None or not state.attained:
        return [dict(NOWHERE)] * count
    found = walk.replay(node, {"input": where})
    parts = list(found) if isinstance(found, list | tuple) else [found]
    if len(parts) != count or not all(isinstance(part, torch.Tensor) for part in parts):
        return [dict(NOWHERE)] * count
    return [at(part, attained=False) for part in parts]


def _looked_up(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of entries at places that are results of weights: a bound."""
    found = _part(walk, node, data["input"], None, NOWHERE)
    why = "an upper bound: which entries depends on the weights"
    return replace(found, weights=together(data.values()), reason=why)


def halves(walk: Walk, node: Node, state: State) -> tuple[State, State]:
    """Return the states of the two halves of a result, along the node's dimension."""
    where = entries(state, walk.shape_of(node, "input"))
    marks = [dict(NOWHERE)] * 2
    if where is not None:
        parts = where.chunk(2, int(node.arguments["dim"]))
        marks = [at(part, attained=False) for part in parts]
    owns = [state.own, state.own]
    if state.own is not None and state.own.rows is not None:
        rows = state.own.rows.chunk(2, int(node.arguments["dim"]))
        owns = [_own_part(node, state.own, half) for half in rows]
    one, other = (
        _part(walk, node, state, own, mark, f"{node.name} {place}")
        for place, (own, mark) in enumerate(zip(owns, marks, strict=True))
    )
    return one, other


REPEATING = ("index", "index_select", "gather")
TRIANGLES = ("tril", "triu")  # put zeros in the place of other entries
SEVERAL = ("split", "split_with_sizes", "chunk", "unbind")


def _parts(walk: Walk, node: Node, own: Own | None) -> list[Own | None]:
    """Return the last layer of weights of each part that is picked."""
    count = len(node.shapes)
    if own is None:
        return [None] * count
    if own.rows is None:
        return [replace(own, layout=(*own.layout, node.name))] * count
    found = None if node.op in TRIANGLES else walk.replay(node, {"input": own.rows})
    rows = list(found) if isinstance(found, list | tuple) else [found] * count
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


def _part(
    walk: Walk, node: Node, state: State, own: Own | None, fields: dict[str, Any], name: str = ""
) -> State:
    """Return the state of one part, under a name of its own where there are several."""
    attained = bool(fields["attained"])
    weights = dict(state.weights)
    if own is not None and own.rows is not None and own.base.weights.keys().isdisjoint(own.names):
        weights |= dict.fromkeys(own.names, own.used())
    return same(
        node,
        state,
        **fields,
        up=state.up and attained,
        down=state.down and attained,
        pools=state.pools and attained,
        centred=_axes_after(walk, node, state.centred),
        copies=_axes_after(walk, node, state.copies),
        own=own,
        weights=weights,
        away=state.away and node.op not in TRIANGLES,
        name=name or node.name,
        rising=name or node.name,
        reason="" if attained or not state.attained else "some entries: their tail may be lighter",
    )


def _axes_after(walk: Walk, node: Node, axes: frozenset[int]) -> frozenset[int]:
    """Return the axes of picked entries that some axes have become; all in doubt."""
    if node.op in SEVERAL or node.op == "glu":
        return frozenset(range(len(node.shape)) if axes else ())
    return _axes(walk, node, axes)


def _got(walk: Walk, node: Node, data: dict[str, State]) -> State:
    """Return the state of one result of several."""
    return data["input"]


SHAPES: dict[str, Ruled] = {
    **dict.fromkeys(COPIES, _copied),
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(REPEATS, _repeated),
    **dict.fromkeys(PICKS, _picked),
    "getitem": _got,
}
