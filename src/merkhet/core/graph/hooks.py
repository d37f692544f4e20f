"""What module hooks see of one forward pass: the fallback where torch.export cannot follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.calls import named_tensors
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

    Tensors computed outside modules, in place or not, appear as nodes of the operation
    "untraced" without inputs, so that no reading takes them for something they are not.

    Args:
        module: The network, which is known to run.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        reason: Why torch.export could not trace it.
    """
    watcher = _Watcher(module)
    for name, value in [*enumerate(args), *kwargs.items()]:
        watcher.input(value, str(name))
    handles = watcher.hooks()
    try:
        output = module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return watcher.network(output, reason)


Seen = tuple[Tensor, int]  # a tensor, and how often it had been written into


@dataclass
class _Call:
    """A call that is running."""

    given: list[Seen]
    inner: bool = False  # does it call other modules?


@dataclass
class _Watcher:
    """Collects nodes while the network runs."""

    module: nn.Module
    nodes: list[Node] = field(default_factory=list)
    open: list[_Call] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    maker: dict[int, tuple[int, str]] = field(default_factory=dict)  # by id: version, its node
    alive: dict[int, list[Tensor]] = field(default_factory=dict)  # by address; keeps ids unique

    def __post_init__(self) -> None:
        self.canonical, self.tensors = shared_names(self.module)

    def hooks(self) -> list[Any]:
        """Watch every module; return the handles of the hooks."""
        handles = []
        for path, part in self.module.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue  # takes no hooks: what it computes shows as untraced
            handles.append(part.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(part.register_forward_hook(self._leave(path)))
        return handles

    def input(self, value: Any, name: str) -> None:
        """Take in an input of the network."""
        for tensor in _flat(value):
            self._append(Node(f"input_{name}", "input", "", "", 0, (), (), None), [tensor])

    def _enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.open:
            self.open[-1].inner = True
        self.open.append(_Call([(tensor, _version(tensor)) for tensor in _flat([args, kwargs])]))

    def _leave(self, path: str) -> Any:
        def hook(part: nn.Module, _args: Any, output: Any) -> None:
            call = self.open.pop()
            if not call.inner and path:
                self._call(part, path, call.given, _flat(output))

        return hook

    def _call(self, part: nn.Module, path: str, given: list[Seen], results: list[Tensor]) -> None:
        """Take in the call of an innermost module."""
        name = type(part).__name__
        known = name in MODULE_OPS and type(part).__module__.startswith("torch.nn.")
        op, wanted = MODULE_OPS[name] if known else (f"module:{name}", ())
        inputs = tuple(self._made_by(seen) for seen in given)
        arguments: dict[str, Any] = {key: getattr(part, key) for key in wanted}
        if known and inputs:
            arguments["input"] = Ref(inputs[0])
        parameters = {
            key: self.canonical[f"{path}.{key}"]
            for key, _ in [*part.named_parameters(), *part.named_buffers()]
        }
        node = Node(
            f"{path.replace('.', '_')}_{self.calls[path]}",
            *(op, path, name, self.calls[path], inputs, (), None, arguments, parameters),
        )
        self.calls[path] += 1
        self._append(node, results)

    def _append(self, node: Node, made: list[Tensor]) -> None:
        """Append a node whose results are known, and remember what it made."""
        shapes = tuple(tuple(tensor.shape) for tensor in made)
        self.nodes.append(replace(node, shapes=shapes, dtype=made[0].dtype if made else None))
        for tensor in made:
            self._remember((tensor, _version(tensor)), node.name)

    def _remember(self, seen: Seen, name: str) -> None:
        """Note which node made a tensor as it was then."""
        tensor, version = seen
        self.maker[id(tensor)] = version, name
        self.alive.setdefault(_address(tensor), []).append(tensor)

    def _made_by(self, seen: Seen) -> str:
        """Return the node that made a tensor; a view of a known one becomes a node."""
        tensor, version = seen
        made, name = self.maker.get(id(tensor), (None, ""))
        if made == version:
            return name
        source = self._source(seen)
        arguments = {"input": Ref(source), "size": list(tensor.shape)} if source else {}
        op, inputs = ("view", (source,)) if source else (UNTRACED, ())
        node = Node(f"{op}_{len(self.nodes)}", op, "", "", 0, inputs, (), None, arguments)
        self._append(node, [tensor])
        self._remember(seen, node.name)
        return node.name

    def _source(self, seen: Seen) -> str:
        """Return the node that made the same entries in another shape, "" where there is none."""
        tensor, version = seen
        place = _address(tensor)
        for kept in reversed(self.alive[place] if place and place in self.alive else []):
            made, name = self.maker[id(kept)]
            if made == version and _same_entries(kept, tensor):
                return name
        return ""

    def network(self, output: Any, reason: str) -> Network:
        """Return the network, given what the pass returned."""
        outputs = {
            str(place) if place else "": self._made_by((tensor, _version(tensor)))
            for place, tensor in enumerate(_flat(output))
        }
        return Network(tuple(self.nodes), outputs, self.tensors, source="hooks", reason=reason)


def _version(tensor: Tensor) -> int:
    """Return how often the memory of a tensor was written into, where torch counts it."""
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: Tensor) -> int:
    """Return where a tensor's entries lie, 0 where it has no memory of its own."""
    return tensor.data_ptr() if tensor.layout == torch.strided and not tensor.is_meta else 0


def _same_entries(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors at one address show the same entries, in whatever shape."""
    return (
        one.numel() == other.numel()
        and one.dtype == other.dtype
        and one.is_contiguous()
        and other.is_contiguous()
    )


def _flat(value: Any) -> list[Tensor]:
    """Return the tensors in arguments or results, in order."""
    return [tensor for _, tensor in named_tensors(value)]
