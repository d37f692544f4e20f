"""torch.export's program as a `Network`: functional ATen operations with schema names."""

from __future__ import annotations

import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from merkhet.core.calls import named_tensors
from merkhet.core.graph.network import Network, Node, Ref, Shape
from merkhet.core.graph.places import Places

# Functional spellings that run_decompositions gives to operations with a plainer name.
PLAIN_NAMES = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_functional": "batch_norm",
    "_unsafe_view": "view",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_fused_rms_norm": "rms_norm",
    "lift_fresh_copy": "clone",
    "_to_copy": "to",
}
# Of these only the first result is data; the others are statistics for a backward pass.
FIRST_ONLY = {
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "native_layer_norm",
    "native_group_norm",
    "_fused_rms_norm",
}


def export_network(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Network:
    """Trace a module in evaluation mode with torch.export.

    Raises:
        Exception: Whatever torch.export raises where it cannot follow the code.
    """
    with _quiet():
        exported = torch.export.export(_Tensors(module), args, dict(kwargs), strict=False)
        # An empty table decomposes nothing but makes writes in place plain results.
        program = exported.run_decompositions({})
    places = Places(exported, type(module).__name__)
    return _Builder(module, program, _argument_names(module, args, kwargs), places).network()


class _Tensors(nn.Module):
    """The network with the tensors of its output alone, by key: caches and flags left out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the tensors in the network's output."""
        found: dict[str, Tensor] = {}
        for key, tensor in named_tensors(self.inner(*args, **kwargs)):
            while key in found:  # {0: x, "0": y}
                key += "_"
            found[key] = tensor
        return found


@dataclass
class _Builder:
    """Turns an exported program into nodes, in order."""

    module: nn.Module
    program: ExportedProgram
    names: list[str]
    places: Places
    nodes: dict[str, Node] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)  # placeholder -> parameter or buffer
    same: dict[str, str] = field(default_factory=dict)  # dropped node -> the node it equals

    def network(self) -> Network:
        """Return the network."""
        self._placeholders()
        for found in self.program.graph.nodes:
            if found.op == "call_function" and (_results(found) or found.users):
                self._operation(found)
        names = self.program.graph_signature.user_outputs
        keys = self.program.call_spec.out_spec.context  # the dict's keys, in order
        outputs = {key: self._output(str(name)) for key, name in zip(keys, names, strict=True)}
        tensors = shared_names(self.module)[1]
        return Network(tuple(self.nodes.values()), outputs, tensors, source="export")

    def _output(self, name: str) -> str:
        """Return the node that an output is; a parameter that is returned becomes one."""
        if name in self.stored and self._resolve(name) not in self.nodes:
            (found,) = (node for node in self.program.graph.nodes if node.name == name)
            self._add(found, name, "literal", {}, (), {"input": self.stored[name]})
        return self._resolve(name)

    def _placeholders(self) -> None:
        """Take in inputs, parameters, buffers and constants."""
        signature = self.program.graph_signature
        canonical = shared_names(self.module)[0]
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names = iter(self.names)
        for found in self.program.graph.nodes:
            if found.op != "placeholder":
                continue
            if found.name in held:
                self.stored[found.name] = canonical[held[found.name].removeprefix("inner.")]
            elif found.name in signature.user_inputs:
                self._add(found, next(names), "input", {}, ())
            else:
                lifted = signature.inputs_to_lifted_tensor_constants.get(found.name, "")
                value = self.program.constants.get(lifted)
                held_here = {"value": value} if isinstance(value, Tensor) else {}
                self._add(found, found.name, "literal", held_here, ())

    def _operation(self, found: fx.Node) -> None:
        """Take in one call."""
        raw, arguments = _call(found)
        source = arguments["input"] if raw == "getitem" else None
        if isinstance(source, fx.Node) and _call(source)[0] in FIRST_ONLY:
            self.same[found.name] = self._resolve(source.name)
            return
        data: list[str] = []
        parameters: dict[str, str] = {}
        kept = {
            name: self._argument(value, name, data, parameters) for name, value in arguments.items()
        }
        kept = {name: value for name, value in kept.items() if name not in parameters}
        self._add(found, found.name, raw, kept, tuple(data), parameters)

    def _argument(self, value: Any, name: str, data: list[str], parameters: dict[str, str]) -> Any:
        """Return an argument with nodes as `Ref`s; note data and parameters on the way."""
        if isinstance(value, list | tuple):
            return [
                self._argument(part, f"{name}.{place}", data, parameters)
                for place, part in enumerate(value)
            ]
        if not isinstance(value, fx.Node):
            return value
        if value.op == "get_attr":  # a branch of control flow, not data
            return str(value.target)
        if value.name in self.stored:
            parameters[name] = self.stored[value.name]
            return None
        data.append(self._resolve(value.name))
        return Ref(data[-1])

    def _add(
        self,
        found: fx.Node,
        name: str,
        raw: str,
        arguments: dict[str, Any],
        inputs: tuple[str, ...],
        parameters: dict[str, str] | None = None,
    ) -> None:
        """Append a node under a name that is free."""
        while name in self.nodes:
            name += "_"
        self.same[found.name] = name
        path, kind, call = self.places(found)
        shapes, dtype = _results(found) or ((), None)
        self.nodes[name] = Node(
            name=name,
            op=PLAIN_NAMES.get(raw, raw),
            path=path,
            module=kind,
            call=call,
            inputs=inputs,
            shapes=shapes[:1] if raw in FIRST_ONLY else shapes,
            dtype=dtype,
            arguments=arguments,
            parameters=parameters or {},
            constant=raw != "input" and all(self.nodes[source].constant for source in inputs),
        )

    def _resolve(self, name: str) -> str:
        """Return the name in the network of a node of the program."""
        return self.same.get(name, name)


def shared_names(module: nn.Module) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the one name of every parameter and buffer, and the tensors by that name.

    A tensor that stands in several places goes by the first of its names.
    """
    first: dict[int, str] = {}
    canonical: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        canonical[name] = first.setdefault(id(tensor), name)
        tensors.setdefault(canonical[name], tensor)
    return canonical, tensors


def _call(found: fx.Node) -> tuple[str, dict[str, Any]]:
    """Return the operation's raw name and its arguments by schema name, defaults filled in."""
    if found.target is operator.getitem:
        return "getitem", {"input": found.args[0], "index": found.args[1]}
    if not isinstance(found.target, torch._ops.OpOverload):
        name = getattr(found.target, "__name__", str(found.target))
        return name, {str(place): value for place, value in enumerate(found.args)}
    space, _, name = found.target._schema.name.partition("::")
    arguments = {}
    for place, wanted in enumerate(found.target._schema.arguments):
        default = wanted.default_value if wanted.has_default_value() else None
        given = (
            found.args[place] if place < len(found.args) else found.kwargs.get(wanted.name, default)
        )
        arguments["input" if wanted.name == "self" else wanted.name] = given
    return (name if space == "aten" else f"{space}::{name}"), arguments


def _results(found: fx.Node) -> tuple[tuple[Shape, ...], torch.dtype | None] | None:
    """Return shapes and first data type of a node's results; None where it has no tensor."""
    value = found.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    tensors = [one for one in values if isinstance(one, Tensor)]
    if not tensors:
        return None
    return tuple(tuple(int(n) for n in one.shape) for one in tensors), tensors[0].dtype


def _argument_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[str]:
    """Return a name for every tensor that is given, after the parameters of `forward`."""
    given = {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}
    return [key for name, value in given.items() for key, _ in named_tensors(value, name)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own remarks about tracing away from users; errors still raise."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sink = io.StringIO()  # it prints the half-made graph when it gives up
    try:
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
