"""Linear operations as steps of a chain, whose norm is taken as one operator's.

Shapes: b examples, c channels; W weights as torch has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.graph import Node
from merkhet.core.linear import steps as linear
from merkhet.core.linear.steps import Step
from merkhet.rkhs.rules_state import Bound, State, Walk

Steps = tuple[Step, ...] | str
MIXES = (
    "it mixes the examples of a batch, or moves them out of the first dimension, where they are "
    "not followed"
)
DRAWN = "it draws random numbers in evaluation, too: give training=self.training"
COMPUTED = "its weights are computed from the input: a product of two results has no finite bound"


def linear_rule(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state after a linear operation: its steps wait, its bias changes nothing."""
    data = walk.data(node, given)
    if len(data) != 1:
        return COMPUTED
    ((name, state),) = data.items()
    try:
        found = LINEAR[node.op](walk, node, name)
    except LookupError as error:
        return f"its weights are not known: {error.args[0]}"
    if isinstance(found, str):
        return found
    after = walk.then(node, state, found)
    return after if _fits(walk, node, after) else MIXES


def _fits(walk: Walk, node: Node, after: Bound) -> bool:
    """Tell whether the steps answer what the network does, example by example."""
    if node.shape[:1] != (walk.batch,):
        return False
    try:
        return after.chain.output_shape == node.shape[1:]
    except InputError:
        return False


def _weight(walk: Walk, node: Node, name: str = "weight") -> Tensor:
    """Return weights in float64."""
    found = walk.constants.argument(node, name)
    if found is None:
        raise LookupError(f"no {name}")
    return found.double()


def _dense(walk: Walk, node: Node, name: str) -> Steps:
    """Of x W^T + bias."""
    if name != "input" or len(node.shape) < 2:
        return COMPUTED if name != "input" else MIXES
    return (linear.Dense(_weight(walk, node)),)


def _times_matrix(walk: Walk, node: Node, name: str) -> Steps:
    """Of x M, or M x for matrices x, M constant."""
    left, right = ("mat1", "mat2") if node.op == "addmm" else ("input", LATER.get(node.op, "other"))
    if name not in (left, right):
        return "only the product of an input with constants is read"
    matrix = _weight(walk, node, right if name == left else left)
    rank = len(walk.shape_of(node, name))
    if matrix.dim() == 1 and name == left and rank > 1:
        return (linear.Dense(matrix[None]), linear.Reshape(node.shape[1:]))
    if matrix.dim() != 2 or rank < 2 or (name == right and rank < 3):
        return MIXES if rank < 3 else "only products with one matrix are read"
    scale = float(node.arguments.get("alpha", 1)) if node.op == "addmm" else 1.0
    if name == left:
        return (linear.Dense(scale * matrix.mT),)
    turn = linear.Permute((*range(rank - 3), rank - 2, rank - 3))
    return (turn, linear.Dense(matrix), turn)


def _convolution(walk: Walk, node: Node, name: str) -> Steps:
    """A convolution, whatever its padding; of the general operation, either kind."""
    if name != "input":
        return COMPUTED
    if node.arguments.get("transposed"):
        return _transposed(walk, node, name)
    weight = _weight(walk, node)
    dims = weight.dim() - 2
    if len(node.shape) != dims + 2:
        return MIXES
    dilation = _each(node.arguments.get("dilation", 1), dims)
    sides = _sides(node.arguments.get("padding", 0), tuple(weight.shape[2:]), dilation)
    mode = node.arguments.get("padding_mode", "zeros")  # of modules that only hooks saw
    around: Steps = ()
    if mode != "zeros":
        around, sides = (linear.Pad(sides, mode),), ((0, 0),) * dims
    stride = _each(node.arguments.get("stride", 1), dims)
    groups = int(node.arguments.get("groups", 1))
    return (*around, linear.Convolution(weight, stride, sides, dilation, groups))


def _transposed(walk: Walk, node: Node, name: str) -> Steps:
    """A transposed convolution."""
    weight = _weight(walk, node)
    dims = weight.dim() - 2
    if name != "input" or len(node.shape) != dims + 2:
        return COMPUTED if name != "input" else MIXES
    stride, padding, extra, dilation = (
        _each(node.arguments.get(key, default), dims)
        for key, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    )
    groups = int(node.arguments.get("groups", 1))
    return (linear.TransposedConvolution(weight, stride, padding, extra, dilation, groups),)


def _batch_norm(walk: Walk, node: Node, name: str) -> Steps:
    """Gains over sqrt(var + eps), from what was kept in training."""
    if node.arguments.get("training") or node.arguments.get("use_input_stats"):
        return MIXES
    if name != "input" or "running_var" not in node.parameters:
        return MIXES
    factor = (_weight(walk, node, "running_var") + float(node.arguments["eps"])).rsqrt()
    gain = walk.constants.argument(node, "weight")
    factor = factor if gain is None else factor * gain
    return (linear.Scale(factor.reshape(-1, *(1,) * (len(node.shape) - 2))),)


def _average(walk: Walk, node: Node, name: str) -> Steps:
    """Means over windows."""
    dims = int(node.op[-2])
    if len(node.shape) != dims + 2:
        return MIXES
    kernel = _each(node.arguments["kernel_size"], dims)
    return (
        linear.AveragePool(
            kernel,
            _each(node.arguments.get("stride") or kernel, dims),
            _each(node.arguments.get("padding", 0), dims),
            bool(node.arguments.get("ceil_mode", False)),
            bool(node.arguments.get("count_include_pad", True)),
            node.arguments.get("divisor_override"),
        ),
    )


def _adaptive(walk: Walk, node: Node, name: str) -> Steps:
    """Means over windows that give a wanted size."""
    dims = int(node.op[-2])
    if len(node.shape) != dims + 2:
        return MIXES
    return (linear.AdaptiveAveragePool(node.shape[2:]),)


def _reduced(walk: Walk, node: Node, name: str) -> Steps:
    """Means or sums over dimensions of an example."""
    dims = example_dims(node.arguments.get("dim"), len(walk.shape_of(node, name)))
    if dims is None:
        return MIXES
    kind = linear.Mean if node.op == "mean" else linear.Sum
    return (kind(dims, bool(node.arguments.get("keepdim", False))),)


def _pad(walk: Walk, node: Node, name: str) -> Steps:
    """Padding; a constant that is not zero shifts the answer and changes no difference."""
    flat = [int(count) for count in node.arguments["pad"]]
    mode = node.arguments.get("mode", "constant")
    pairs = [(a, b) for a, b in zip(flat[::2], flat[1::2], strict=True)]
    if len(pairs) >= len(node.shape):
        return MIXES
    return (linear.Pad(tuple(reversed(pairs)), mode),)


def _reshaped(walk: Walk, node: Node, name: str) -> Steps:
    """The same entries in another shape; each example keeps its own."""
    before = walk.shape_of(node, name)
    if before[:1] != node.shape[:1]:
        return MIXES
    return () if before == node.shape else (linear.Reshape(node.shape[1:]),)


def _permuted(walk: Walk, node: Node, name: str) -> Steps:
    """Dimensions in another order, the batch's in its place."""
    rank = len(node.shape)
    order = _order(node, rank)
    return MIXES if order[0] != 0 else (linear.Permute(tuple(dim - 1 for dim in order[1:])),)


def _order(node: Node, rank: int) -> list[int]:
    """Return the dimensions of a permutation."""
    order = list(range(rank))
    if node.op == "permute":
        return [int(dim) % rank for dim in node.arguments["dims"]]
    one, other = (
        int(node.arguments.get(key, default)) % rank for key, default in (("dim0", 0), ("dim1", 1))
    )
    order[one], order[other] = order[other], order[one]
    return order


def _same(walk: Walk, node: Node, name: str) -> Steps:
    """The same values; another precision is rounding, which a bound in float64 leaves out."""
    if node.arguments.get("train"):  # functional dropout that minds no mode
        return DRAWN
    return ()


def _negated(walk: Walk, node: Node, name: str) -> Steps:
    """-x."""
    return (linear.Scale(torch.tensor(-1.0, dtype=torch.float64)),)


def example_dims(given: Any, rank: int) -> tuple[int, ...] | None:
    """Return dimensions of a batch as those of an example, None where the batch's is among them."""
    if given is None or given == []:
        return None
    dims = given if isinstance(given, list | tuple) else [given]
    found = tuple(int(dim) % rank - 1 for dim in dims)
    return None if -1 in found else found


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """Return a number for each dimension."""
    numbers = [int(one) for one in value] if isinstance(value, list | tuple) else [int(value)]
    return tuple(numbers * dims if len(numbers) == 1 else numbers)


def _sides(
    padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Return the zeros before and after each dimension."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        wanted = [spread * (side - 1) for side, spread in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in wanted)
    return tuple((side, side) for side in _each(padding, len(kernel)))


LATER = {"mm": "mat2", "mv": "vec"}
LINEAR: dict[str, Callable[[Walk, Node, str], Steps]] = {
    "linear": _dense,
    **dict.fromkeys(("matmul", "mm", "mv", "addmm"), _times_matrix),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **{f"conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    **{f"avg_pool{n}d": _average for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _adaptive for n in (1, 2, 3)},
    **dict.fromkeys(("mean", "sum"), _reduced),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as"), _reshaped
    ),
    **dict.fromkeys(("permute", "transpose"), _permuted),
    **dict.fromkeys(("to", "clone", "alias", "detach", "contiguous", "type_as"), _same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), _same),
    "neg": _negated,
}
