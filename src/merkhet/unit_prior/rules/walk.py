"""What the rules of the reading of tails share: operands, constants, and layers of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from merkhet.core.graph import Node, Ref, Unknown
from merkhet.unit_prior.rules.parameters import Parameters
from merkhet.unit_prior.rules.state import Own, State, least_index, together

ROW = "a row"  # the window of a dense layer
Ruled = Callable[["Walk", Node, dict[str, State]], "State | tuple[State, ...] | str"]


@dataclass(frozen=True)
class Walk:
    """One reading of one network.

    Args:
        parameters: The tails of its parameters.
    """

    parameters: Parameters

    def operands(self, node: Node, given: tuple[Any, ...]) -> dict[str, State] | Unknown:
        """Return the states of a node's arguments by name, those in lists as "tensors.0", ...

        Parameters come after data. Empty tensors, as of empty caches, are left out.
        """
        by_node = dict(zip(node.inputs, given, strict=True))
        found: dict[str, State] = {}
        for name, value in node.arguments.items():
            for key, part in _refs(name, value):
                state = by_node[part.name]
                if isinstance(state, Unknown):
                    return state
                if self.parameters.network.node(part.name).size:
                    found[key] = heaviest(state)
        for key, stored in node.parameters.items():
            state = self.parameters.state(node, stored)
            if isinstance(state, Unknown):
                return state
            found[key] = state
        return found

    def shape_of(self, node: Node, name: str) -> tuple[int, ...]:
        """Return the shape of an argument that is another node's result or a parameter."""
        if name in node.parameters:
            return tuple(self.parameters.network.tensors[node.parameters[name]].shape)
        (ref,) = (
            part
            for key, value in node.arguments.items()
            for found, part in _refs(key, value)
            if found == name
        )
        return self.parameters.network.node(ref.name).shape

    def sign(self, node: Node, name: str) -> int:
        """Return 1 or -1 where a constant argument has that sign in all entries, else 0."""
        value = self.constant(node, name)
        if value is None:
            return 0
        return int(bool((value > 0).all())) - int(bool((value < 0).all()))

    def nonnegative(self, node: Node, name: str) -> bool:
        """Tell whether a constant argument is known to have no negative entry."""
        value = self.constant(node, name)
        return value is not None and bool((value >= 0).all())

    def zeros(self, node: Node, name: str) -> str:
        """Return how many entries of a constant argument are 0: "all", "some" or "none".

        "some" also where its values are not known.
        """
        value = self.constant(node, name)
        if value is None:
            return "some"
        return "none" if bool(value.ne(0).all()) else "some" if bool(value.ne(0).any()) else "all"

    def constant(self, node: Node, name: str) -> torch.Tensor | None:
        """Return a constant argument that is a number, parameter or buffer, None for others."""
        value = node.arguments.get(name)
        if isinstance(value, int | float):
            return torch.tensor(float(value))
        stored = node.parameters.get(name)
        return None if stored is None else self.parameters.network.tensors[stored].detach()


def heaviest(state: State | tuple[State, ...]) -> State:
    """Return the state of an operation with several results, as a whole."""
    if not isinstance(state, tuple):
        return state
    return max(state, key=lambda one: one.theta)


def weighted(
    node: Node,
    h: State,
    weight: State,
    bias: State | None = None,
    *,
    axis: int | None = None,
    mixes: bool = True,
    window: str = "",
) -> State:
    """Return the state of sums of weights times entries: theta_h + theta_w.

    Given h and all weights of a unit but one, w_1, the rest is symmetric about 0, so that
    E|g|^k >= E|w_1 h_1|^k = E|w_1|^k E|h_1|^k if w_1 is independent of h_1; and by Minkowski's
    and Hoelder's inequalities |g|_k is at most a constant times |w|_k |h|_k. For power tails the
    same lines show which moments are finite.

    Args:
        node: The operation.
        h: What the weights are applied to.
        weight: The weights.
        bias: What is added.
        axis: Of the result, along which units have other weights; None where that is not known.
        mixes: Whether every unit sums over all entries of its position.
        window: Layers of the same are applied to the same entries; by default none is.
    """
    tied = not set(weight.weights).isdisjoint(h.weights)
    theta = max(h.theta + weight.theta, bias.theta if bias else 0.0)
    extra = (bias,) if bias is not None and bias.random else ()
    parts = (h, weight, *extra)
    index = least_index(*parts)
    if tied and index and h.index and weight.index:
        index = 1 / (1 / h.index + 1 / weight.index)  # Hoelder's, for they are not independent
    attained = h.attained and not tied
    names = (*weight.weights, *(name for one in extra for name in one.weights))
    return State(
        theta,
        index,
        attained=attained,
        uniform=h.uniform or mixes,
        random=True,
        up=attained,
        down=attained,
        low=theta == 0,
        high=theta == 0,
        pools=attained and h.pools,
        own=Own(names, _rows(node, axis), h, layout=(window or node.name,)),
        weights=together(parts),
        name=node.name,
        rising=node.name,
        reason=_weighted_reason(h, weight, tied),
    )


def _weighted_reason(h: State, weight: State, tied: bool) -> str:
    """Say how the tails of weights add to those of what they are applied to."""
    if math.isinf(weight.theta):
        told = f"a power tail of the least index; weights {_told(weight)}, input {_told(h)}"
    elif weight.theta == 0:
        told = f"bounded weights: at finite width nothing gets heavier, {_told(h)} (input)"
    else:
        told = f"{_told(weight)} (weights) + {_told(h)} (input)"
    if tied:
        return f"{told}; an upper bound: {next(iter(weight.weights))} is already in its input"
    return told if h.attained else f"{told}; an upper bound, as its input's is"


def _told(state: State) -> str:
    """Return theta, or the index of a power tail, in short."""
    return f"{state.theta:g}" if state.index is None else f"{state.index:g}"


def _rows(node: Node, axis: int | None) -> torch.Tensor | None:
    """Return which row of the weights makes each entry of a node's result."""
    if axis is None or not node.shape:
        return None
    shape = [1] * len(node.shape)
    shape[axis] = -1
    rows = torch.arange(node.shape[axis], dtype=torch.int32).view(shape)
    return rows.expand(node.shape)


def same(node: Node, state: State, **changes: Any) -> State:
    """Return the state of a result with the tails of its one operand.

    Args:
        node: The operation.
        state: Of the operand.
        changes: Fields that differ; by default what only the very values of the operand have,
            such as being its square, is dropped.
    """
    plain = {"name": node.name, "rising": node.name, "floor": "", "norm": None, "reason": ""}
    changes = {**plain, **changes}
    if not changes["reason"]:
        bound = "" if state.attained else ", an upper bound as before"
        changes["reason"] = f"unchanged{bound}" if state.random else state.reason
    return replace(state, **changes)


def _refs(name: str, value: Any) -> list[tuple[str, Ref]]:
    """Return the references in an argument, those in a list as "name.0", "name.1", ..."""
    if isinstance(value, Ref):
        return [(name, value)]
    if isinstance(value, list | tuple):
        return [pair for place, part in enumerate(value) for pair in _refs(f"{name}.{place}", part)]
    return []
