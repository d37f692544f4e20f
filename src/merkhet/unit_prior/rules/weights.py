"""Operations that apply weights: dense, convolution, embedding, bilinear."""

from __future__ import annotations

from dataclasses import replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.products import product
from merkhet.unit_prior.rules.state import State
from merkhet.unit_prior.rules.walk import ROW, Ruled, Walk, weighted


def _dense(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state after a dense layer."""
    return _layer(node, data, -1, window=ROW)


def _convolution(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state after a convolution, transposed or not: units share weights by position."""
    axis = len(node.shape) - int(node.op[-2]) - 1 if node.op[-1] == "d" else 1
    keys = ("stride", "padding", "dilation", "output_padding")
    told = ", ".join(f"{key} {node.arguments.get(key)}" for key in keys)
    kernel = walk.shape_of(node, "weight")[2:]
    alone = node.arguments.get("groups", 1) == 1
    return _layer(node, data, axis, window=f"{node.op} {kernel} {told}" if alone else "")


def _layer(node: Node, data: dict[str, State], axis: int, *, window: str) -> State | str:
    """Return the state after a layer, weights of which may be computed by the network."""
    h, weight, bias = data["input"], data["weight"], data.get("bias")
    if weight.parameter:
        return weighted(node, h, weight, bias, axis=axis, mixes=window == ROW, window=window)
    if not weight.random and not h.random:
        return replace(h, name=node.name, rising=node.name)
    found = product(node, h, weight)
    why = f"{found.reason}; its weights are computed by the network"
    return replace(found, attained=False, up=False, down=False, own=None, reason=why)


def _addmm(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of bias + x @ matrix, as Hugging Face's Conv1D has it."""
    renamed = {"input": data["mat1"], "weight": data["mat2"], "bias": data["input"]}
    return _layer(node, renamed, -1, window=ROW)


def _embedding(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of rows of a table: the tails of weights themselves."""
    if any(state.random for name, state in data.items() if name != "weight"):
        return "which rows it reads depends on the weights"
    table = data["weight"]
    own = replace(table.own, kind="odd") if table.own else None  # a row may be read twice
    return replace(table, own=own, name=node.name, rising=node.name)


def _bilinear(walk: Walk, node: Node, data: dict[str, State]) -> State | str:
    """Return the state of sums of weights times products of two inputs."""
    names = ("input1", "input2")
    pair = product(node, *(data[name] for name in names))
    return weighted(node, pair, data["weight"], data.get("bias"), axis=-1)


WEIGHTS: dict[str, Ruled] = {
    "linear": _dense,
    "addmm": _addmm,
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution for n in (1, 2, 3)},
    "convolution": _convolution,
    **dict.fromkeys(("embedding", "embedding_bag"), _embedding),
    "bilinear": _bilinear,
}
