"""Where units of activations that are 0 below 0 can be seen: at which modules, along which axis."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from merkhet.core.graph import Network, Node
from merkhet.report import Subject

SWITCHES = ("relu", "relu6")  # 0 below 0, with a gradient of 0 there
FLOORS = {"hardtanh": "min_val", "clamp": "min", "clamp_min": "min"}  # as ReLU6 is where it is 0


@dataclass(frozen=True)
class Switch:
    """Where units of an activation that is 0 below 0 are seen.

    Attributes:
        path: Of the module whose output is looked at: the activation, or what it is applied to.
        axis: Of the output, that counts units: features, or channels with all their positions.
        relu: Path of the ReLU's own module; "" where it is a function.
    """

    path: str
    axis: int
    relu: str = ""


def switches(subject: Subject) -> tuple[list[Switch], int]:
    """Return where units of ReLUs can be seen, and how many cannot.

    What a module gives to a ReLU is looked at where it is called once, or else what the ReLU's
    own module gave last.
    """
    network, found, missed = subject.network, dict[str, Switch](), 0
    parts = dict(subject.module.named_modules())
    leaves = {path for path, part in parts.items() if not list(part.children())}
    for node in network.nodes:
        if not is_switch(node):
            continue
        source = network.node(node.inputs[0])
        path = next((p.path for p in (source, node) if _seen(network, p, leaves)), None)
        if path is None:
            missed += 1
        else:
            own = isinstance(parts.get(node.path), nn.ReLU | nn.ReLU6)
            found[path] = Switch(path, _axis(subject, node), node.path if own else "")
    return list(found.values()), missed


def is_switch(node: Node) -> bool:
    """Tell whether an operation is 0 below 0, as ReLU is, by whatever name."""
    floor = FLOORS.get(node.op)
    return node.op in SWITCHES or (floor is not None and node.arguments.get(floor) == 0)


def _seen(network: Network, node: Node, leaves: set[str]) -> bool:
    """Tell whether a node's result is what an innermost module returned last."""
    return bool(node.path) and node.path in leaves and network.within(node.path)[-1] is node


def _axis(subject: Subject, node: Node) -> int:
    """Return the axis that counts units: channels of maps and signals, features of others."""
    maps = len(node.shape) > 3 or (len(node.shape) == 3 and subject.kind == "signals")
    return 1 if maps else len(node.shape) - 1
