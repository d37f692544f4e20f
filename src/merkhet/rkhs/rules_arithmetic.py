"""Sums, products with constants, and larger ones of two results."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from merkhet.core.graph import Node
from merkhet.core.linear.steps import Scale
from merkhet.rkhs.rules_linear import MIXES
from merkhet.rkhs.rules_state import Bound, State, Walk, reasons_of
from merkhet.rkhs.slopes import root

UNBOUNDED = (
    "a product of two results, as in gates and attention, has no finite bound, for its slope grows "
    "with either; where both are bounded, declare lipschitz_constant(input_shape) on their module"
)
UP = 1 + 1e-15  # of sums of two numbers of float64


def added(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state of a sum or difference: the sum of the bounds from the common input."""
    data = walk.data(node, given)
    alpha = abs(_alpha(node))
    part = "input" if node.op == "rsub" else "other"
    if len(data) == 1:
        ((name, state),) = data.items()
        copies = _copies(walk, node, name)
        if copies is None:
            return MIXES
        factor = alpha if name == part else 1.0
        if copies == factor == 1:
            return walk.then(node, state, _sign(node, name))
        return walk.after(node, state, factor * copies * UP, "scale and copies")
    total = 0.0
    for name, state in data.items():
        copies = _copies(walk, node, name)
        if copies is None:
            return MIXES
        total += walk.total(state) * copies * (alpha if name == part else 1.0)
    return walk.anew(node, total * UP, reasons_of(tuple(data.values())))


def _sign(node: Node, name: str) -> tuple[Scale, ...]:
    """Return the factor -1 where the one part of a sum that is not constant is taken off."""
    less, scaled_part = {"sub": ("other", "other"), "rsub": ("input", "input")}.get(
        node.op, ("", "other")
    )
    negative = (name == less) != (name == scaled_part and _alpha(node) < 0)
    return (Scale(torch.tensor(-1.0, dtype=torch.float64)),) if negative else ()


def _alpha(node: Node) -> float:
    """Return the factor that a sum takes one of its parts by."""
    given = node.arguments.get("alpha")
    return 1.0 if given is None else float(given)


def _copies(walk: Walk, node: Node, name: str) -> float | None:
    """Return sqrt of how often an argument's entries are copied, None where examples are mixed."""
    before = walk.shape_of(node, name)
    if len(before) != len(node.shape) or before[:1] != (walk.batch,):
        return None
    return root(node.size // math.prod(before)) if math.prod(before) else 1.0


def scaled(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state of a result times, or over, a constant."""
    data = walk.data(node, given)
    if len(data) != 1:
        return UNBOUNDED
    ((name, state),) = data.items()
    if node.op == "div" and (name != "input" or node.arguments.get("rounding_mode")):
        return "its slope grows without bound where it divides by a result, or it jumps"
    try:
        factor = walk.constants.argument(node, "other" if name == "input" else "input")
    except LookupError as error:
        return f"its factor is not known: {error.args[0]}"
    assert factor is not None
    factor = 1 / factor.double() if node.op == "div" else factor.double()
    if not bool(factor.isfinite().all()):
        return "it divides by zero, or its factor is not finite"
    return _times(walk, node, name, state, factor)


def _times(walk: Walk, node: Node, name: str, state: Bound, factor: Tensor) -> Bound | str:
    """Return the state of a result times a factor that may copy its entries."""
    before = walk.shape_of(node, name)
    if _copies(walk, node, name) is None:
        return MIXES
    if factor.dim() == len(node.shape):
        if factor.shape[0] != 1:
            return "its factor differs by the example's place in the batch"
        factor = factor[0]
    if before == node.shape:
        return walk.then(node, state, (Scale(factor),))
    squares = factor.square().expand(node.shape[1:]).sum_to_size(before[1:])
    return walk.after(node, state, float(squares.max().sqrt()) * UP, "scale and copies")


def larger(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state of the larger or smaller of two results: root of the sum of squares."""
    data = walk.data(node, given)
    total = 0.0
    for name, state in data.items():
        copies = _copies(walk, node, name)
        if copies is None:
            return MIXES
        total = math.hypot(total, walk.total(state) * copies)
    return walk.anew(node, total * UP, reasons_of(tuple(data.values())))


ARITHMETIC: dict[str, Callable[[Walk, Node, tuple[State, ...]], Bound | str]] = {
    **dict.fromkeys(("add", "sub", "rsub"), added),
    **dict.fromkeys(("mul", "div"), scaled),
    **dict.fromkeys(("maximum", "minimum"), larger),
}
