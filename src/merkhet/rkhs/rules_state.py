"""What a reading for the Lipschitz constant carries: a bound, and the linear operators since.

b examples; shapes of examples are those without b.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from merkhet.core.graph import Network, Node, Ref
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.steps import Permute, Reshape, Step
from merkhet.rkhs.rules_constants import Constants

SILENT = ("shape", "dropout")
Norm = Callable[[Chain], tuple[float, str]]


@dataclass(frozen=True)
class Part:
    """One factor of an upper bound.

    Attributes:
        path: Path of the module, "" for the network itself.
        operation: The operations that the factor is of, such as "conv2d + batch_norm".
        factor: The norm of a linear operator, or the slope of something else.
        how: How it was found.
    """

    path: str
    operation: str
    factor: float
    how: str


@dataclass(frozen=True, eq=False)
class Bound:
    """The state of a node: a bound at an earlier node, and linear steps from there.

    Attributes:
        base: Upper bound of the Lipschitz constant from the network's input to the node `source`.
        source: That node's name.
        shape: Of one example there.
        steps: Linear steps since, not yet taken into the bound.
        nodes: The nodes that these come from.
        reasons: Why the base is infinite, or empty.
    """

    base: float
    source: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    nodes: tuple[Node, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def chain(self) -> Chain:
        """The steps as one linear operator."""
        return Chain(self.steps, self.shape)


State = Bound | None  # None for what does not depend on the network's input


@dataclass
class Walk:
    """One reading of one network: states by rule, norms of operators taken once, parts noted.

    Args:
        network: The network.
        norm: Takes a chain to an upper bound of its norm, and the word for how.
        batch: b of the trace.
    """

    network: Network
    norm: Norm
    batch: int
    parts: list[Part] = field(default_factory=list)
    constants: Constants = field(init=False)
    totals: dict[tuple[str, tuple[Step, ...]], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = Constants(self.network)

    def total(self, state: Bound) -> float:
        """Return the bound from the network's input to the node of a state."""
        if all(isinstance(step, Reshape | Permute) for step in state.steps):
            return state.base
        key = state.source, state.steps
        if key not in self.totals:
            found, how = self.norm(state.chain)
            self.note(_path(state.nodes), _named(state.nodes), found, how)
            self.totals[key] = product(state.base, found)
        return self.totals[key]

    def then(self, node: Node, state: Bound, steps: tuple[Step, ...]) -> Bound:
        """Return a state with the linear steps of a node after those that wait."""
        return replace(state, steps=state.steps + steps, nodes=(*state.nodes, node))

    def anew(self, node: Node, base: float, reasons: tuple[str, ...] = ()) -> Bound:
        """Return a state that starts at a node."""
        return Bound(base, node.name, node.shape[1:], reasons=tuple(dict.fromkeys(reasons)))

    def after(self, node: Node, state: Bound, factor: float, how: str = "slope") -> Bound:
        """Return the state after an operation that is no step, of a known Lipschitz constant."""
        before = self.total(state)  # its part comes first
        if factor != 1:
            self.note(node.path, node.op, factor, how)
        return self.anew(node, product(before, factor), state.reasons)

    def infinite(self, node: Node, given: tuple[State, ...], reason: str) -> Bound:
        """Return an infinite state and its reason; norms of what came before are still noted."""
        known = tuple(state for state in given if state is not None)
        for state in known:
            self.total(state)
        where = f"{node.path} ({node.op})" if node.path else node.op
        self.note(node.path, node.op, math.inf, reason)
        before = tuple(why for state in known for why in state.reasons)
        return self.anew(node, math.inf, (*before, f"{where}: {reason}"))

    def note(self, path: str, operation: str, factor: float, how: str) -> None:
        """Note a part of the bound."""
        self.parts.append(Part(path, operation, factor, how))

    def data(self, node: Node, given: tuple[State, ...]) -> dict[str, Bound]:
        """Return the states of the arguments that depend on the input, by the argument's name."""
        by_node = dict(zip(node.inputs, given, strict=True))
        found: dict[str, Bound] = {}
        for name, value in node.arguments.items():
            for key, part in _refs(name, value):
                state = by_node.get(part.name)
                if state is not None:
                    found[key] = state
        return found

    def shape_of(self, node: Node, name: str) -> tuple[int, ...]:
        """Return the shape of an argument that is another node's result."""
        (ref,) = (
            part
            for key, value in node.arguments.items()
            for k, part in _refs(key, value)
            if k == name
        )
        return self.network.node(ref.name).shape


def product(one: float, other: float) -> float:
    """Return one times other, where 0 stays 0, and nothing else becomes it by underflow."""
    if 0 in (one, other):
        return 0.0
    found = one * other
    return found if found >= sys.float_info.min else math.nextafter(found, math.inf)


def reasons_of(states: tuple[Bound, ...]) -> tuple[str, ...]:
    """Return the reasons of all states, each once."""
    return tuple(dict.fromkeys(why for state in states for why in state.reasons))


def _refs(name: str, value: Any) -> list[tuple[str, Ref]]:
    """Return the references in an argument, those in a list as "name.0", "name.1", ..."""
    if isinstance(value, Ref):
        return [(name, value)]
    if isinstance(value, list | tuple):
        return [pair for place, part in enumerate(value) for pair in _refs(f"{name}.{place}", part)]
    return []


def _path(nodes: tuple[Node, ...]) -> str:
    """Return the path of the first node with weights, or of the first."""
    return next((node.path for node in nodes if node.parameters), nodes[0].path)


def _named(nodes: tuple[Node, ...]) -> str:
    """Return the operations of a chain in words, shapes left out."""
    telling = (node.op for node in nodes if node.kind not in SILENT and node.op != "clone")
    return " + ".join(telling) or nodes[0].op
