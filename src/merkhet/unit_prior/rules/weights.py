"""Operations that apply weights: dense, convolution, embedding, bilinear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.entries import NOWHERE, as_of, at
from merkhet.unit_prior.rules.products import product
from merkhet.unit_prior.rules.state import State
from merkhet.unit_prior.rules.sums import total
from merkhet.unit_prior.rules.units import ROW, meeting, weighted
from merkhet.unit_prior.rules.walk import Ruled, Walk, same

LARGEST_OF_BAG = 2  # the mode of an embedding bag


def _dense(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state after a dense layer."""
    last = len(walk.shape_of(node, "input")) - 1
    return _layer(walk, node, data, -1, window=ROW, summed=frozenset({last}))


def _convolution(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state after a convolution, transposed or not: units share weights by position."""
    kernel = walk.shape_of(node, "weight")[2:]
    axis = len(node.shape) - len(kernel) - 1
    keys = ("stride", "padding", "dilation", "output_padding")
    told = ", ".join(f"{key} {node.arguments.get(key)}" for key in keys)
    alone = node.arguments.get("groups", 1) == 1
    turned = "transpose" in node.op or bool(node.arguments.get("transposed"))
    return _layer(
        walk,
        node,
        data,
        None if turned and not alone else axis,
        along=int(turned),
        summed=frozenset({axis}) if alone else frozenset(),
        window=f"{node.op} {kernel} {told}" if alone else "",
    )


def _layer(
    walk: Walk,
    node: Node,
    data: dict[str, State],
    axis: int | None,
    *,
    window: str,
    along: int = 0,
    summed: frozenset[int] = frozenset(),
    names: tuple[str, str] = ("input", "weight"),
) -> State | str:
    """Return the state after a layer, weights of which may be computed by the network."""
    h, weight = (data[name] for name in names)
    bias = data.get("bias")
    added = bias if bias is not None and bias.random and not bias.parameter else None
    if weight.parameter:
        met = meeting(walk, node, data, names)
        told: dict[str, Any] = {"axis": axis, "along": along, "summed": summed, "window": window}
        found = weighted(node, h, weight, None if added else bias, met=met, **told)
    else:
        found, added = _computed(node, h, weight), bias
    return total(node, found, added) if added is not None and added.random else found


def _computed(node: Node, h: State, weight: State) -> State:
    """Return the state of a layer whose weights the network computes: a bound."""
    found = product(node, h, weight)
    why = f"{found.reason}; its weights are computed by the network"
    gone: dict[str, Any] = {"up": False, "down": False, "pools": False, "own": None}
    return replace(found, **NOWHERE, **gone, reason=why)


def _addmm(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of beta bias + alpha x @ matrix, as Hugging Face's Conv1D has it."""
    factors = [node.arguments.get(name, 1) for name in ("alpha", "beta")]
    if factors != [1, 1]:
        return "only sums with alpha = beta = 1 are read; write bias + x @ matrix"
    renamed = {**data, "bias": data["input"]}
    last = frozenset({1})
    return _layer(walk, node, renamed, -1, window=ROW, along=1, summed=last, names=("mat1", "mat2"))


def _embedding(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of rows of a table: the tails of weights themselves."""
    if any(state.random for name, state in data.items() if name != "weight"):
        return "which rows it reads depends on the weights"
    if data.get("per_sample_weights") is not None:
        return "of embedding bags only those without weights for samples are read"
    table = data["weight"]
    own = replace(table.own, kind="odd") if table.own else None  # a row may be read twice
    kept = at(None, attained=table.attained and table.uniform)
    fields = as_of(table) if table.uniform and not _padded(node) else kept
    found = same(node, table, own=own, reason=table.reason, **fields)
    if node.op == "embedding_bag" and node.arguments.get("mode") == LARGEST_OF_BAG:
        return replace(found, own=None, down=False, pools=False)
    return found


def _padded(node: Node) -> bool:
    """Tell whether a row of a table stands for padding, and is 0."""
    place = node.arguments.get("padding_idx")
    return isinstance(place, int) and place >= 0


def _bilinear(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of sums of weights times products of two inputs."""
    one, other, weight = data["input1"], data["input2"], data["weight"]
    pair = replace(product(node, one, other), centred=frozenset())
    if not weight.parameter:
        return "its weights are computed by the network"
    sure = pair.uniform and weight.uniform
    met = at(None, attained=sure) | {"uniform": sure}
    found = weighted(node, pair, weight, data.get("bias"), met=met, axis=-1)
    return replace(found, pools=False)


WEIGHTS: dict[str, Ruled] = {
    "linear": _dense,
    "addmm": _addmm,
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution for n in (1, 2, 3)},
    "convolution": _convolution,
    **dict.fromkeys(("embedding", "embedding_bag"), _embedding),
    "bilinear": _bilinear,
}
