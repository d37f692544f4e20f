"""What a trace gives: nodes (operation, arguments, shapes, module path) and their network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import choose
from merkhet.core.graph.kinds import kind_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """A reference, among a node's arguments, to the result of another node.

    Attributes:
        name: That node's name.
    """

    name: str


@dataclass(frozen=True)
class Node:
    """One operation of a network.

    Attributes:
        name: Unique in the network.
        op: The operation, in ATen's words without overload or in-place mark ("conv2d",
            "linear", "relu", "add"); "input" for the network's inputs, "literal" for tensors
            written into its code or kept as plain attributes (`arguments["value"]`);
            "module:Name" for a module that only hooks saw and that no operation is known for,
            "untraced" for what no hook saw.
        path: Path of the innermost module it was computed in, "" for the network itself.
        module: Class name of that module.
        call: Which call of that module it belongs to, from 0, where one is called again.
        inputs: Names of the nodes it takes data from, in the order of its arguments; a node
            used twice is named twice.
        shapes: Shapes of its results, one for each tensor it returns.
        dtype: Data type of its first result, None where it returns no tensor.
        arguments: Its arguments by the name in ATen's schema ("input" for ATen's "self");
            results of other nodes are `Ref`s, parameters are named in `parameters` instead.
        parameters: Names of the parameters and buffers it uses, by argument name.
        constant: Whether it depends on no input of the network.
    """

    name: str
    op: str
    path: str
    module: str
    call: int
    inputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    dtype: torch.dtype | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    constant: bool = False

    @property
    def shape(self) -> Shape:
        """Shape of the first result."""
        return self.shapes[0] if self.shapes else ()

    @property
    def size(self) -> int:
        """Number of entries of all results together."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def kind(self) -> str:
        """The family of the operation: "convolution", "dense", "activation", "shape", ..."""
        return kind_of(self.op)


@dataclass(frozen=True)
class Network:
    """A network as a list of operations in the order they run.

    Attributes:
        nodes: The operations; inputs first.
        outputs: Names of the nodes that are returned, by key: "" for a single tensor, a
            position or a field name otherwise.
        tensors: Parameters and buffers by name; of tensors that several modules share, one
            name, the first of `named_parameters()`.
        source: "export" (torch.export saw every operation) or "hooks" (module hooks saw the
            calls of modules only).
        reason: Why torch.export could not trace the network; empty where it could.
    """

    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    source: str
    reason: str = ""

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes that stand for the network's inputs."""
        return tuple(node for node in self.nodes if node.op == "input")

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable and frozen parameters by name, shared ones once."""
        return {
            name: tensor
            for name, tensor in self.tensors.items()
            if isinstance(tensor, nn.Parameter)
        }

    def node(self, name: str) -> Node:
        """Return the node called `name`.

        Raises:
            InputError: There is none; names the nearest.
        """
        return self._by_name[choose("node", name, self._by_name)]

    def within(self, path: str) -> tuple[Node, ...]:
        """Return the nodes computed in the module at `path` or in a module inside it."""
        return tuple(
            node
            for node in self.nodes
            if not path or node.path == path or node.path.startswith(f"{path}.")
        )

    def users(self, name: str) -> tuple[Node, ...]:
        """Return the nodes that take data from the node called `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield (module path, module, operation, shapes, parameters) of every node, as text."""
        for node in self.nodes:
            call = f" (call {node.call + 1})" if node.call else ""
            shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape in node.shapes)
            used = ", ".join(node.parameters.values())
            yield node.path + call, node.module, node.op, shapes, used

    def __str__(self) -> str:
        rows = [("path", "module", "operation", "shape", "parameters"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self.caveats()])

    def caveats(self) -> list[str]:
        """Say, in a line or none, what this graph does not show."""
        if self.source == "export":
            return []
        return [
            "Seen through module hooks only, since torch.export could not trace this network: "
            "operations outside modules are missing, and where its code depends on the data, what "
            f"is shown ran on the first inputs. ({self.reason})"
        ]
