"""Which networks the compiled loops take, and a network's layers in the form that they want.

Patches of stride one and activations keep the offset between two positions; pooling, and a stride
which is a pooling too, mix offsets. So a network is blocks, each of patches and activations with a
pooling at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merkhet.kernels.activations import (
    GELU,
    Activation,
    Erf,
    Exponential,
    LeakyReLU,
    ReLU,
    Sine,
)
from merkhet.kernels.convolution import Conv2d, pair
from merkhet.kernels.layers import Flatten, Layer, Linear, Number, Sequential
from merkhet.kernels.pooling import GlobalAvgPool2d, Pooling

RECTIFIED, EXPONENTIAL = 0, 1  # as `loops` has them
SMOOTH = (Erf, Exponential, GELU, Sine)
WIDE = 0.5  # sigma of exponential kernels from which float32 products do
FIVE = 5  # taps that `loops` takes at a time
Size = tuple[int, int]
Array = np.ndarray[Any, Any]
# Weights of rows (H_out, H); of columns: where windows start (W_out,), weights (W_out, taps).
Windows = tuple[Array, tuple[Array, Array]]


@dataclass(frozen=True)
class Act:
    """A homogeneous activation: leaky ReLU by its slope below 0, or exponential by its sigma.

    Attributes:
        kind: Which of the two, as `loops` has them.
        parameter: The slope or sigma.
        place: Its number among those after the first, which is -1.
    """

    kind: int
    parameter: float
    place: int = -1


@dataclass(frozen=True)
class Patch:
    """A convolution of stride one, after the first.

    Attributes:
        patch: (height, width).
        low: Zeros before the first row and the first column.
        after: (height, width) of what it gives.
        weight: weight_std^2 over the positions of a patch.
        bias: bias_std^2.
    """

    patch: Size
    low: Size
    after: Size
    weight: float
    bias: float


@dataclass(frozen=True)
class Block:
    """Patches and activations, and the pooling after them.

    Attributes:
        steps: What comes first to last.
        pool: Weights of rows and of columns, each (positions after, before); None where the
            positions stay.
    """

    steps: tuple[Patch | Act, ...]
    pool: tuple[Tensor, Tensor] | None

    @cached_property
    def windows(self) -> dict[Any, Windows]:
        """The pooling in float64 and in float32, as `loops` takes it."""
        assert self.pool is not None
        rows, weights = self.pool
        there = weights != 0
        length = weights.shape[1]
        starts = there.int().argmax(1)
        ends = length - there.flip(1).int().argmax(1)
        taps = min(length, -(-int((ends - starts).max()) // FIVE) * FIVE)
        starts = starts.clamp(max=length - taps)
        columns = weights.gather(1, starts[:, None] + torch.arange(taps))
        return {
            kind: (rows.numpy().astype(kind), (starts.numpy(), columns.numpy().astype(kind)))
            for kind in (np.float64, np.float32)
        }


@dataclass(frozen=True)
class Plan:
    """A convolutional network for the compiled loops.

    Attributes:
        first: The first layer; its patches are multiplied out.
        blocks: What follows it, beginning with an activation.
        rest: The layers after positions are gone.
        centred: Whether the units are Gaussian where positions are gone.
        kinks: Whether any activation, of the rest too, may have a kink as ReLU has.
    """

    first: Conv2d
    blocks: tuple[Block, ...]
    rest: Sequential
    centred: bool
    kinks: bool

    @property
    def exact(self) -> Any:
        """The type of covariances; tangent kernels are float32.

        Later cosines near 1 come from them, and the slope of a ReLU has a root there: float32
        would leave a thousandth of it. A smooth activation has none.
        """
        return np.float64 if self.kinks else np.float32

    @property
    def types(self) -> tuple[Any, Any]:
        """The types of patches and of their norms."""
        return self.products, self.exact

    @property
    def products(self) -> Any:
        """The type of products of patches; float32 is off by 6e-8, over sigma^2 in a kernel."""
        acts = [step for block in self.blocks for step in block.steps if isinstance(step, Act)]
        wide = all(act.kind == EXPONENTIAL and act.parameter >= WIDE for act in acts)
        return np.float32 if wide and not self.kinks else np.float64


def conv_plan(network: Layer, size: tuple[int, ...]) -> Plan | None:
    """Return the plan of a network for pictures of (height, width), None where there is none."""
    steps = list(_flat(network))
    if not steps or not _known(steps) or not isinstance(steps[0], Conv2d):
        return None
    heads = [place for place, step in enumerate(steps) if isinstance(step, _HEADS)]
    if not heads:
        return None
    first, between, rest = steps[0], steps[1 : heads[0]], steps[heads[0] + 1 :]
    if isinstance(steps[heads[0]], GlobalAvgPool2d):
        between.append(steps[heads[0]])
    maker = _Maker(_after(first, size, pair("", first.stride)))
    if not between or _act(between[0]) is None:
        maker.steps.append(Act(RECTIFIED, 1.0))  # the identity
    for step in between:
        maker.add(step)
    blocks = maker.blocks()
    if not network.mixes and any(block.pool is not None for block in blocks):
        return None  # strides alone: the plain form has equal positions only, and is quicker
    centred = Sequential(*steps[: heads[0]]).fresh(False)
    acts = [layer for layer in network.layers() if isinstance(layer, Activation)]
    kinks = any(not isinstance(act, SMOOTH) for act in acts)
    return Plan(first, blocks, Sequential(*rest), centred, kinks)


@dataclass(frozen=True)
class DensePlan:
    """A dense network of ReLUs for the compiled loops.

    Attributes:
        first: The first layer.
        pairs: Activations, each with the layer after it.
    """

    first: Linear
    pairs: tuple[tuple[Act, Linear], ...]


def dense_plan(network: Layer) -> DensePlan | None:
    """Return the plan of a dense network, None where there is none."""
    steps = [step for step in _flat(network) if not isinstance(step, Flatten)]
    if len(steps) < 3 or not _plain_numbers(steps):
        return None
    layers, acts = steps[::2], [_act(step) for step in steps[1::2]]
    known = [act for act in acts if act is not None and act.kind == RECTIFIED]
    linear = [layer for layer in layers if isinstance(layer, Linear)]
    if len(known) < len(acts) or len(linear) < len(layers) or len(acts) != len(layers) - 1:
        return None
    return DensePlan(linear[0], tuple(zip(known, linear[1:], strict=True)))


_HEADS = (Flatten, GlobalAvgPool2d)


@dataclass
class _Maker:
    """Gathers steps into blocks, with the size of the map after each."""

    size: Size
    steps: list[Patch | Act] = field(default_factory=list)
    done: list[Block] = field(default_factory=list)

    def add(self, step: Layer) -> None:
        """Take one more layer."""
        act = _act(step)
        if act is not None:
            self.steps.append(self._numbered(act))
        elif isinstance(step, Pooling):
            self._pool(*step.weights(self.size))
        elif isinstance(step, Conv2d):
            self._patch(step)

    def _numbered(self, act: Act) -> Act:
        """Return an activation with its number among all."""
        steps = [step for block in self.done for step in block.steps] + self.steps
        return replace(act, place=sum(isinstance(step, Act) for step in steps) - 1)

    def _patch(self, step: Conv2d) -> None:
        """Take a convolution; a stride is a pooling that keeps some positions."""
        (top, _), (left, _) = step.sides(self.size)
        patch, stride = pair("", step.kernel_size), pair("", step.stride)
        after = _after(step, self.size, (1, 1))
        weight = float(step.weight_std) ** 2 / (patch[0] * patch[1])
        self.steps.append(Patch(patch, (top, left), after, weight, float(step.bias_std) ** 2))
        self.size = after
        if stride != (1, 1):
            kept = [torch.eye(n).double()[::by] for n, by in zip(after, stride, strict=True)]
            self._pool(kept[0], kept[1])

    def _pool(self, rows: Tensor, columns: Tensor) -> None:
        """End a block."""
        self.done.append(Block(tuple(self.steps), (rows, columns)))
        self.steps, self.size = [], (len(rows), len(columns))

    def blocks(self) -> tuple[Block, ...]:
        """Return all blocks."""
        return (*self.done, *([Block(tuple(self.steps), None)] if self.steps else []))


def _flat(network: Layer) -> Iterator[Layer]:
    """Yield the layers of a network, those of inner sequences too."""
    if isinstance(network, Sequential):
        for step in network.steps:
            yield from _flat(step)
    else:
        yield network


def _known(steps: list[Layer]) -> bool:
    """Tell whether the loops know every layer up to the head, and its hyper-parameters."""
    for step in steps:
        if isinstance(step, _HEADS):
            return _plain_numbers(steps)
        known = _act(step) is not None or isinstance(step, Conv2d | Pooling)
        if not known or (isinstance(step, Conv2d) and step.padding == "circular"):
            return False
    return False


def _plain_numbers(steps: list[Layer]) -> bool:
    """Tell whether hyper-parameters can be read as numbers, which batched ones cannot."""
    return not any(number.requires_grad for step in steps for number in step.numbers())


def _act(step: Layer) -> Act | None:
    """Return an activation that the loops know."""
    if isinstance(step, ReLU):
        return Act(RECTIFIED, 0.0)
    if isinstance(step, LeakyReLU):
        return Act(RECTIFIED, _number(step.negative_slope))
    if isinstance(step, Exponential):
        return Act(EXPONENTIAL, float(step.sigma))
    return None


def _number(value: Number) -> float:
    """Return a hyper-parameter as a number."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _after(step: Conv2d, size: tuple[int, ...], stride: Size) -> Size:
    """Return the (height, width) that a convolution gives, with another stride than its own."""
    found = [
        (length + low + high - patch) // by + 1
        for length, (low, high), patch, by in zip(
            size, step.sides(size), pair("", step.kernel_size), stride, strict=True
        )
    ]
    return found[0], found[1]
