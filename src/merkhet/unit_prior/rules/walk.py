"""What the rules of the reading of tails share: operands, constants, and marks at entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Node, Ref, Unknown
from merkhet.unit_prior.rules.entries import NOWHERE, at, entries
from merkhet.unit_prior.rules.parameters import Parameters
from merkhet.unit_prior.rules.replay import folded, replayed
from merkhet.unit_prior.rules.state import State

Ruled = Callable[["Walk", Node, dict[str, State]], "State | tuple[State, ...] | str"]


@dataclass(frozen=True)
class Walk:
    """One reading of one network.

    Args:
        parameters: The tails of its parameters.

    Attributes:
        values: Values of nodes that are constants, as far as they are known, by name.
    """

    parameters: Parameters
    values: dict[str, Tensor] = field(default_factory=dict)

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

    def hollow(self, node: Node) -> bool:
        """Tell whether a tensor among a node's operands has no entries."""
        network = self.parameters.network
        sources = [network.node(name) for name in node.inputs]
        stored = [network.tensors[name] for name in node.parameters.values()]
        return any(one.shapes and one.size == 0 for one in sources) or any(
            one.numel() == 0 for one in stored
        )

    def constant(self, node: Node, name: str) -> Tensor | None:
        """Return a constant argument whose value is known, None for others."""
        value = node.arguments.get(name)
        if isinstance(value, int | float):
            return torch.tensor(float(value))
        if isinstance(value, Ref):
            return self.values.get(value.name)
        stored = node.parameters.get(name)
        return None if stored is None else self.parameters.value(stored)

    def fold(self, node: Node) -> Tensor | None:
        """Return the value of a result that depends on constants alone, and keep it."""
        stored = {key: self.constant(node, key) for key in node.parameters}
        kept = {key: value for key, value in stored.items() if value is not None}
        if len(kept) < len(stored):
            return None
        value = folded(self.parameters.network, node, self.values, kept)
        if value is not None:
            self.values[node.name] = value
        return value

    def replay(self, node: Node, given: Mapping[str, Any]) -> Any:
        """Return what an operation makes of marks at the entries of its operands, or None."""
        return replayed(self.parameters.network, node, self.values, given)

    def through(
        self, node: Node, state: State, *, keeps: bool, name: str = "input", **given: Any
    ) -> dict[str, Any]:
        """Return for which entries a tail is proved after entries were moved, joined or dropped.

        Args:
            node: The operation, every result of which is a sum, or the largest, of entries.
            state: Of the entries.
            keeps: Whether no entry is dropped, so that a heavy one is somewhere in the result.
            name: Of the argument that has the entries.
            given: Other arguments that take the place of the node's.
        """
        marks = entries(state, self.shape_of(node, name))
        if not state.attained or marks is None:
            return at(None, attained=state.attained and keeps)
        found = self.replay(node, {name: marks.float(), **given})
        if isinstance(found, list | tuple):
            found = found[0]
        if not isinstance(found, Tensor):
            return at(None, attained=True) if keeps else dict(NOWHERE)
        return at(found > 0, attained=False)

    def largest(self, node: Node, state: State) -> Tensor | None:
        """Return which results of a maximum or minimum over axes see a proved entry, or None."""
        marks = entries(state, self.shape_of(node, "input"))
        dims = node.arguments.get("dim")
        if marks is None:
            return None
        if dims is None or dims == []:
            return marks.any()
        return marks.float().amax(dims, keepdim=bool(node.arguments.get("keepdim"))) > 0


def heaviest(state: State | tuple[State, ...]) -> State:
    """Return the state of an operation with several results, as a whole."""
    if not isinstance(state, tuple):
        return state
    return max(state, key=lambda one: one.theta)


def same(node: Node, state: State, **changes: Any) -> State:
    """Return the state of a result with the tails of its one operand.

    Args:
        node: The operation.
        state: Of the operand.
        changes: Fields that differ; by default what only the very values of the operand have,
            such as being its square, is dropped.
    """
    plain: dict[str, Any] = {"name": node.name, "rising": node.name, "floor": "", "norm": None}
    plain |= {"away": False, "copies": frozenset(), "reason": ""}
    changes = {**plain, **changes}
    if not changes["reason"]:
        lost = (
            ""
            if changes.get("attained", True)
            else ", an upper bound: what is heavy may be left out"
        )
        bound = lost if state.attained else ", an upper bound as before"
        changes["reason"] = f"unchanged{bound}" if state.random else state.reason
    return replace(state, **changes)


def _refs(name: str, value: Any) -> list[tuple[str, Ref]]:
    """Return the references in an argument, those in a list as "name.0", "name.1", ..."""
    if isinstance(value, Ref):
        return [(name, value)]
    if isinstance(value, list | tuple):
        return [pair for place, part in enumerate(value) for pair in _refs(f"{name}.{place}", part)]
    return []
