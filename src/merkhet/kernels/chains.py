"""A torch network's operations up to one of them, as layers; and when two of such may be added."""

from __future__ import annotations

from dataclasses import dataclass, replace

from merkhet.kernels.activations import Activation
from merkhet.kernels.layers import Layer, Residual, Sequential, Sum, Weighted

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One layer of a chain.

    Attributes:
        name: The operation that it stands for; equal names are the same units.
        layer: The layer.
        branches: The branches of a sum.
    """

    name: str
    layer: Layer
    branches: tuple[tuple[Step, ...], ...] = ()


@dataclass(frozen=True)
class Chain:
    """What leads from the network's input to a result.

    Attributes:
        steps: The layers, first to last.
        shape: Of the result in torch, batch first.
        picture: Whether the layers give a feature map there.
    """

    steps: tuple[Step, ...]
    shape: Shape
    picture: bool

    @property
    def gaussian(self) -> bool:
        """Whether the units are Gaussian with mean zero, as an activation needs them."""
        return ends(self.steps).behind == "weights"

    def then(
        self, name: str, layer: Layer, shape: Shape | None = None, *, picture: bool | None = None
    ) -> Chain:
        """Return the chain with one more layer."""
        return Chain(
            (*self.steps, Step(name, layer)),
            self.shape if shape is None else shape,
            self.picture if picture is None else picture,
        )

    def shaped(self, shape: Shape) -> Chain:
        """Return the chain with its result in another shape."""
        return replace(self, shape=shape)

    def layer(self) -> Sequential:
        """Return the network."""
        return as_layer(self.steps)


@dataclass(frozen=True)
class Ends:
    """What lies behind the linear layers at the end of some steps.

    Attributes:
        weights: Names of the operations with the last weights.
        behind: "weights" where every way back meets them, "activation" where one meets an
            activation first, "input" where one meets nothing.
    """

    weights: frozenset[str]
    behind: str


def ends(steps: tuple[Step, ...]) -> Ends:
    """Return what lies behind the linear layers at the end of steps."""
    found: frozenset[str] = frozenset()
    for step in reversed(steps):
        if isinstance(step.layer, Activation):
            return Ends(found, "activation")
        if isinstance(step.layer, Weighted):
            return Ends(found | {step.name}, "weights")
        parts = [ends(branch) for branch in step.branches]
        found = found.union(*(part.weights for part in parts))
        behind = {part.behind for part in parts}
        if "activation" in behind:
            return Ends(found, "activation")
        if behind == {"weights"}:
            return Ends(found, "weights")
    return Ends(found, "input")


def added(name: str, one: Chain, other: Chain) -> Chain | None:
    """Return the sum of two results of one shape, or None where they may be correlated.

    Given what both come from, the expected product of two parts is zero if the last weights of one
    occur nowhere in the other, for it is linear in them. So is that of their gradients.
    """
    shared = 0
    while (
        shared < min(len(one.steps), len(other.steps))
        and one.steps[shared].name == other.steps[shared].name
    ):
        shared += 1
    parts = one.steps[shared:], other.steps[shared:]
    if not (_apart(*parts) or _apart(*reversed(parts))):
        return None
    bodies = [as_layer(part) for part in parts if part]
    layer = Residual(bodies[0]) if len(bodies) == 1 else Sum(*bodies)
    return replace(one, steps=(*one.steps[:shared], Step(name, layer, parts)))


def as_layer(steps: tuple[Step, ...]) -> Sequential:
    """Return steps as one layer."""
    return Sequential(*(step.layer for step in steps))


def _apart(one: tuple[Step, ...], other: tuple[Step, ...]) -> bool:
    """Tell whether the first part ends in weights that the other has not."""
    found = ends(one)
    return found.behind == "weights" and not found.weights & _weights(other)


def _weights(steps: tuple[Step, ...]) -> frozenset[str]:
    """Return the names of all operations with weights."""
    own = frozenset(step.name for step in steps if isinstance(step.layer, Weighted))
    return own.union(*(_weights(branch) for step in steps for branch in step.branches))
