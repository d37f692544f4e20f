"""Layers of infinitely wide networks, in torch's words: what each does to the covariances.

Conventions are those of neural-tangents' "ntk" parameterisation: weights are standard normal times
`weight_std / sqrt(fan_in)`, biases standard normal times `bias_std`, and all of them are trained.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.state import State, apply_each

Number = float | Tensor
ROOT_2 = math.sqrt(2)


class Layer(ABC):
    """A layer: one rule from the covariances before it to those after it.

    Attributes:
        mixes: Whether it needs covariances between different positions of a feature map.
    """

    mixes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, state: State) -> State:
        """Return the state after the layer, of batch axes (*batch) as before.

        Raises:
            InputError: The layer cannot follow what comes before it; says why.
        """

    def fresh(self, before: bool) -> bool:
        """Tell whether the output is Gaussian with mean zero given the network's input.

        Args:
            before: Whether the layer's own input is.
        """
        return before

    def layers(self) -> Iterator[Layer]:
        """Yield this layer and all layers inside it."""
        yield self

    def numbers(self) -> Iterator[Tensor]:
        """Yield the hyper-parameters that are 0-d tensors, of this layer and all inside it."""
        for layer in self.layers():
            yield from (value for value in vars(layer).values() if isinstance(value, Tensor))


class Sequential(Layer):
    """One layer after another.

    Args:
        steps: The layers. Pictures end in `Flatten()` or `GlobalAvgPool2d()`.
    """

    def __init__(self, *steps: Layer) -> None:
        for step in steps:
            check_layer(step, "Sequential")
        self.steps = steps

    def __call__(self, state: State) -> State:
        """Return the state after all layers, of batch axes (*batch) as before."""
        for step in self.steps:
            state = step(state)
        return state

    def fresh(self, before: bool) -> bool:
        """Tell whether the last layer's output is Gaussian with mean zero."""
        for step in self.steps:
            before = step.fresh(before)
        return before

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether any of the layers mixes positions."""
        return any(step.mixes for step in self.steps)

    def layers(self) -> Iterator[Layer]:
        """Yield this and all layers inside it."""
        yield self
        for step in self.steps:
            yield from step.layers()

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.steps))})"


class Sum(Layer):
    """The sum of branches from the same input, each with weights of its own.

    Covariances add where all branches but one end in a layer with weights, which makes them
    independent with mean zero given the input; other sums are refused.

    Args:
        branches: The branches; `Sequential()` is the input itself.
    """

    def __init__(self, *branches: Layer) -> None:
        for branch in branches:
            check_layer(branch, "Sum")
        if not branches:
            raise InputError("Sum() adds nothing: give it branches")
        if sum(not branch.fresh(False) for branch in branches) > 1:
            raise InputError(
                f"the parts of {self._told(branches)} are not independent: "
                "all but one must end in Linear or Conv2d (pooling may follow)"
            )
        self.branches = branches

    def __call__(self, state: State) -> State:
        """Return the sum of what the branches give, of batch axes (*batch) as before."""
        found = [branch(state) for branch in self.branches]
        for branch, other in zip(self.branches, found, strict=True):
            if (other.axes, other.size) != (found[0].axes, found[0].size):
                raise InputError(
                    f"branches of a sum give {_told(found[0].size)} and {_told(other.size)}: "
                    f"{branch!r} must keep the size"
                )
        return _added(found)

    def fresh(self, before: bool) -> bool:
        """Tell whether all branches are."""
        return all(branch.fresh(before) for branch in self.branches)

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether any branch mixes positions."""
        return any(branch.mixes for branch in self.branches)

    def layers(self) -> Iterator[Layer]:
        """Yield this and all layers inside it."""
        yield self
        for branch in self.branches:
            yield from branch.layers()

    @staticmethod
    def _told(branches: tuple[Layer, ...]) -> str:
        return f"Sum({', '.join(map(repr, branches))})"

    def __repr__(self) -> str:
        return self._told(self.branches)


class Residual(Sum):
    """A residual block: a body that its input is added to.

    Args:
        body: Layers that keep the size and end in `Linear` or `Conv2d`.
    """

    def __init__(self, body: Layer) -> None:
        check_layer(body, "Residual")
        super().__init__(Sequential(), body)

    def __repr__(self) -> str:
        return f"Residual({self.branches[1]!r})"


@dataclass(frozen=True, eq=False)
class Weighted(Layer):
    """A layer with weights: what it gives is Gaussian with mean zero, given the layer before.

    Args:
        weight_std: Standard deviation of a weight times sqrt(fan_in), a number or a 0-d tensor.
        bias_std: Standard deviation of the biases, likewise.
    """

    weight_std: Number = field(default=ROOT_2, kw_only=True)
    bias_std: Number = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        check_number("weight_std", self.weight_std)
        check_number("bias_std", self.bias_std)

    def fresh(self, before: bool) -> bool:
        """Tell that it is: fresh weights have mean zero."""
        return True

    def weigh(self, state: State) -> State:
        """Return the state after weights and biases; its tangent kernel gains theirs.

        Lee et al., NeurIPS 2019: nngp' = W^2 nngp + b^2, ntk' = nngp' + W^2 ntk.
        """
        scaled = state.map(lambda k: self.weight_std**2 * k)
        cross, x, y = apply_each(lambda k: k + self.bias_std**2, scaled.cross, scaled.x, scaled.y)
        tangent = None if scaled.tangent is None else cross + scaled.tangent
        return replace(scaled, cross=cross, x=x, y=y, tangent=tangent, centred=True)


@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """A fully connected layer.

    Args:
        weight_std: Standard deviation of a weight times sqrt(fan_in).
        bias_std: Standard deviation of the biases.
    """

    def __call__(self, state: State) -> State:
        """Return the state after the layer, of batch axes (*batch) as before."""
        if state.axes:
            raise InputError(
                f"Linear after a feature map of {_told(state.size)}: "
                "put Flatten() or GlobalAvgPool2d() before it"
            )
        return self.weigh(state)


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """A feature map as one vector; vectors stay as they are."""

    def __call__(self, state: State) -> State:
        """Return the state of vectors, of batch axes (*batch) as before: means over positions."""
        if not state.axes:
            return state
        if state.axes == 1:
            return replace(state.map(lambda k: k.mean((-2, -1))), axes=0)
        return replace(state.map(_mean_diagonal), axes=0)


def check_layer(given: Any, where: str) -> None:
    """Refuse what is not a layer, and classes in the place of layers.

    Raises:
        InputError: Shows what to write.
    """
    if isinstance(given, Layer):
        return
    if isinstance(given, type) and issubclass(given, Layer):
        raise InputError(f"{where} was given the class {given.__name__}: write {given.__name__}()")
    raise InputError(
        f"{where} takes layers of merkhet.kernels, not {type(given).__name__}: "
        "of a torch network, from_module(network, example, ...) makes them"
    )


def check_number(name: str, value: Number, *, positive: bool = False) -> None:
    """Refuse hyper-parameters that are no number from 0 on.

    Raises:
        InputError: Says what is allowed.
    """
    if isinstance(value, Tensor) and value.dim():
        raise InputError(f"{name} has shape {tuple(value.shape)}: give a number or a 0-d tensor")
    if not isinstance(value, int | float | Tensor):
        raise InputError(f"{name} is {type(value).__name__}: give a number or a 0-d tensor")
    number = float(value.detach()) if isinstance(value, Tensor) else float(value)
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise InputError(f"{name} = {number:g}: give a number {'above' if positive else 'from'} 0")


def _added(found: list[State]) -> State:
    """Return the sum of states."""
    total = found[0]
    for other in found[1:]:
        own = total.cross is total.x and other.cross is other.x
        cross = total.cross + other.cross
        x = cross if own else total.x + other.x
        y = cross if own else total.y + other.y
        both = total.tangent is not None and other.tangent is not None
        tangent = total.tangent + other.tangent if both else None  # type: ignore[operator]
        total = replace(total, cross=cross, x=x, y=y, tangent=tangent)
    return replace(total, centred=all(one.centred for one in found))


def _mean_diagonal(k: Tensor) -> Tensor:
    """Return the mean over equal positions, (*batch), of (*batch, h, w, h, w)."""
    flat = k.flatten(-4, -3).flatten(-2)
    return flat.diagonal(dim1=-2, dim2=-1).mean(-1)


def _told(size: tuple[int, ...]) -> str:
    """Return a size in words."""
    return "x".join(map(str, size)) or "a vector"
