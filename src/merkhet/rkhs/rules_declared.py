"""Modules that declare their Lipschitz constant, and are taken at their word."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from merkhet.core.errors import InputError
from merkhet.core.graph import Node
from merkhet.rkhs.rules_state import Bound, State, Walk, product

METHOD = "lipschitz_constant"
TWICE = (
    "it declares lipschitz_constant and is called more than once, or has parts that are, and its "
    "calls are not told apart: give each call a module of its own"
)
SEVERAL = "it declares lipschitz_constant and takes several results: give it one"


class Declared:
    """The modules of a network with a method `lipschitz_constant(input_shape) -> float`.

    Such a module is read as a whole: its operations are those at its path and inside, and its
    input is the one result that they take from outside.

    Args:
        walk: The reading.
        module: The network that was traced.
    """

    def __init__(self, walk: Walk, module: nn.Module) -> None:
        self.walk = walk
        self.owners: dict[str, tuple[str, Any]] = {}  # node -> path, module
        self.bases: dict[str, Bound | None] = {}
        self.entries: dict[str, set[str]] = {}
        for path, part in module.named_modules(remove_duplicate=False):
            if callable(getattr(part, METHOD, None)):
                self._take_in(path, part)

    def _take_in(self, path: str, part: nn.Module) -> None:
        """Note the operations of a module, unless they belong to one around it."""
        nodes = [node for node in self.walk.network.within(path) if node.op != "input"]
        if any(node.name in self.owners for node in nodes):
            return
        self.owners.update({node.name: (path, part) for node in nodes})
        own = {node.name for node in nodes}
        entries = {name for node in nodes for name in node.inputs} - own
        network = self.walk.network
        self.entries[path] = {name for name in entries if not network.node(name).constant}

    def covers(self, node: Node) -> bool:
        """Tell whether a node belongs to such a module."""
        return node.name in self.owners

    def state(self, node: Node, given: tuple[State, ...]) -> State:
        """Return the state of a node in such a module."""
        path, part = self.owners[node.name]
        if any(one.call for one in self.walk.network.within(path)):
            return self.walk.infinite(node, given, TWICE)
        if len(self.entries[path]) != 1:
            return self.walk.infinite(node, given, SEVERAL)
        if path not in self.bases:
            (entry,) = self.entries[path]
            state = dict(zip(node.inputs, given, strict=True))[entry]
            self.bases[path] = None if state is None else self._whole(node, path, part, state)
        base = self.bases[path]
        return None if base is None else self.walk.anew(node, base.base, base.reasons)

    def _whole(self, node: Node, path: str, part: Any, state: Bound) -> Bound:
        """Return the state after the whole module."""
        (entry,) = self.entries[path]
        shape = self.walk.network.node(entry).shape[1:]
        factor = part.lipschitz_constant(shape)
        if not isinstance(factor, int | float) or math.isnan(factor) or factor < 0:
            raise InputError(
                f"{path or type(part).__name__}.{METHOD}({shape}) returns {factor!r}: return a "
                "number of at least 0, math.inf where there is none"
            )
        before = self.walk.total(state)
        self.walk.note(path, type(part).__name__, float(factor), "declared")
        reasons = state.reasons
        if math.isinf(factor):
            reasons = (*reasons, f"{path}: it declares an infinite constant")
        return self.walk.anew(node, product(before, float(factor)), reasons)
