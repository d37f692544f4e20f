"""Linear operations taken together before their norms are bounded: fewer factors, closer bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from merkhet.core.linear.chain import Chain
from merkhet.core.linear.steps import (
    AdaptiveAveragePool,
    AveragePool,
    ChannelScale,
    Convolution,
    Dense,
    Pad,
    Scale,
    Step,
    TransposedConvolution,
)

Shaped = tuple[Step, tuple[int, ...]]
CARRIERS = (AveragePool, AdaptiveAveragePool)  # act on each channel alike


def folded(chain: Chain) -> Chain:
    """Return an equal chain with scalings in the weights next to them and zeros in convolutions.

    A factor for each channel commutes with padding by zeros and copies and with pooling, and is
    one with the weights of the convolution before or after it; one for each feature with those of
    a dense layer. Padding by zeros before a convolution is its padding.
    """
    steps = list(chain.steps)
    while (shorter := _once(steps, chain.input_shape)) is not None:
        steps = shorter
    return Chain(tuple(steps), chain.input_shape)


def _once(steps: list[Step], shape: tuple[int, ...]) -> list[Step] | None:
    """Return the steps with one pair taken together or changed in order, or None."""
    for place, step in enumerate(steps[:-1]):
        after = step.output_shape(shape)
        pair = _pair(_plain(step, shape), _plain(steps[place + 1], after), shape, after)
        if pair is not None:
            return [*steps[:place], *pair, *steps[place + 2 :]]
        shape = after
    return None


def _plain(step: Step, shape: tuple[int, ...]) -> Step:
    """Return a scaling as one of channels where it is; other steps as they are."""
    if not isinstance(step, Scale):
        return step
    factor = step.factor.double()
    if factor.numel() == 1:
        return ChannelScale(factor.reshape(1).expand(shape[0])) if shape else step
    wide = factor.reshape(*(1 for _ in range(len(shape) - factor.dim())), *factor.shape)
    if math.prod(wide.shape[1:]) == 1:
        return ChannelScale(wide.reshape(-1).expand(shape[0]))
    return step


def _pair(
    first: Step, second: Step, shape: tuple[int, ...], between: tuple[int, ...]
) -> list[Step] | None:
    """Return what two neighbours become, or None where they stay."""
    if isinstance(first, Scale | ChannelScale) and isinstance(second, Scale | ChannelScale):
        return [Scale(_whole(first, shape) * _whole(second, shape))]
    if isinstance(first, ChannelScale):
        return _scale_first(first.factor, second, shape)
    if isinstance(second, ChannelScale):
        return _scale_second(first, second.factor, between)
    if isinstance(first, Pad) and isinstance(second, Convolution):
        return _pad_first(first, second)
    return None


def _scale_first(factor: Tensor, step: Step, shape: tuple[int, ...]) -> list[Step] | None:
    """Return a step with the channels' factors before it taken in, or behind it."""
    if isinstance(step, Convolution):
        # Weights are (out, in / groups, ...): each group of outputs has its own inputs' factors.
        outs, ins = step.weight.shape[:2]
        rows = factor.reshape(step.groups, 1, ins).expand(-1, outs // step.groups, -1)
        return [replace(step, weight=_times(step.weight, rows.reshape(outs, ins)))]
    if isinstance(step, TransposedConvolution):
        return [replace(step, weight=_times(step.weight, factor[:, None]))]
    if isinstance(step, Dense) and (len(shape) == 1 or _uniform(factor)):
        row = factor if len(shape) == 1 else factor[:1]
        return [replace(step, weight=step.weight * row)]
    passes = isinstance(step, CARRIERS) or (isinstance(step, Pad) and len(step.sides) < len(shape))
    return [step, ChannelScale(factor)] if passes else None


def _scale_second(step: Step, factor: Tensor, between: tuple[int, ...]) -> list[Step] | None:
    """Return a step with the channels' factors behind it taken in, or None."""
    if isinstance(step, Convolution):
        return [replace(step, weight=_times(step.weight, factor[:, None]))]
    if isinstance(step, TransposedConvolution):
        ins, outs = step.weight.shape[:2]
        rows = factor.reshape(step.groups, 1, outs).expand(-1, ins // step.groups, -1)
        return [replace(step, weight=_times(step.weight, rows.reshape(ins, outs)))]
    if isinstance(step, Dense) and (len(between) == 1 or _uniform(factor)):
        column = factor[:, None] if len(between) == 1 else factor[:1]
        return [replace(step, weight=step.weight * column)]
    return None


def _pad_first(pad: Pad, step: Convolution) -> list[Step] | None:
    """Return a convolution with the zeros before it as its padding, or None."""
    fits = len(pad.sides) <= len(step.padding) and min(min(side) for side in pad.sides) >= 0
    if pad.mode != "constant" or not fits:
        return None
    sides = ((0, 0),) * (len(step.padding) - len(pad.sides)) + pad.sides
    pairs = zip(sides, step.padding, strict=True)
    return [replace(step, padding=tuple((a + c, b + d) for (a, b), (c, d) in pairs))]


def _times(weight: Tensor, factors: Tensor) -> Tensor:
    """Return the weights of a kernel times factors of their first two dimensions."""
    return weight * factors.reshape(*factors.shape, *(1 for _ in weight.shape[2:]))


def _uniform(factor: Tensor) -> bool:
    """Return whether all factors are the same."""
    return bool((factor == factor[0]).all())


def _whole(step: Scale | ChannelScale, shape: tuple[int, ...]) -> Tensor:
    """Return the factor for every entry of one example."""
    wide = step.apply(torch.ones((1, *shape), dtype=torch.float64, device=step.factor.device))
    return wide[0].detach()
