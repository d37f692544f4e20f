"""What module hooks see of one forward pass: the fallback where torch.export cannot follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.graph.export import shared_names
from merkhet.core.graph.network import Network, Node, Ref

# Modules that compute one operation, and the attributes that are its arguments in ATen's schema.
MODULE_OPS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"Conv{n}d": (f"conv{n}d", ("stride", "padding", "dilation", "groups", "padding_mode"))
        for n in (1, 2, 3)
    },
    **{
        f"ConvTranspose{n}d": (
            f"conv_transpose{n}d",
            ("stride", "padding", "output_padding", "groups", "dilation"),
        )
        for n in (1, 2, 3)
    },
    **{f"BatchNorm{n}d": ("batch_norm", ("eps",)) for n in (1, 2, 3)},
    **{f"AvgPool{n}d": (f"avg_pool{n}d", ("kernel_size", "stride", "padding")) for n in (1, 2, 3)},
    **{
        f"MaxPool{n}d": (f"max_pool{n}d", ("kernel_size", "stride", "padding", "dilation"))
        for n in (1, 2, 3)
    },
    **{f"AdaptiveAvgPool{n}d": (f"adaptive_avg_pool{n}d", ("output_size",)) for n in (1, 2, 3)},
    "Linear": ("linear", ()),
    "LayerNorm": ("layer_norm", ("normalized_shape", "eps")),
    "GroupNorm": ("group_norm", ("num_groups", "eps")),
    "RMSNorm": ("rms_norm", ("normalized_shape", "eps")),
    "Embedding": ("embedding", ("padding_idx",)),
    "Dropout": ("dropout", ("p",)),
    "Flatten": ("flatten", ("start_dim", "end_dim")),
    "Identity": ("alias", ()),
    "ReLU": ("relu", ()),
    "LeakyReLU": ("leaky_relu", ("negative_slope",)),
    "ELU": ("elu", ("alpha",)),
    "GELU": ("gelu", ("approximate",)),
    "SiLU": ("silu", ()),
    "Mish": ("mish", ()),
    "Softplus": ("softplus", ("beta", "threshold")),
    "Tanh": ("tanh", ()),
    "Sigmoid": ("sigmoid", ()),
    "ReLU6": ("relu6", ()),
    "Hardswish": ("hardswish", ()),
    "Softmax": ("softmax", ("dim",)),
}
UNTRACED = "untraced"


def hook_network(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], reason: str
) -> Network:
    """Trace a module by running it once and watching the calls of its innermost modules.

    Tensors computed outside modules appear as nodes of the operation "untraced" without
    inputs, so that no reading takes them for something they are not.

    Args:
        module: The network.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        reason: Why torch.export could not trace it.

    Raises:
        InputError: The network does not run on these inputs.
    """
    watcher = _Watcher(module)
    for place, value in enumerate([*args, *kwargs.values()]):
        watcher.input(value, [*map(str, range(len(args))), *kwargs][place])
    handles = watcher.hooks()
    try:
        with _undisturbed(module):
            output = module(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(_describe(value) for value in [*args, *kwargs.values()])
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"the network does not run on inputs of shape {shapes}: {first}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return watcher.network(output, reason)


@dataclass
class _Watcher:
    """Collects nodes while the network runs."""

    module: nn.Module
    nodes: list[Node] = field(default_factory=list)
    open: list[bool] = field(default_factory=list)  # for each running call: has it inner calls?
    calls: Counter[str] = field(default_factory=Counter)
    maker: dict[int, str] = field(default_factory=dict)  # id of a tensor -> node that made it
    alive: list[Tensor] = field(default_factory=list)  # so that ids are not used again

    def hooks(self) -> list[Any]:
        """Watch every module; return the handles of the hooks."""
        handles = []
        for path, part in self.module.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue  # takes no hooks: what it computes shows as untraced
            handles.append(part.register_forward_pre_hook(self._enter))
            handles.append(part.register_forward_hook(self._leave(path), with_kwargs=True))
        return handles

    def input(self, value: Any, name: str) -> None:
        """Take in an input of the network."""
        for tensor in _flat(value):
            self._append(tensor, Node(f"input_{name}", "input", "", "", 0, (), (), None))

    def _enter(self, _module: nn.Module, _inputs: Any) -> None:
        if self.open:
            self.open[-1] = True
        self.open.append(False)

    def _leave(self, path: str) -> Any:
        def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inner = self.open.pop()
            if not inner and path:
                self._call(part, path, [*_flat(args), *_flat(kwargs)], _flat(output))

        return hook

    def _call(self, part: nn.Module, path: str, given: list[Tensor], results: list[Tensor]) -> None:
        """Take in the call of an innermost module."""
        name = type(part).__name__
        known = name in MODULE_OPS and type(part).__module__.startswith("torch.nn.")
        op, wanted = MODULE_OPS[name] if known else (f"module:{name}", ())
        canonical = shared_names(self.module)[0]
        inputs = tuple(self._made_by(tensor) for tensor in given)
        arguments: dict[str, Any] = {key: getattr(part, key) for key in wanted}
        if known and inputs:
            arguments["input"] = Ref(inputs[0])
        parameters = {
            key: canonical[f"{path}.{key}"]
            for key, _ in [*part.named_parameters(), *part.named_buffers()]
        }
        node = Node(
            f"{path.replace('.', '_')}_{self.calls[path]}",
            *(op, path, name, self.calls[path], inputs, (), None, arguments, parameters),
        )
        self.calls[path] += 1
        self._append(results[0] if results else None, node, results)

    def _append(
        self, first: Tensor | None, node: Node, results: list[Tensor] | None = None
    ) -> None:
        """Append a node whose results are known, and remember what it made."""
        made = results if results is not None else [t for t in [first] if t is not None]
        self.nodes.append(
            replace(
                node,
                shapes=tuple(tuple(tensor.shape) for tensor in made),
                dtype=made[0].dtype if made else None,
            )
        )
        for tensor in made:
            self.maker[id(tensor)] = node.name
            self.alive.append(tensor)

    def _made_by(self, tensor: Tensor) -> str:
        """Return the node that made a tensor; a view of a known one becomes a node."""
        if id(tensor) in self.maker:
            return self.maker[id(tensor)]
        source = next((kept for kept in reversed(self.alive) if _same_entries(kept, tensor)), None)
        place = f"{len(self.nodes)}"
        if source is None:
            node = Node(f"{UNTRACED}_{place}", UNTRACED, "", "", 0, (), (), None)
        else:
            origin = self.maker[id(source)]
            arguments = {"input": Ref(origin), "size": list(tensor.shape)}
            node = Node(f"view_{place}", "view", "", "", 0, (origin,), (), None, arguments)
        self._append(tensor, node)
        return node.name

    def network(self, output: Any, reason: str) -> Network:
        """Return the network, given what the pass returned."""
        outputs = {
            str(place) if place else "": self._made_by(tensor)
            for place, tensor in enumerate(_flat(output))
        }
        tensors = shared_names(self.module)[1]
        return Network(tuple(self.nodes), outputs, tensors, source="hooks", reason=reason)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Put buffers and random generators back as they were: this pass is only looked at."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def _same_entries(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors show the same entries of the same memory in another shape."""
    return (
        one.numel() == other.numel()
        and one.dtype == other.dtype
        and one.data_ptr() == other.data_ptr()
        and one.is_contiguous()
        and other.is_contiguous()
    )


def _flat(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _flat(part)]
    return []


def _describe(value: Any) -> str:
    """Return a tensor's shape, or the type of anything else."""
    if isinstance(value, torch.Tensor):
        return "(" + ", ".join(map(str, value.shape)) + ")"
    return type(value).__name__
