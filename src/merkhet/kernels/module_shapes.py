"""Rules that read a torch network's shapes, pooling, borders and factors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from merkhet.core.graph import Node, Unknown
from merkhet.kernels.between import FILLS, Pad2d, Scale
from merkhet.kernels.chains import Chain, Step
from merkhet.kernels.layers import Flatten
from merkhet.kernels.pooling import AvgPool2d, GlobalAvgPool2d

ChainRule = Callable[[Node, Chain], Chain | str]


def unread(node: Node, why: str) -> Unknown:
    """Return that a node is not read, and why."""
    return Unknown(node.name, node.op, node.path, why)


def two(given: Any) -> tuple[int, int]:
    """Return (height, width) of an argument that may be one number for both."""
    found = (given,) if isinstance(given, int) else tuple(given)
    return int(found[0]), int(found[-1])


def _same(_: Node, chain: Chain) -> Chain:
    """Read what changes nothing in evaluation."""
    return chain


def _reshaped(node: Node, chain: Chain) -> Chain | str:
    """Read another shape of the same entries, in their order: flat, or with positions in a row."""
    shape, before = node.shape, chain.shape
    in_a_row = chain.picture and len(shape) == 3 and shape[1] == before[1]
    if shape == before or in_a_row:
        return chain.shaped(shape)
    if not chain.picture or len(shape) != 2:
        return f"a view of {chain.shape} as {shape} is not read; only flattening is"
    last = chain.steps[-1].layer if chain.steps else None
    if isinstance(last, AvgPool2d) and last.stride is None:  # over the whole map
        steps = (*chain.steps[:-1], Step(node.name, GlobalAvgPool2d()))
        return Chain(steps, shape, picture=False)
    return chain.then(node.name, Flatten(), shape, picture=False)


def _averaged(
    node: Node, chain: Chain, kernel: tuple[int, int], stride: tuple[int, int]
) -> Chain | str:
    """Read means over windows; without a stride where one window is the whole map."""
    if not chain.picture or len(chain.shape) != 4:
        return f"pooling of results of shape {chain.shape} is not read"
    whole = kernel == chain.shape[2:]
    return chain.then(node.name, AvgPool2d(kernel, None if whole else stride), node.shape)


def _pooled(node: Node, chain: Chain) -> Chain | str:
    """Read average pooling."""
    asked = node.arguments
    kernel = two(asked["kernel_size"])
    stride, border = two(asked["stride"] or kernel), two(asked["padding"])
    if asked["divisor_override"] is not None or (any(border) and not asked["count_include_pad"]):
        return "average pooling with a divisor of its own, or without its padding, is not read"
    rows, columns = ((side, side) for side in border)
    if any(border):
        chain = _bordered(f"{node.name} border", chain, (rows, columns), "constant")
    floor = [
        (size - side) // step + 1
        for size, side, step in zip(chain.shape[2:], kernel, stride, strict=True)
    ]
    if list(node.shape[2:]) != floor:
        return "ceil_mode makes windows of several sizes, which is not read; leave it False"
    return _averaged(node, chain, kernel, stride)


def _adaptive(node: Node, chain: Chain) -> Chain | str:
    """Read adaptive average pooling whose windows are all alike."""
    if not chain.picture or len(chain.shape) != 4:
        return f"pooling of results of shape {chain.shape} is not read"
    found = [_window(*sizes) for sizes in zip(chain.shape[2:], node.shape[2:], strict=True)]
    rows, columns = found
    if rows is None or columns is None:
        before, after = ("x".join(map(str, one.shape[2:])) for one in (chain, node))
        return f"its windows from {before} to {after} differ in size; take AvgPool2d(size)"
    return _averaged(node, chain, (rows[0], columns[0]), (rows[1], columns[1]))


def _window(size: int, count: int) -> tuple[int, int] | None:
    """Return (length, step) of torch's adaptive windows along a side, None where they differ."""
    starts = [place * size // count for place in range(count)]
    stops = [-(-(place + 1) * size // count) for place in range(count)]
    lengths = {stop - start for start, stop in zip(starts, stops, strict=True)}
    steps = {later - start for start, later in pairwise(starts)} or {size}
    return (lengths.pop(), steps.pop()) if len(lengths) == len(steps) == 1 else None


def _mean(node: Node, chain: Chain) -> Chain | str:
    """Read a mean over all positions."""
    dims = node.arguments.get("dim")
    places = sorted(dim % len(chain.shape) for dim in dims or ())
    if not chain.picture or places != list(range(2, len(chain.shape))):
        return f"a mean over dimensions {dims} of {chain.shape} is not read; all positions' is"
    if len(node.shape) == 2:
        return chain.then(node.name, GlobalAvgPool2d(), node.shape, picture=False)
    if len(chain.shape) != 4:
        return "a mean over positions in a row that keeps them is not read; leave keepdim out"
    return _averaged(node, chain, (chain.shape[2], chain.shape[3]), (1, 1))


def _padded(node: Node, chain: Chain) -> Chain | str:
    """Read what is put around a feature map."""
    asked = node.arguments
    sides, fill = list(asked["pad"]), asked.get("mode", "constant")
    if not chain.picture or len(chain.shape) != 4 or len(sides) not in (2, 4):
        return f"padding of results of shape {chain.shape} by {sides} is not read"
    if min(sides) < 0 or asked.get("value") or fill not in FILLS:
        return f"padding by {sides} with {fill} {asked.get('value')} is not read; take zeros"
    left, right, top, bottom = [*sides, 0, 0][:4]
    return _bordered(node.name, chain, ((top, bottom), (left, right)), fill)


def _bordered(
    name: str, chain: Chain, sides: tuple[tuple[int, int], tuple[int, int]], fill: str
) -> Chain:
    """Return a chain with positions put around."""
    height, width = (size + sum(side) for size, side in zip(chain.shape[2:], sides, strict=True))
    return chain.then(name, Pad2d(sides, fill), (*chain.shape[:2], height, width))


def _scaled(node: Node, chain: Chain) -> Chain | str:
    """Read a product with, or a quotient by, a number."""
    number = -1 if node.op == "neg" else node.arguments["other"]
    if not isinstance(number, int | float) or node.arguments.get("rounding_mode"):
        return "only a constant number is read as a factor"
    return chain.then(node.name, Scale(1 / number if node.op == "div" else float(number)))


SHAPE_RULES: dict[str, ChainRule] = {
    **dict.fromkeys(("clone", "alias", "contiguous", "dropout", "to"), _same),
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze"), _reshaped),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("mul", "div", "neg"), _scaled),
    "avg_pool2d": _pooled,
    "adaptive_avg_pool2d": _adaptive,
    "mean": _mean,
}
