"""Chains in float64 with weights of size 1, so that no product of theirs over- or underflows."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.steps import Step

NAMES = ("weight", "factor")


def weights_of(step: Step) -> tuple[str, Tensor] | None:
    """Return the name and the value of a step's weights, or None where it has none."""
    for name in NAMES:
        value = getattr(step, name, None)
        if isinstance(value, Tensor):
            return name, value
    return None


def with_weights(step: Step, value: Tensor) -> Step:
    """Return a step with other weights."""
    found = weights_of(step)
    assert found is not None
    return dataclasses.replace(step, **{found[0]: value})  # type: ignore[type-var]


def absolute(chain: Chain) -> Chain:
    """Return the chain whose matrices are entry by entry at least the sizes of the chain's own."""
    steps = [
        with_weights(s, found[1].abs()) if (found := weights_of(s)) else s for s in chain.steps
    ]
    return Chain(tuple(steps), chain.input_shape)


def normalised(chain: Chain) -> tuple[Chain, int]:
    """Return the chain in float64, detached, with largest weights in [1/2, 1), and what was taken.

    The factor taken is 2^exponent, hence exact, but for weights 2^-50 times smaller than the
    largest that fall under the smallest number of float64.

    Returns:
        The chain and the exponent; weights that are all 0 stay.

    Raises:
        InputError: Weights that are complex, NaN or infinite.
    """
    steps, total = [], 0
    for step in chain.steps:
        found = weights_of(step)
        if found is None:
            steps.append(step)
            continue
        value, exponent = _normalised(_checked(step, found[1]))
        steps.append(with_weights(step, value))
        total += exponent
    return Chain(tuple(steps), chain.input_shape), total


def times_power_of_two(value: float, exponent: int) -> float:
    """Return value 2^exponent, infinite where it overflows."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def _checked(step: Step, weight: Tensor) -> Tensor:
    """Return weights in float64 where that exists, detached."""
    name, weight = type(step).__name__, weight.detach()
    if weight.is_complex():
        raise InputError(f"{name}: complex weights; give real ones")
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"{name}: NaN or infinite weights have no norm; load or train them anew")
    return (weight.cpu() if weight.device.type == "mps" else weight).to(torch.float64, copy=True)


def _normalised(weight: Tensor) -> tuple[Tensor, int]:
    """Return weights over a power of two, and its exponent."""
    largest = float(weight.abs().max()) if weight.numel() else 0.0
    if largest == 0:
        return weight, 0
    exponent = math.frexp(largest)[1]
    half = exponent // 2  # 2^1074 itself is no number: in two steps
    return weight * 2.0**-half * 2.0 ** (half - exponent), exponent
