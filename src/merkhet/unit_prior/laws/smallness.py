"""How often a unit is nearly 0: which of its negative moments are finite.

The index of u is the k with P(0 < |u| <= t) about t^k as t falls to 0, inf where it falls faster
than any power and 0 where slower: E|u|^s is finite for s > -k. A unit after phi is nearly 0 where
phi's argument is nearly 0, if phi is 0 there, or far below 0, if phi fades there; a unit before is
where all units of a layer before it are so at once. On the border, s = -k, logs decide that are not
followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation, activation
from merkhet.unit_prior.grid.nodes import evaluate, flat_parts
from merkhet.unit_prior.grid.recursion import log_first_variance
from merkhet.unit_prior.laws.law import Floats
from merkhet.unit_prior.spec import Spec

SELU = (1.7580993408473766, 1.0507009873554805)
FAR = 1e8  # where an activation that grows linearly has its slope


@dataclass(frozen=True)
class Vanishing:
    """Where phi is nearly 0.

    Attributes:
        slopes: (below, above) of |phi(u)| about slope |u|^power near 0; None where phi(0) is not 0.
        power: That of |u|.
        fade: (power, factor) where |phi(-t)| falls as exp(-factor t^power) as t grows, else None.
        elsewhere: Whether it has other zeros, all of first order.
    """

    slopes: tuple[float, float] | None = (1.0, 1.0)
    power: float = 1.0
    fade: tuple[float, float] | None = None
    elsewhere: bool = False


AT_ZERO = Vanishing()
# Those that are 0 at single points alone, if anywhere; the other named ones have flat parts.
VANISHING = {
    "elu": AT_ZERO,
    "celu": AT_ZERO,
    "selu": Vanishing(SELU),
    "gelu": Vanishing((0.5, 0.5), fade=(2.0, 0.5)),
    "silu": Vanishing((0.5, 0.5), fade=(1.0, 1.0)),
    "mish": Vanishing((0.6, 0.6), fade=(1.0, 1.0)),  # tanh(log 2)
    "softplus": Vanishing(None, fade=(1.0, 1.0)),
    "sigmoid": Vanishing(None, fade=(1.0, 1.0)),
    "tanh": AT_ZERO,
    "erf": Vanishing((2 / math.sqrt(math.pi),) * 2),
    "softsign": AT_ZERO,
    "hardtanh": AT_ZERO,
    "square": Vanishing(power=2.0),
    "sin": Vanishing(elsewhere=True),
    "cos": Vanishing(None, elsewhere=True),
}


@dataclass(frozen=True)
class Tail:
    """-log P(|g| > t) is about rate t^(1 / theta) as t grows; rate may be a lower bound."""

    theta: float
    rate: float


def vanishing(phi: Activation) -> Vanishing:
    """Return where an activation is nearly 0.

    Raises:
        InputError: It is none of the named ones.
    """
    how = VANISHING.get(phi.name)
    probes = np.array([-3.0, -1e-3, 1e-3, 0.7, 3.0])
    if how is None or not np.allclose(
        evaluate(phi, probes), evaluate(activation(phi.name), probes)
    ):
        raise InputError(
            f"moments of negative order and {phi.name!r}: which are finite is known for the named "
            f"activations alone ({', '.join(VANISHING)}); ask for an order from 0 on"
        )
    return how


def log_size(phi: Activation, u: Floats) -> Floats:
    """Return log |phi(u)|, of u's shape, where phi fades also below the least float64."""
    from scipy.special import log_ndtr

    with np.errstate(divide="ignore"):
        found: Floats = np.log(np.abs(phi(torch.from_numpy(u)).numpy()))
    how, low = VANISHING.get(phi.name), u < -30.0
    if how is None or how.fade is None or not low.any():
        return found  # as it is computed
    fading = log_ndtr(u[low]) if how.fade[0] == 2 else u[low]  # e^u is log(1 + e^u) there
    found[low] = fading + (np.log(-u[low]) if how.slopes else 0.0)
    return found


def tail_of(spec: Spec, layer: int) -> Tail:
    """Return the tail of g_l: l Gaussian factors, whose norms are all as large as t^(1 / l).

    The least of sum t_j^2 / 2 with prod s_j t_j = t is l/2 (t / prod s_j)^(2 / l), s_j a layer's
    scale times the steeper slope of phi far out. Where phi is bounded g_l is Gaussian given a
    bounded variance.
    """
    phi, first = spec.activation, 0.5 * log_first_variance(spec)
    if layer > 1 and phi.growth < 1:
        return Tail(0.5, 0.0)
    log_scale = first + sum(math.log(std) for std in spec.weight_std[1:layer])
    if layer > 1:
        steepest = float(np.abs(evaluate(phi, np.array([-FAR, FAR]))).max()) / FAR
        log_scale += (layer - 1) * math.log(steepest)
    log_rate = math.log(layer / 2) - 2 / layer * log_scale
    return Tail(layer / 2, math.exp(min(log_rate, 700.0)))


def index_before(spec: Spec, layer: int) -> float:
    """Return the index of g_l off 0, at most 1: it has a density given its variance.

    Raises:
        InputError: It is not known for the activation.
    """
    return min(1.0, index_of_scale(spec, layer))


def index_of_scale(spec: Spec, layer: int) -> float:
    """Return the index of the standard deviation of g_l given the layers before, off 0.

    Raises:
        InputError: It is not known for the activation.
    """
    phi = spec.activation
    if layer == 1 or spec.bias_std > 0:
        return math.inf
    if phi.slopes is not None:
        return float(min(spec.widths[: layer - 1])) if all(phi.slopes) else 0.0
    if flat_parts(phi):
        return 0.0
    how = vanishing(phi)
    layers = range(1, layer) if how.slopes else (layer - 1,)  # what is small stays small, or not
    return min(_together(how, spec, j) for j in layers)


def index_after(phi: Activation, tail: Tail, before: float) -> float:
    """Return the index of phi(g) off 0.

    Args:
        phi: Not linear on each side of 0.
        tail: Of g.
        before: The index of g.

    Raises:
        InputError: It is not known for the activation, or there are zeros off 0.
    """
    if flat_parts(phi):
        return 0.0
    how = vanishing(phi)
    if how.elsewhere:
        raise InputError(
            f"moments of negative order after {phi.name}, which has infinitely many zeros, are not "
            "computed: ask before the activation, or for an order from 0 on"
        )
    return min(before / how.power if how.slopes else math.inf, _faded(how, tail, 1))


def _together(how: Vanishing, spec: Spec, j: int) -> float:
    """Return the index of the length of phi(g_j), all its units together.

    Some units nearly 0 and the others far below cost a concave function of their number: the least
    is at an end.
    """
    width = spec.widths[j - 1]
    near = width / how.power if how.slopes or how.elsewhere else math.inf
    return min(near, _faded(how, tail_of(spec, j), width))


def _faded(how: Vanishing, tail: Tail, units: int) -> float:
    """Return the index of units that are all far below 0: they share their layers before.

    All below -t at once cost units^(1 / (2 theta)) times what one costs: l/2 powers of H^(1 / l).
    """
    if how.fade is None:
        return math.inf
    power, factor = how.fade
    if tail.theta * power != 1:
        return math.inf if tail.theta * power < 1 else 0.0
    shared: float = tail.rate * units ** (0.5 / tail.theta) / factor
    return shared
