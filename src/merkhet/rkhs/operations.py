"""Layers with weights as linear operations, at the sizes of input that they meet in a network."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from merkhet.core.errors import InputError, choose
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.modules import steps_of
from merkhet.core.linear.steps import Convolution, Dense, Sizes, Step, TransposedConvolution
from merkhet.core.modes import evaluating, in_mode
from merkhet.core.undisturbed import undisturbed

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NORMS = ("operator", "reshaped")
NO_WEIGHT = torch.empty(0)


@dataclass(frozen=True, eq=False)
class Operation:
    """What a layer does without its bias, as a function of its input and its weight.

    Attributes:
        path: The layer's path in the network.
        held: The layer, which this does not keep alive.
        shape: Of one input of the operation; (in k k,) where the weight is read as a matrix.
        steps: The operation; the weight of one of them is given when it is applied.
        as_matrix: Whether the weight is given as the matrix out x (in k k).
    """

    path: str
    held: weakref.ref[nn.Module]
    shape: Sizes
    steps: tuple[Step, ...]
    as_matrix: bool

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return A x, (b, *out), for x (b, *shape) and the weight as `weight` returns it."""
        for step in self.steps:
            x = _with(step, weight).apply(x)
        return x

    def weight(self) -> Tensor:
        """Return the weight that the operation is linear in, in float32 at least; has a graph."""
        layer = self.layer
        weight = weight_of(layer, self.path)
        weight = outputs_first(layer, weight).flatten(1) if self.as_matrix else weight
        return weight.to(torch.promote_types(weight.dtype, torch.float32))

    @property
    def layer(self) -> nn.Module:
        """The layer."""
        layer = self.held()
        assert layer is not None, "an operation is used only while its network lives"
        return layer

    @property
    def name(self) -> str:
        """The path, and the shape of one input: "features.0 3x32x32"."""
        return f"{self.path} {'x'.join(map(str, self.shape))}"


def weighted_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers and convolutions of a network by path, each once.

    Weights that other modules use in their own way do not count: embeddings, normalisations, the
    projections inside nn.MultiheadAttention.

    Raises:
        InputError: There is none, or this is no network.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"the network is a {type(module).__name__}: give an nn.Module")
    layers: dict[str, nn.Module] = {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS))
        and not isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)
    }
    if not layers:
        raise InputError(
            f"{type(module).__name__} has no layer with a spectral norm: give a network with"
            " nn.Linear, nn.Conv1d to nn.Conv3d or nn.ConvTranspose1d to nn.ConvTranspose3d"
        )
    return layers


def operations(module: nn.Module, example: Tensor | None, norm: str) -> tuple[Operation, ...]:
    """Return the operations of a network's layers, each once for each size of its input.

    Layers that share a weight and do the same with it count once. Layers that are not called
    count in the reshaped form only, which knows no inputs.

    Args:
        module: The network.
        example: (b, *in), at least one input; two at most are looked at, by the network as
            evaluated and without a trace. Not needed for the reshaped norm.
        norm: "operator", or "reshaped": the weight as the matrix out x (in k k).

    Raises:
        InputError: There is no such layer, no such norm, or a layer cannot be read.
    """
    layers = weighted_layers(module)
    if choose("norm", norm, NORMS) == "reshaped":
        found = [reshaped(path, layer) for path, layer in layers.items()]
    else:
        assert example is not None, "the operator's norm depends on the size of the input"
        found = [
            as_called(path, layers[path], shape, answer)
            for path, shape, answer in _calls(module, layers, example)
        ]
    distinct: dict[tuple[Any, ...], Operation] = {}
    for operation in found:
        distinct.setdefault(_identity(operation), operation)
    return tuple(distinct.values())


def as_called(path: str, layer: nn.Module, shape: Sizes, answer: Sizes | None = None) -> Operation:
    """Return a layer's operation on inputs of one shape (without the batch).

    Raises:
        InputError: The layer answered with another shape than its settings give.
    """
    weight_of(layer, path)
    with in_mode(layer, training=False):
        steps = steps_of(layer)
    expected = Chain(steps, shape).output_shape
    if answer is not None and answer != expected:
        raise InputError(
            f"layer {path} answered {answer} where its settings give {expected}: set"
            " output_padding on the layer instead of output_size in the call"
        )
    bare = tuple(_with(step, NO_WEIGHT) for step in steps)
    return Operation(path, weakref.ref(layer), shape, bare, False)


def reshaped(path: str, layer: nn.Module) -> Operation:
    """Return a layer's weight as the matrix out x (in k k), as the paper's public code reads it."""
    columns = outputs_first(layer, weight_of(layer, path).detach()).flatten(1).shape[1]
    return Operation(path, weakref.ref(layer), (columns,), (Dense(NO_WEIGHT),), True)


def outputs_first(layer: nn.Module, weight: Tensor) -> Tensor:
    """Return a view of a layer's weight with the outputs as its first dimension."""
    return weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else weight


def weight_of(layer: nn.Module, path: str) -> Tensor:
    """Return a layer's weight, computed where it is parametrised; nothing is disturbed.

    Raises:
        InputError: The weight is an attribute that hooks of the old style fill in.
    """
    if parametrize.is_parametrized(layer, "weight"):
        with in_mode(layer, training=False):  # parametrisations may count their uses in training
            computed: Tensor = layer.get_submodule("parametrizations.weight")()
            return computed
    weight = layer._parameters.get("weight")
    if weight is None:
        raise InputError(
            f"layer {path} has no parameter 'weight' (weight_norm or spectral_norm of the old"
            " style?): use those of torch.nn.utils.parametrizations"
        )
    return weight


def _calls(
    module: nn.Module, layers: dict[str, nn.Module], example: Tensor
) -> list[tuple[str, Sizes, Sizes]]:
    """Return path, input shape and answer's shape of the layers' calls, in their order."""
    calls: list[tuple[str, Sizes, Sizes]] = []
    with undisturbed(module), evaluating(module), _watched(layers, calls):
        module(example[:2])
    return list(dict.fromkeys(calls))


@contextmanager
def _watched(layers: dict[str, nn.Module], calls: list[tuple[str, Sizes, Sizes]]) -> Iterator[None]:
    """Note the layers' calls for a while."""

    def noting(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: Any, answer: Tensor) -> None:
            given = inputs[0] if inputs else named["input"]
            rank = 1 + len(getattr(layer, "kernel_size", ()))
            calls.append((path, tuple(given.shape[-rank:]), tuple(answer.shape[-rank:])))

        return hook

    handles = [
        layer.register_forward_hook(noting(path), with_kwargs=True)
        for path, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _identity(operation: Operation) -> tuple[Any, ...]:
    """Return what is the same for operations that are the same map of the same weight."""
    own = operation.layer._parameters.get("weight")
    return (
        id(operation.layer if own is None else own),
        repr(operation.steps),  # of their settings: the weights are left out
        operation.shape,
        operation.as_matrix,
    )


def _with(step: Step, weight: Tensor) -> Step:
    """Return a step with another weight, or as it is if it has none."""
    if isinstance(step, Dense | Convolution | TransposedConvolution):
        return replace(step, weight=weight)
    return step
