"""Which batch norms fold into the layer before them in inference, and the code that folds them."""

from __future__ import annotations

from torch import nn

from merkhet.core.graph import Network, Node
from merkhet.report import Subject

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def foldable(subject: Subject) -> dict[str, str]:
    """Return the path of the layer that each foldable batch norm follows, by the norm's path.

    The layer is a convolution or a matrix, whose result goes to the norm alone; both are called
    once.
    """
    network, parts = subject.network, dict(subject.module.named_modules())
    found = {}
    for node in network.nodes:
        if node.inputs and isinstance(parts.get(node.path), NORMS) and _once(network, node):
            before = network.node(node.inputs[0])
            layer = parts.get(before.path)
            weighted = isinstance(layer, (*CONVOLUTIONS, nn.Linear))
            if weighted and _once(network, before) and _used(network, before) == 1:
                found[node.path] = before.path
    return found


def fold_code(subject: Subject, pairs: dict[str, str]) -> str:
    """Return the lines that fold batch norms, given as `foldable` gives them."""
    parts = dict(subject.module.named_modules())
    kinds = {"linear" if isinstance(parts[path], nn.Linear) else "conv" for path in pairs.values()}
    lines = ["import torch"]
    for kind in sorted(kinds):
        own = [
            (path, norm)
            for norm, path in pairs.items()
            if isinstance(parts[path], nn.Linear) == (kind == "linear")
        ]
        lines += [
            f"for before, norm in {own}:",
            "    both = (network.get_submodule(path).eval() for path in (before, norm))",
            f"    folded = torch.nn.utils.fusion.fuse_{kind}_bn_eval(*both)",
            "    network.set_submodule(before, folded)",
            "    network.set_submodule(norm, torch.nn.Identity())",
        ]
    return "\n".join(lines)


def _once(network: Network, node: Node) -> bool:
    """Tell whether a node is all that its module computes."""
    return network.within(node.path) == (node,)


def _used(network: Network, node: Node) -> int:
    """Return how often a node's result is used."""
    inside = sum(other.inputs.count(node.name) for other in network.nodes)
    return inside + sum(name == node.name for name in network.outputs.values())
