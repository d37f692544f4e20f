"""Normalisation by an example's own statistics."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from merkhet.core.graph import Node
from merkhet.rkhs.rules_linear import MIXES, linear_rule
from merkhet.rkhs.rules_state import Bound, State, Walk


def normalised(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state after layer, group, instance or RMS norm: max |gamma| / sqrt(eps).

    The Jacobian of (x - mean) / sqrt(var + eps) is the centring over sqrt(var + eps), less a part
    along the direction of x: its norm is largest, 1 / sqrt(eps), at constant x.
    """
    data = walk.data(node, given)
    if list(data) != ["input"] or node.shape[:1] != (walk.batch,):
        return MIXES
    if node.op in ("layer_norm", "rms_norm") and len(_shape(node)) >= len(node.shape):
        return MIXES
    eps = node.arguments.get("eps")
    if eps is None:
        eps = torch.finfo(node.dtype or torch.float64).eps
    if eps <= 0:
        return "it divides by a spread that may be 0: give eps above 0"
    try:
        gain = walk.constants.argument(node, "weight")
    except LookupError as error:
        return f"its gain is not known: {error.args[0]}"
    largest = 1.0 if gain is None else float(gain.double().abs().max())
    factor = largest / math.sqrt(eps) * (1 + 1e-15)
    return walk.after(node, data["input"], factor, "max |gain| / sqrt(eps)")


def instance_normalised(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state after instance norm, by kept statistics or by the example's own."""
    kept = node.arguments.get("use_input_stats") is False
    return linear_rule(walk, node, given) if kept else normalised(walk, node, given)


def _shape(node: Node) -> list[int]:
    """Return the dimensions that are normalised over."""
    shape = node.arguments["normalized_shape"]
    return list(shape) if isinstance(shape, list | tuple) else [shape]


NORMALISING: dict[str, Callable[[Walk, Node, tuple[State, ...]], Bound | str]] = {
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), normalised),
    "instance_norm": instance_normalised,
}
