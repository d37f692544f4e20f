"""torch's own attention layers, read as a whole: no bound, for one reason."""

from __future__ import annotations

import math

from torch import nn

from merkhet.core.graph import Node
from merkhet.rkhs.rules_state import Bound, State, Walk, reasons_of

ATTENTION = (
    "attention has no finite bound: the slope of its products grows with their inputs (Kim et al., "
    "ICML 2021)"
)


class Attention:
    """The layers nn.MultiheadAttention of a network: one reason each, not one an operation.

    Args:
        walk: The reading.
        module: The network that was traced.
    """

    def __init__(self, walk: Walk, module: nn.Module) -> None:
        self.walk = walk
        self.paths = {
            path
            for path, part in module.named_modules(remove_duplicate=False)
            if isinstance(part, nn.MultiheadAttention)
        }

    def covers(self, node: Node) -> bool:
        """Tell whether a node belongs to such a layer."""
        return node.path in self.paths

    def state(self, node: Node, given: tuple[State, ...]) -> Bound | None:
        """Return the state of a node in such a layer."""
        known = tuple(state for state in given if state is not None)
        if not known:
            return None
        for state in known:
            self.walk.total(state)  # norms of what came before are still noted
        reason = f"{node.path or node.module}: {ATTENTION}"
        if all(part.how != ATTENTION or part.path != node.path for part in self.walk.parts):
            self.walk.note(node.path, "attention", math.inf, ATTENTION)
        return self.walk.anew(node, math.inf, (*reasons_of(known), reason))
