"""Rules that read a torch network's operations as layers of infinitely wide ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from merkhet.core.graph import Network, Node, Rule, Unknown
from merkhet.core.graph.kinds import KINDS
from merkhet.kernels.between import Pad2d, Scale
from merkhet.kernels.chains import Chain, added
from merkhet.kernels.convolution import Conv2d
from merkhet.kernels.initialisers import Deviations
from merkhet.kernels.layers import Linear
from merkhet.kernels.module_activations import Judge, activation_rules
from merkhet.kernels.module_shapes import SHAPE_RULES, two, unread

SAMPLED = "sample it: monte_carlo_kernel(build, x)"
REFUSALS = {
    **dict.fromkeys(
        (op for op in KINDS["pooling"] if "max" in op or "lp" in op),
        f"this pooling has no closed form; take average pooling, or {SAMPLED}",
    ),
    **dict.fromkeys(
        (*KINDS["attention"], *KINDS["softmax"]),
        f"attention and softmax have no closed form; {SAMPLED}",
    ),
    **dict.fromkeys(
        (op for op in KINDS["normalisation"] if op != "batch_norm"),
        f"normalisation by the example's own statistics is not read; leave it out, or {SAMPLED}",
    ),
    **dict.fromkeys(KINDS["recurrent"], f"recurrent layers are not read; {SAMPLED}"),
    **dict.fromkeys(("cat", "stack"), f"joining features is not read; add them, or {SAMPLED}"),
    **dict.fromkeys(
        ("matmul", "mm", "bmm", "addmm", "einsum"),
        "products outside layers are not read; write nn.Linear or nn.functional.linear",
    ),
    "detach": "the gradient stops here, which no layer of merkhet.kernels does",
    **dict.fromkeys(("prelu", "_prelu_kernel"), "its slope is trained; take nn.LeakyReLU"),
}

OWN_WEIGHTS = ("linear", "conv2d", "batch_norm")


@dataclass(frozen=True)
class Rules:
    """The rules for one network.

    Args:
        network: The network.
        deviations: Its standard deviations.
        batch_norm: Whether batch norm is read as the identity.
        judge: Tells of a chain and an activation after it why that is too inexact, or nothing.
    """

    network: Network
    deviations: Deviations
    batch_norm: bool
    judge: Judge

    def table(self) -> dict[str, Rule]:
        """Return a rule for each operation."""
        own: dict[str, Callable[[Node, Chain], Chain | str]] = {
            **activation_rules(self.judge),
            **SHAPE_RULES,
            "linear": self._linear,
            "conv2d": self._convolution,
            "batch_norm": self._batch_norm,
        }
        refusals = {op: _refusal(why) for op, why in REFUSALS.items()}
        special: dict[str, Rule] = {"add": _sum, "sub": _sum, "constant": lambda _, given: None}
        return {**{op: _alone(rule) for op, rule in own.items()}, **refusals, **special}

    def _linear(self, node: Node, chain: Chain) -> Chain | str:
        """Read a fully connected layer."""
        if chain.picture or len(chain.shape) != 2:
            return f"Linear on results of shape {chain.shape} is not read; flatten them first"
        stds = self._stds(node)
        return stds if isinstance(stds, str) else chain.then(node.name, Linear(**stds), node.shape)

    def _convolution(self, node: Node, chain: Chain) -> Chain | str:
        """Read a convolution; zeros or copies that were put around before are its padding."""
        if not chain.picture or len(chain.shape) != 4:
            return f"a convolution on results of shape {chain.shape} is not read"
        if node.arguments["groups"] != 1:
            return f"grouped and depthwise convolutions are not read; {SAMPLED}"
        if two(node.arguments["dilation"]) != (1, 1):
            return f"dilated convolutions are not read; {SAMPLED}"
        stds = self._stds(node)
        if isinstance(stds, str):
            return stds
        given = node.arguments["padding"]
        padding = given if isinstance(given, str) else two(given)
        shape = self.network.tensors[node.parameters["weight"]].shape
        kernel, stride = (shape[2], shape[3]), two(node.arguments["stride"])
        chain, padding = _folded(chain, kernel, stride, padding)
        return chain.then(node.name, Conv2d(kernel, stride, padding, **stds), node.shape)

    def _batch_norm(self, node: Node, chain: Chain) -> Chain | str:
        """Read batch norm, if the caller says as what."""
        if "running_mean" not in node.parameters:
            return "it normalises by the batch at hand, also in evaluation"
        if self.batch_norm:
            return chain
        return (
            "batch norm has no kernel of its own; batch_norm='identity' takes it as it evaluates "
            "at initialisation, without the trained gain and shift"
        )

    def _stds(self, node: Node) -> dict[str, Any] | str:
        """Return the standard deviations of a layer, or why it is not read."""
        if "weight" not in node.parameters:
            return "its weights are computed by the network; give them as a parameter"
        stored = node.parameters["weight"]
        users = [one for one in self.network.nodes if stored in one.parameters.values()]
        if len(users) > 1:
            paths = " and ".join(repr(one.path) for one in users)
            return f"{stored} serves {paths}: layers with the same weights are not independent"
        weight, biased = self.network.tensors[stored], "bias" in node.parameters
        return dict(self.deviations.of(holder(node), weight.shape, biased=biased))


def holders(network: Network) -> list[str]:
    """Return the paths of the modules that hold the weights of layers."""
    layers = (node for node in network.nodes if node.op in ("linear", "conv2d"))
    return [holder(node) for node in layers if "weight" in node.parameters]


def holder(node: Node) -> str:
    """Return the path of the module that holds a layer's weights; their own name elsewhere."""
    stored = node.parameters["weight"]
    path, _, name = stored.rpartition(".")
    return path if name == "weight" else stored


def _alone(rule: Callable[[Node, Chain], Chain | str]) -> Rule:
    """Return a rule that takes one result of layers and may answer why not, in words."""

    def ruled(node: Node, given: tuple[Any, ...]) -> Chain | Unknown:
        why = _not_one(node, given)
        found = why if why else rule(node, given[0])
        return unread(node, found) if isinstance(found, str) else found

    return ruled


def _not_one(node: Node, given: tuple[Any, ...]) -> str:
    """Say why an operation is none on one result of layers with weights of its own, or nothing."""
    if not all(isinstance(one, Chain) for one in given):
        return "it takes what the network computes from constants or parameters"
    if len(given) != 1:
        return f"it takes {len(given)} results of layers; {SAMPLED}"
    if node.parameters and node.op not in OWN_WEIGHTS:
        return f"it uses {', '.join(node.parameters.values())}, which is no weight of a layer"
    if node.shape[:1] != given[0].shape[:1]:
        return "it mixes the examples of a batch"
    return ""


def _refusal(why: str) -> Rule:
    """Return a rule that refuses."""
    return lambda node, given: unread(node, why)


def _sum(node: Node, given: tuple[Any, ...]) -> Chain | Unknown:
    """Read the sum or difference of two results."""
    if len(given) != 2 or not all(isinstance(one, Chain) for one in given):
        return unread(node, "adding constants or parameters is not read; a layer's bias can do it")
    one, other = given
    if one.shape != other.shape or one.picture != other.picture:
        return unread(node, f"it adds results of shapes {one.shape} and {other.shape}")
    factor = float(node.arguments.get("alpha", 1))
    if abs(factor) != 1:  # the sign is lost between parts that are independent
        other = other.then(f"{node.name} alpha", Scale(factor))
    found = added(node.name, one, other)
    if found is None:
        return unread(
            node,
            "its parts are not independent: the last weights of one must occur nowhere in the "
            f"other; {SAMPLED}",
        )
    return found


def _folded(
    chain: Chain, kernel: tuple[int, int], stride: tuple[int, int], padding: str | tuple[int, int]
) -> tuple[Chain, str | tuple[int, int]]:
    """Return the chain before a border that is the convolution's own, and its padding."""
    border = chain.steps[-1].layer if chain.steps else None
    if not isinstance(border, Pad2d) or padding not in ("valid", (0, 0)):
        return chain, padding
    rows, columns = border.sides
    before = (chain.shape[2] - sum(rows), chain.shape[3] - sum(columns))
    bare = Chain(chain.steps[:-1], (*chain.shape[:2], *before), chain.picture)
    if border.fill == "constant" and rows[0] == rows[1] and columns[0] == columns[1]:
        return bare, (rows[0], columns[0])
    around = Conv2d(kernel, stride, "circular")
    if border.fill == "circular" and around.sides(before) == border.sides:
        return bare, "circular"
    return chain, padding
