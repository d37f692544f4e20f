"""Reading a network: a rule for each operation carries a state from the inputs forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from merkhet.core.errors import InputError
from merkhet.core.graph.network import Network, Node

State = TypeVar("State")
Rule = Callable[[Node, tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Unknown:
    """The state of a node that no rule could give a state to, and of all that follow from it.

    Attributes:
        node: Name of the first such node.
        op: Its operation.
        path: Path of its module.
        reason: Why, in words.
    """

    node: str
    op: str
    path: str
    reason: str


@dataclass(frozen=True)
class Reading(Generic[State]):
    """What a reading found.

    Attributes:
        network: The network that was read.
        states: The state of every node by name, `Unknown` where there is none.
    """

    network: Network
    states: Mapping[str, State | Unknown]

    @property
    def output(self) -> State | Unknown:
        """The state of the network's first output."""
        return self.states[next(iter(self.network.outputs.values()))]

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """The nodes that no rule covered, each once, in order."""
        found = (state for state in self.states.values() if isinstance(state, Unknown))
        return tuple(dict.fromkeys(found))


def read(network: Network, rules: Mapping[str, Rule], start: Any) -> Reading[Any]:
    """Walk a network and carry a state from its inputs forward.

    A rule is called with the node and the states of `node.inputs`, in their order, and
    returns the node's state. Three names in `rules` are special:

    - "constant": called for nodes that depend on no input of the network (where it is absent
      they are read by the rule of their operation);
    - "getitem": where absent, picks from a state that is a tuple, and hands any other on;
    - "unknown": called for operations that no rule covers (where it is absent such a node,
      and every node that takes data from it, gets an `Unknown` that says which and why).

    Args:
        network: The network.
        rules: A rule for each operation, by `Node.op`.
        start: The state of every input, or a dict of states by input name.

    Raises:
        InputError: `start` lacks an input, or names one that the network does not have.
    """
    if isinstance(start, Mapping):
        _check_start(network, start)
    states: dict[str, Any] = {}
    for node in network.nodes:
        if node.op == "input":
            states[node.name] = start[node.name] if isinstance(start, Mapping) else start
        else:
            states[node.name] = _state(node, tuple(states[name] for name in node.inputs), rules)
    return Reading(network, states)


def _check_start(network: Network, start: Mapping[str, Any]) -> None:
    """Refuse states whose names are not those of the inputs."""
    names = {node.name for node in network.inputs}
    if names != set(start):
        raise InputError(
            f"start has states for {', '.join(map(str, start)) or 'nothing'}: give one for each "
            f"input, {', '.join(sorted(names))}"
        )


def _state(node: Node, given: tuple[Any, ...], rules: Mapping[str, Rule]) -> Any:
    """Return the state of one node from the states of its inputs."""
    rule = _rule(node, rules)
    if "unknown" in rules:
        return (rule or rules["unknown"])(node, given)
    for state in given:
        if isinstance(state, Unknown):
            return state
    if rule is None:
        reason = f"no rule covers {node.op!r}" + (f" in {node.path}" if node.path else "")
        return Unknown(node.name, node.op, node.path, reason)
    return rule(node, given)


def _rule(node: Node, rules: Mapping[str, Rule]) -> Rule | None:
    """Return the rule for a node, or None."""
    if node.constant and "constant" in rules:
        return rules["constant"]
    return rules.get(node.op, _pick if node.op == "getitem" else None)


def _pick(node: Node, given: tuple[Any, ...]) -> Any:
    """Return the part of a state that `getitem` takes; a state without parts is handed on."""
    (state,) = given
    return state[node.arguments["index"]] if isinstance(state, tuple) else state
