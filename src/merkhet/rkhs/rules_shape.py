"""Operations that copy, pick or join entries, and pooling by maxima.

What copies entries is bounded by how often one is copied: replayed on their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Node
from merkhet.rkhs.rules_arithmetic import larger
from merkhet.rkhs.rules_linear import MIXES, example_dims
from merkhet.rkhs.rules_state import Bound, State, Walk, reasons_of
from merkhet.rkhs.slopes import root

COPYING = (
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "index_select"),
    *("index", "expand", "repeat", "tile", "repeat_interleave", "roll", "flip", "masked_fill"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "upsample_nearest1d", "movedim"),
    *("upsample_nearest2d", "upsample_nearest3d", "diagonal", "unfold", "im2col", "tril", "triu"),
    *("expand_as", "rot90", "t", "numpy_T"),
)
AVERAGING = ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
STATE_OR_WHY = Bound | str


def copying(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state after a copy of entries: sqrt of how often one is copied."""
    data = walk.data(node, given)
    if list(data) != ["input"]:
        return "what it picks depends on the input: it jumps"
    numbers = torch.arange(1, math.prod(walk.shape_of(node, "input")) + 1, dtype=torch.float64)
    placed = numbers.view(walk.shape_of(node, "input"))
    try:
        found = walk.constants.call(node, input=placed, **_blank(node))
    except LookupError as error:
        return f"what it copies is not known: {error.args[0]}"
    results = found if isinstance(found, list | tuple) else [found]
    if not all(_by_example(one, placed) for one in results):
        return MIXES
    everything = torch.cat([one.flatten() for one in results]).long()
    copies = int(torch.bincount(everything, minlength=2)[1:].max())
    return walk.after(node, data["input"], root(copies), "copies")


def _blank(node: Node) -> dict[str, Any]:
    """Return arguments that put 0 where no entry of the input goes."""
    return {"value": 0} if node.op == "masked_fill" else {}


def _by_example(result: Tensor, placed: Tensor) -> bool:
    """Tell whether each example's entries come from that example."""
    if result.shape[:1] != placed.shape[:1]:
        return False
    rows, size = result.reshape(len(placed), -1), placed[0].numel()
    owner = (rows - 1).div(size, rounding_mode="floor")
    own = torch.arange(len(placed), dtype=torch.float64)[:, None]
    return bool(((owner == own) | (rows == 0)).all())


def averaging(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state after weights of no sign: sqrt of largest row sum times column sum.

    That is Schur's test, |A|^2 <= |A|_1 |A|_inf.
    """
    data = walk.data(node, given)
    if list(data) != ["input"] or node.shape[0] != walk.batch:
        return MIXES
    shape = (1, 1, *walk.shape_of(node, "input")[2:])
    with torch.enable_grad():
        ones = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        try:
            rows = walk.constants.call(node, input=ones)
        except LookupError as error:
            return f"its weights are not known: {error.args[0]}"
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    factor = math.sqrt(float(rows.detach().max()) * float(columns.max())) * (1 + 1e-12)
    return walk.after(node, data["input"], factor, "row and column sums")


def picked(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state of one of several results: no more than that of all."""
    (state,) = given
    assert state is not None
    return walk.after(node, state, 1.0)


def joined(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state of results side by side: root of the sum of squares."""
    if node.op in ("cat", "stack") and int(node.arguments.get("dim", 0)) % len(node.shape) == 0:
        return MIXES
    if node.shape[:1] != (walk.batch,):
        return MIXES
    by_name = dict(zip(node.inputs, given, strict=True))
    known = [state for name in node.inputs if (state := by_name[name]) is not None]
    base = math.hypot(*(walk.total(state) for state in known)) * (1 + 1e-15)
    return walk.anew(node, base, reasons_of(tuple(known)))


def written(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state of a result with a part written over: as of both side by side."""
    if node.op == "copy":
        return _copied(walk, node, walk.data(node, given).get("src"))
    if int(node.arguments.get("dim", 0)) % len(node.shape) == 0:
        return MIXES
    return joined(walk, node, given)


def _copied(walk: Walk, node: Node, source: State) -> STATE_OR_WHY:
    """Return the state of an input that another result is written over."""
    if source is None:
        return walk.anew(node, 0.0)
    before = walk.shape_of(node, "src")
    if len(before) != len(node.shape) or before[0] != node.shape[0]:
        return MIXES
    return walk.after(node, source, root(node.size // math.prod(before)), "copies")


def chosen(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state of entries taken from two results by a constant mask."""
    data = walk.data(node, given)
    if "condition" in data:
        return "what it takes depends on the input: it jumps"
    total = 0.0
    for name, state in data.items():
        before = walk.shape_of(node, name)
        if len(before) != len(node.shape) or before[0] != node.shape[0]:
            return MIXES
        total = math.hypot(total, walk.total(state) * root(node.size // math.prod(before)))
    return walk.anew(node, total * (1 + 1e-15), reasons_of(tuple(data.values())))


def max_pool(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state after maxima over windows: sqrt of how many an entry lies in.

    Along a dimension an entry is seen by ceil(k gcd(s, d) / s) windows of kernel k, stride s and
    dilation d at most, and by no more than there are.
    """
    dims = int(node.op.removesuffix("_with_indices")[-2])
    if len(node.shape) != dims + 2:
        return MIXES
    kernel = _numbers(node.arguments["kernel_size"], dims)
    stride = _numbers(node.arguments.get("stride") or kernel, dims)
    dilation = _numbers(node.arguments.get("dilation", 1), dims)
    seen = [
        min(-(-k * math.gcd(s, d) // s), out)
        for k, s, d, out in zip(kernel, stride, dilation, node.shape[2:], strict=True)
    ]
    (state,) = walk.data(node, given).values()
    return walk.after(node, state, root(math.prod(seen)), "windows of an entry")


def adaptive_max_pool(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state after maxima over windows of a wanted number, which may overlap."""
    dims = int(node.op[-2])
    if len(node.shape) != dims + 2:
        return MIXES
    sizes = walk.shape_of(node, "input")[2:]
    seen = [_overlaps(size, out) for size, out in zip(sizes, node.shape[2:], strict=True)]
    (state,) = walk.data(node, given).values()
    return walk.after(node, state, root(math.prod(seen)), "windows of an entry")


def _overlaps(size: int, out: int) -> int:
    """Return in how many of the windows [i n / o, (i + 1) n / o), rounded outwards, an entry is."""
    seen = [0] * size
    for i in range(out):
        for place in range(i * size // out, -(-(i + 1) * size // out)):
            seen[place] += 1
    return max(seen)


def extremes(walk: Walk, node: Node, given: tuple[State, ...]) -> STATE_OR_WHY:
    """Return the state after maxima, norms or sorting over dimensions of an example: 1."""
    if node.op in ("max", "min") and "other" in node.arguments:
        return larger(walk, node, given)
    rank = len(walk.shape_of(node, "input"))
    if example_dims(node.arguments.get("dim", -1 if node.op in SORTS else None), rank) is None:
        return MIXES
    if "norm" in node.op and float(node.arguments.get("ord", node.arguments.get("p", 2))) != 2:
        return "only the l2 norm is read"
    (state,) = walk.data(node, given).values()
    return walk.after(node, state, 1.0)


def _numbers(value: Any, dims: int) -> list[int]:
    """Return a number for each dimension."""
    numbers = [int(one) for one in value] if isinstance(value, list | tuple) else [int(value)]
    return numbers * dims if len(numbers) == 1 else numbers


SORTS = ("sort", "topk")
SHAPES: dict[str, Callable[[Walk, Node, tuple[State, ...]], STATE_OR_WHY]] = {
    **dict.fromkeys(COPYING, copying),
    **dict.fromkeys(AVERAGING, averaging),
    "getitem": picked,
    **dict.fromkeys(("cat", "stack"), joined),
    **dict.fromkeys(("slice_scatter", "select_scatter", "copy"), written),
    "where": chosen,
    **{f"max_pool{n}d": max_pool for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": max_pool for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": adaptive_max_pool for n in (1, 2, 3)},
    **dict.fromkeys(
        ("amax", "amin", "max", "min", "logsumexp", "linalg_vector_norm", "norm", *SORTS), extremes
    ),
}
