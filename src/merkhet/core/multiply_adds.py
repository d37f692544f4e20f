"""Multiply-adds of every operation that multiplies weights or activations with each other.

A multiply-add is one multiplication with the addition that follows it, so that a matrix
product of (m, k) with (k, n) costs m k n. Floating-point operations are twice as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from merkhet.core.graph import Network, Node, Ref, Rule
from merkhet.core.graph.kinds import KINDS

Counter = Callable[[Network, Node], int | None]

# Families of operations that compute without such products: they count as zero, as in the
# field's tables. Their results show in activation memory.
PRODUCT_FREE = (
    *("input", "constant", "shape", "activation", "softmax", "pooling", "embedding", "reduction"),
    *("arithmetic", "copy", "resampling", "dropout", "normalisation", "comparison"),
)


def counting_rules(network: Network) -> dict[str, Rule]:
    """Return rules for `core.graph.read` that count the multiply-adds of the whole batch."""
    free: dict[str, Rule] = {op: _zero for kind in PRODUCT_FREE for op in KINDS[kind]}
    return {**free, **{op: _rule(count, network) for op, count in COUNTERS.items()}}


def argument_shape(network: Network, node: Node, name: str) -> tuple[int, ...]:
    """Return the shape of an argument, be it another node's result or a parameter."""
    if name in node.parameters:
        return tuple(network.tensors[node.parameters[name]].shape)
    value = node.arguments[name]
    assert isinstance(value, Ref), f"{node.op} got {value!r} as its {name}"
    return network.node(value.name).shape


def _zero(_node: Node, _states: tuple[Any, ...]) -> int:
    return 0


def _rule(count: Counter, network: Network) -> Rule:
    """Return a count as a rule of a reading."""
    return lambda node, states: count(network, node)


def _convolution(network: Network, node: Node) -> int:
    """Each output entry sums over the input channels of its group and the kernel."""
    return node.size * math.prod(argument_shape(network, node, "weight")[1:])


def _any_convolution(network: Network, node: Node) -> int:
    """The general operation says by an argument which of the two it is."""
    counter = _transposed_convolution if node.arguments["transposed"] else _convolution
    return counter(network, node)


def _transposed_convolution(network: Network, node: Node) -> int:
    """Each input entry is spread over the output channels of its group and the kernel."""
    spread = math.prod(argument_shape(network, node, "weight")[1:])
    return math.prod(argument_shape(network, node, "input")) * spread


def _product(network: Network, node: Node, left: str) -> int:
    """Each output entry sums over the last dimension of the left factor."""
    return node.size * argument_shape(network, node, left)[-1]


def _bilinear(network: Network, node: Node) -> int:
    """Each output entry sums over pairs of input features."""
    return node.size * math.prod(argument_shape(network, node, "weight")[1:])


def _attention(network: Network, node: Node) -> int:
    """Scores, then their product with the values; a causal mask saves nothing here."""
    *rows, value_width = node.shape  # query, key and value broadcast against each other
    positions, width = argument_shape(network, node, "key")[-2:]
    return math.prod(rows) * positions * (width + value_width)


def _recurrence(network: Network, node: Node) -> int:
    """Each weight matrix is used once for every step of every example."""
    *steps, _ = argument_shape(network, node, "input")
    shapes = [network.tensors[name].shape for name in node.parameters.values()]
    return math.prod(steps) * sum(math.prod(shape) for shape in shapes if len(shape) == 2)


def _embedding_bag(network: Network, node: Node) -> int:
    """A weighted sum of rows uses each entry of the rows picked once; a plain sum only adds."""
    if node.arguments.get("per_sample_weights") is None:
        return 0
    width = argument_shape(network, node, "weight")[-1]
    return math.prod(argument_shape(network, node, "indices")) * width


def _matrix_vector(network: Network, node: Node) -> int:
    """Each entry of the matrix is used once."""
    return math.prod(argument_shape(network, node, "mat"))


def _summed_product(network: Network, node: Node) -> int:
    """A batch of matrix products, summed over the batch."""
    return math.prod(argument_shape(network, node, "batch1")) * node.shape[-1]


def _einsum(network: Network, node: Node) -> int | None:
    """Two factors cost one multiply-add for each combination of indices; more are not known."""
    equation = str(node.arguments["equation"]).replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        return None
    sides: dict[str, int] = {}
    for place, term in enumerate(terms):
        shape = _part_shape(network, node, "tensors", place)
        sides.update(zip(term, shape, strict=True))
    return math.prod(sides.values())


def _part_shape(network: Network, node: Node, name: str, place: int) -> tuple[int, ...]:
    """Return the shape of one tensor in an argument that is a list of them."""
    key = f"{name}.{place}"
    if key in node.parameters:
        return tuple(network.tensors[node.parameters[key]].shape)
    return network.node(node.arguments[name][place].name).shape


COUNTERS: dict[str, Counter] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "convolution": _any_convolution,
    **{f"conv_transpose{n}d": _transposed_convolution for n in (1, 2, 3)},
    **dict.fromkeys(
        ("linear", "matmul", "mm", "bmm", "dot", "mv"), partial(_product, left="input")
    ),
    "addmm": partial(_product, left="mat1"),
    "baddbmm": partial(_product, left="batch1"),
    "bilinear": _bilinear,
    "addbmm": _summed_product,
    "addmv": _matrix_vector,
    "einsum": _einsum,
    "embedding_bag": _embedding_bag,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(KINDS["recurrent"], _recurrence),
}
