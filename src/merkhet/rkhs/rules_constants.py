"""Values of what a network computes without its input: normalised weights, scales, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Network, Node, Ref

# Of these the input gives the shape alone.
LIKE = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
DRAWN = ("rand", "normal_", "bernoulli", "multinomial", "dropout")
COPIES = ("to", "clone", "alias", "detach", "contiguous")
DROPPED = ("memory_format", "device", "pin_memory", "dtype", "layout", "requires_grad")


class Constants:
    """Computes nodes that depend on parameters and numbers alone, in float64, each once.

    Args:
        network: The network.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.known: dict[str, Tensor] = {}

    def argument(self, node: Node, name: str) -> Tensor | None:
        """Return an argument's value as a tensor, None where the node has none.

        Raises:
            LookupError: It has one that cannot be computed; says why.
        """
        if name in node.parameters:
            return _wide(self.network.tensors[node.parameters[name]])
        value = node.arguments.get(name)
        if isinstance(value, Ref):
            return self.value(self.network.node(value.name))
        return None if value is None else torch.as_tensor(value, dtype=torch.float64)

    def value(self, node: Node) -> Tensor:
        """Return what a node computes.

        Raises:
            LookupError: It depends on the input, or on a tensor that the graph does not hold.
        """
        if node.name not in self.known:
            self.known[node.name] = self._computed(node)
        return self.known[node.name]

    def call(self, node: Node, **given: Any) -> Any:
        """Run a node's operation, with some of its arguments given.

        Raises:
            LookupError: An argument cannot be computed, or torch has no such operation.
        """
        operation = getattr(torch.ops.aten, node.op, None)
        if operation is None:
            raise LookupError(f"{node.op} is no operation of torch")
        held = (key.partition(".")[0] for key in node.parameters)
        arguments = {
            name: given[name] if name in given else self._filled(node, name)
            for name in dict.fromkeys([*node.arguments, *held])
            if name not in DROPPED
        }
        why = ""
        for first in ("self", "input"):  # torch's schemas have either
            renamed = {first if key == "input" else key: one for key, one in arguments.items()}
            try:
                return operation(**renamed)
            except (RuntimeError, TypeError) as error:
                why = why or str(error).partition("\n")[0]
        raise LookupError(why)

    def _filled(self, node: Node, name: str) -> Any:
        """Return an argument with the values of nodes in it, as the operation takes it."""
        return self._value(node, node.arguments.get(name), name)

    def _value(self, node: Node, value: Any, name: str) -> Any:
        """Return an argument, or an entry of a list."""
        if name in node.parameters:
            return _wide(self.network.tensors[node.parameters[name]])
        if isinstance(value, list | tuple):
            return [self._value(node, part, f"{name}.{place}") for place, part in enumerate(value)]
        if not isinstance(value, Ref):
            return value
        source = self.network.node(value.name)
        if node.op in LIKE and not source.constant:
            return torch.zeros(source.shape, dtype=torch.float64)
        return self.value(source)

    def _computed(self, node: Node) -> Tensor:
        """Return the value of a node that is not known yet."""
        if node.op == "literal":
            if "input" in node.parameters:
                return _wide(self.network.tensors[node.parameters["input"]])
            if isinstance(node.arguments.get("value"), Tensor):
                return _wide(node.arguments["value"])
            raise LookupError("a tensor is made in forward: keep it with register_buffer")
        if node.op == "input" or (not node.constant and node.op not in LIKE):
            raise LookupError("it is computed from the network's input")
        if any(word in node.op for word in DRAWN):
            raise LookupError("it is drawn at random")
        if node.op == "getitem":
            parts = self._filled(node, "input")
            return parts[node.arguments["index"]]  # type: ignore[no-any-return]
        found = self._filled(node, "input") if node.op in COPIES else self.call(node)
        return _wide(found) if isinstance(found, Tensor) else found


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU, floats in float64."""
    wide = tensor.detach().cpu()
    return wide.double() if wide.is_floating_point() else wide
