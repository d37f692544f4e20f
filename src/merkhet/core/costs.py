"""What each operation of a network costs: parameters, multiply-adds, activation memory.

The first reading of `core.graph`. Counts are exact for the traced shapes and stated for one
example of the batch; what they leave out is said by `Costs.unknown`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merkhet.core.graph import Network, Node, read
from merkhet.core.multiply_adds import counting_rules

# Families whose results are views of their input (casts aside), or data that is there anyway.
FREE = {"input", "constant", "shape"}


@dataclass(frozen=True)
class Cost:
    """The cost of one operation, for one example.

    Attributes:
        node: The operation.
        parameters: Entries of the parameters first used here; shared ones count once, where
            they are first used. Buffers are not parameters.
        multiply_adds: Multiplications followed by an addition, in convolutions, matrix
            products, attention and recurrences; everything else counts as zero. None where
            the operation is not known.
        activation_bytes: Bytes of the results; zero for views. Operations in place count like
            any other.
    """

    node: Node
    parameters: int
    multiply_adds: float | None
    activation_bytes: float


@dataclass(frozen=True)
class Costs:
    """The costs of a network, operation by operation, and their totals for one example.

    Attributes:
        network: The network.
        batch: Examples in the traced batch, over which costs are divided.
        operations: One cost for each operation, in order.
    """

    network: Network
    batch: int
    operations: tuple[Cost, ...]

    @property
    def parameters(self) -> int:
        """Entries of all parameters that the network uses, shared ones once."""
        return sum(cost.parameters for cost in self.operations)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of parameters that no operation uses."""
        used = {name for node in self.network.nodes for name in node.parameters.values()}
        return tuple(name for name in self.network.parameters if name not in used)

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of all known operations."""
        return sum(cost.multiply_adds or 0 for cost in self.operations)

    @property
    def unknown(self) -> tuple[Node, ...]:
        """Operations whose multiply-adds are not known, and so not in the total."""
        return tuple(cost.node for cost in self.operations if cost.multiply_adds is None)

    @property
    def activation_bytes(self) -> float:
        """Bytes of all results together: about what training keeps for the backward pass."""
        return sum(cost.activation_bytes for cost in self.operations)

    @property
    def peak_bytes(self) -> float:
        """Largest total of bytes alive at once when each result is freed after its last use."""
        return _peak(self.network, {cost.node.name: cost.activation_bytes for cost in self})

    def by_module(self, depth: int | None = None) -> dict[str, Cost]:
        """Return costs summed by module path, cut to its first `depth` names.

        The node of a sum is the first of its operations; unknown multiply-adds count as zero.
        """
        sums: dict[str, Cost] = {}
        for cost in self.operations:
            path = ".".join(cost.node.path.split(".")[:depth])
            sums[path] = _add(sums[path], cost) if path in sums else cost
        return sums

    def __iter__(self) -> Iterator[Cost]:
        return iter(self.operations)


def costs(network: Network) -> Costs:
    """Read what each operation of a traced network costs.

    Args:
        network: From `core.graph.trace`; its shapes decide.
    """
    rules = {**counting_rules(network), "unknown": lambda node, states: None}
    counted: Mapping[str, Any] = read(network, rules, 0).states
    batch = _batch(network)
    seen: set[str] = set()
    operations = tuple(
        Cost(
            node,
            _new_parameters(network, node, seen),
            None if counted[node.name] is None else counted[node.name] / batch,
            _bytes(network, node) / batch,
        )
        for node in network.nodes
    )
    return Costs(network, batch, operations)


def _batch(network: Network) -> int:
    """Return the number of examples: the first dimension of the first input."""
    shape = network.inputs[0].shape if network.inputs else ()
    return max(1, shape[0]) if shape else 1


def _new_parameters(network: Network, node: Node, seen: set[str]) -> int:
    """Return the entries of the parameters that this node is the first to use."""
    trainable = network.parameters
    fresh = {name for name in node.parameters.values() if name in trainable} - seen
    seen |= fresh
    return sum(trainable[name].numel() for name in fresh)


def _bytes(network: Network, node: Node) -> int:
    """Return the bytes of a node's results, zero for views and for data that is there anyway."""
    if node.dtype is None or (node.kind in FREE and not _casts(network, node)):
        return 0
    return node.size * node.dtype.itemsize


def _casts(network: Network, node: Node) -> bool:
    """Tell whether a conversion changes the data type, and so is no view."""
    if node.op != "to":
        return False
    sources = [network.node(name).dtype for name in node.inputs]
    sources += [network.tensors[name].dtype for name in node.parameters.values()]
    return sources[:1] != [node.dtype]


def _add(one: Cost, other: Cost) -> Cost:
    """Return the sum of two costs, at the first's node."""
    return Cost(
        one.node,
        one.parameters + other.parameters,
        (one.multiply_adds or 0) + (other.multiply_adds or 0),
        one.activation_bytes + other.activation_bytes,
    )


def _peak(network: Network, sizes: Mapping[str, float]) -> float:
    """Return the largest total of sizes alive at once, views keeping their source alive."""
    source: dict[str, str] = {}
    last: dict[str, int] = {}
    for place, node in enumerate(network.nodes):
        view = node.kind == "shape" and node.inputs and not _casts(network, node)
        source[node.name] = source[node.inputs[0]] if view else node.name
        for name in (node.name, *node.inputs):
            last[source[name]] = place
    for name in network.outputs.values():
        last[source[name]] = len(network.nodes)
    alive = peak = 0.0
    freed: dict[int, float] = {}
    for place, node in enumerate(network.nodes):
        alive += sizes[node.name]
        peak = max(peak, alive)
        if source[node.name] == node.name:
            freed[last[node.name]] = freed.get(last[node.name], 0.0) + sizes[node.name]
        alive -= freed.pop(place, 0.0)
    return peak
