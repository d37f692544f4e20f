"""Networks that are a chain of dense layers and one activation, read as a `Spec`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.graph import Network, Node, Rule, Unknown, read, trace
from merkhet.unit_prior import weight_priors
from merkhet.unit_prior.activations import BOUNDED, SMOOTH, TWO_SIDED, Activation, two_sided
from merkhet.unit_prior.spec import Spec, make_spec
from merkhet.unit_prior.weight_priors import WeightPrior

Where = dict[str, tuple[int, bool]]  # module path -> layer, after the activation?

PASSES = (
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose"),
    *("t", "clone", "alias", "contiguous", "detach", "dropout", "feature_dropout", "alpha_dropout"),
)
NOT_ONE = "it is no dense layer, activation, flattening or dropout of one result"
IDENTITY = two_sided("linear", 1.0, 1.0)


@dataclass(frozen=True)
class _Layer:
    """A dense layer: the shape of its weights, and what comes before it."""

    fan_in: int
    width: int
    biased: bool
    before: Activation | None  # None for the first


@dataclass(frozen=True)
class _Chain:
    """Layers so far, and the activation after the last of them."""

    layers: tuple[_Layer, ...] = ()
    after: Activation | None = None


def as_unit_prior(
    module: nn.Module, x: Any, weight_prior: str | WeightPrior = "gaussian"
) -> tuple[Spec, Where] | str:
    """Read a network that is a chain of dense layers and one activation as a `Spec`.

    Flattening, dropout (as evaluated) and views pass. The layers are counted by weight matrices,
    from 1; the last operation must be a layer.

    Args:
        module: The network; of its weights only shapes are looked at, and the slope of PReLU.
        x: One example, a tensor with or without a batch dimension of 1.
        weight_prior: The prior on weights; Gaussian ones alone have a `Spec`.

    Returns:
        The spec, and for the path of each module (layer, after the activation?) of what it
        returned last; "" is the network itself. Or why it is not such a chain, in words.

    Raises:
        InputError: The network does not run on x, x is not finite, or x = 0 without biases.
    """
    prior = weight_priors.weight_prior(weight_prior)
    if prior.family != "gaussian":
        return f"weights are {prior}: exact laws of units are those of Gaussian weights"
    if not isinstance(x, Tensor):
        return "the network takes other inputs than one tensor"
    if not bool(x.isfinite().all()):
        raise InputError("x holds NaN or inf: give one example of finite numbers")
    network = _traced(module, x)
    if network.source != "export":
        return f"torch.export cannot follow this network: {network.reason}"
    states = read(network, _rules(network), _Chain()).states
    found = _whole(network, states)
    if isinstance(found, str):
        return found
    spec = _spec(found, prior, float(torch.linalg.vector_norm(x.double())))
    return spec if isinstance(spec, str) else (spec, _places(module, network, states))


def _traced(module: nn.Module, x: Tensor) -> Network:
    """Trace a network on one example; put a batch dimension before it where it needs one."""
    try:
        return trace(module, x)
    except InputError as error:
        try:
            return trace(module, x[None])
        except InputError:
            raise error from None


def _whole(network: Network, states: Mapping[str, Any]) -> _Chain | str:
    """Return the chain that the network is, or why it is none."""
    for state in states.values():
        if isinstance(state, Unknown):
            return state.reason
    if len(network.outputs) > 1 or len(network.inputs) > 1:
        return "it has several inputs or outputs"
    (output,) = network.outputs.values()
    found: _Chain = states[output]
    if sum(node.op == "linear" for node in network.nodes) > len(found.layers):
        return "it has branches: some of its layers do not lead to the output"
    return found


def _rules(network: Network) -> dict[str, Rule]:
    """Return a rule for each operation that a chain may have."""

    def dense(node: Node, chain: _Chain) -> _Chain | str:
        return _dense(network, node, chain)

    def activated(node: Node, chain: _Chain) -> _Chain | str:
        found = _activation(network, node)
        if isinstance(found, str) or not chain.layers:
            return found if isinstance(found, str) else "an activation comes before any layer"
        if chain.after is not None:
            return f"two activations follow one another, {chain.after.name} and {found.name}"
        return replace(chain, after=found)

    own = {
        **dict.fromkeys(PASSES, _passed),
        **dict.fromkeys(_ACTIVATIONS, activated),
        "linear": dense,
    }
    return {**{op: _alone(rule) for op, rule in own.items()}, "unknown": _alone(_refused)}


def _alone(rule: Callable[[Node, _Chain], _Chain | str]) -> Rule:
    """Return a rule of one state that may answer why not, in words."""

    def ruled(node: Node, given: tuple[Any, ...]) -> _Chain | Unknown:
        for state in given:
            if isinstance(state, Unknown):
                return state
        found = rule(node, given[0]) if len(given) == 1 else NOT_ONE
        if isinstance(found, _Chain):
            return found
        where = f"{node.op} in {node.path}" if node.path else node.op
        return Unknown(node.name, node.op, node.path, f"{where}: {found}")

    return ruled


def _refused(_node: Node, _chain: _Chain) -> str:
    """Say that an operation is none of a chain."""
    return NOT_ONE


def _passed(_node: Node, chain: _Chain) -> _Chain:
    """Read what leaves the entries as they are, in whatever order."""
    return chain


def _dense(network: Network, node: Node, chain: _Chain) -> _Chain | str:
    """Read a dense layer whose weights are its own."""
    if "weight" not in node.parameters:
        return "its weights are computed by the network"
    stored = node.parameters["weight"]
    if sum(stored in one.parameters.values() for one in network.nodes) > 1:
        return f"its weights, {stored}, are used more than once: layers are not independent"
    width, fan_in = network.tensors[stored].shape
    if node.size != width:
        return f"it acts on {node.size // width} vectors: a chain is of one example, give one"
    before = chain.after or (IDENTITY if chain.layers else None)
    layer = _Layer(fan_in, width, "bias" in node.parameters, before)
    return _Chain((*chain.layers, layer))


def _activation(network: Network, node: Node) -> Activation | str:
    """Return an operation's activation with its arguments."""
    if node.op == "prelu":
        slopes = network.tensors[node.parameters["weight"]].detach()
        if slopes.numel() > 1:
            return "its slopes differ from unit to unit"
        return two_sided(f"prelu({float(slopes):g})", float(slopes), 1.0)
    arguments = {name: value for name, value in node.arguments.items() if name != "input"}
    if node.op == "leaky_relu":
        slope = float(arguments["negative_slope"])
        return two_sided(f"leaky_relu({slope:g})", slope, 1.0)
    if node.op in TWO_SIDED:
        return two_sided(node.op, *TWO_SIDED[node.op])
    function = functools.partial(getattr(torch.ops.aten, node.op), **arguments)
    name = _named(node.op, arguments)
    growth = 2.0 if node.op == "square" else float(node.op in SMOOTH)
    return Activation(name, function, growth)


_ACTIVATIONS = (*SMOOTH, *BOUNDED, *TWO_SIDED, "leaky_relu", "prelu", "square")


def _named(op: str, arguments: dict[str, Any]) -> str:
    """Return an activation's name, with the arguments that are not torch's own."""
    schema = getattr(torch.ops.aten, op).default._schema.arguments
    usual = {one.name: one.default_value for one in schema if one.has_default_value()}
    own = [f"{name}={value}" for name, value in arguments.items() if usual.get(name) != value]
    return f"{op}({', '.join(own)})" if own else op


def _spec(chain: _Chain, prior: WeightPrior, norm: float) -> Spec | str:
    """Return the spec of a whole chain, or why it has none."""
    if not chain.layers:
        return "the network has no dense layer"
    if chain.after is not None:
        return f"it ends in {chain.after.name}: give the part up to its last layer of weights"
    activations = {layer.before.name: layer.before for layer in chain.layers if layer.before}
    if len(activations) > 1:
        return f"its activations differ: {', '.join(activations)}"
    if prior.bias and len({layer.biased for layer in chain.layers}) > 1:
        return "some of its layers have biases and some have none"
    stds = tuple(prior.std(layer.fan_in, layer.width) for layer in chain.layers)
    return make_spec(
        tuple(layer.width for layer in chain.layers[:-1]),
        next(iter(activations.values()), IDENTITY),
        stds,
        prior.bias if chain.layers[0].biased else 0.0,
        norm,
    )


def _places(module: nn.Module, network: Network, states: Mapping[str, Any]) -> Where:
    """Return the layer of what each module returned last, where there is one."""
    places: Where = {}
    for path, _ in module.named_modules(remove_duplicate=False):
        nodes = [node for node in network.within(path) if node.op != "input"]
        state = states[nodes[-1].name] if nodes else _Chain()
        if state.layers:
            places[path] = len(state.layers), state.after is not None
    return places
