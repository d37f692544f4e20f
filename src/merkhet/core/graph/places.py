"""Which module each operation of an exported program belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

Place = tuple[str, str, int]  # path, class name, and which of the module's calls


class Places:
    """Module paths of the operations of a program, also inside blocks of autocast and no_grad.

    torch.export keeps such a block as one call of an inner graph. Decomposing unfolds it and
    gives all its operations the place of the block; the inner graph knew their own.

    Args:
        before: The program as exported, of a wrapper that holds the network as `inner`.
        root: Class name of the network.
    """

    def __init__(self, before: ExportedProgram, root: str) -> None:
        self.root = root
        self.inside = {
            node.name: list(_operations(node, before.graph_module))
            for node in before.graph.nodes
            if _is_block(node)
        }

    def __call__(self, found: fx.Node) -> Place:
        """Return the place of a node of the decomposed program; to be asked in order."""
        return _place(self._inner_stack(found) or found.meta.get("nn_module_stack"), self.root)

    def _inner_stack(self, found: fx.Node) -> Any:
        """Return the stack of the next operation of this name in the block it comes from."""
        sources = found.meta.get("from_node")
        left = self.inside.get(sources[0].name, []) if sources else []
        for place, (name, stack) in enumerate(left):
            if name == _plain(found):
                del left[: place + 1]
                return stack
        return None


def _is_block(node: fx.Node) -> bool:
    """Tell whether a node calls an inner graph under another mode of autograd or autocast."""
    return isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() in (
        "wrap_with_autocast",
        "wrap_with_set_grad_enabled",
    )


def _operations(block: fx.Node, owner: fx.GraphModule) -> Iterator[tuple[str, Any]]:
    """Yield name and module stack of the operations in a block, blocks inside it unfolded."""
    (called,) = (one for one in block.all_input_nodes if one.op == "get_attr")
    inner = owner.get_submodule(str(called.target))
    assert isinstance(inner, fx.GraphModule)
    for node in inner.graph.nodes:
        if _is_block(node):
            yield from _operations(node, inner)
        elif node.op == "call_function":
            yield _plain(node), node.meta.get("nn_module_stack")


def _plain(node: fx.Node) -> str:
    """Return an operation's name without the mark of writing in place."""
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0].rstrip("_")


def _place(stack: Any, root: str) -> Place:
    """Return the innermost module of a stack."""
    if not stack or len(stack) < 2:  # the first entry is the wrapper
        return "", root, 0
    key, (path, kind) = list(stack.items())[-1]
    path = path.removeprefix("inner").removeprefix(".")
    call = key.rpartition("@")[2] if "@" in key else "0"
    kind = kind if isinstance(kind, str) else kind.__qualname__
    return path, kind.rpartition(".")[2], int(call)
