"""What a Gaussian prior on the weights says about one unit of a chain of dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.laws.effective import asymptotic_tail, effective_tail
from merkhet.unit_prior.laws.law import Law
from merkhet.unit_prior.laws.moments import checked_log_moment
from merkhet.unit_prior.laws.points import (
    as_answer,
    as_floats,
    as_log_probabilities,
    as_plain,
    as_sizes,
    lengths,
)
from merkhet.unit_prior.laws.quantiles import quantile
from merkhet.unit_prior.laws.unit_laws import UnitLaws, joint_log_density, log_survival_from_zero
from merkhet.unit_prior.spec import Spec, make_spec


class UnitPrior:
    """The prior of the units of g_l = W_l phi(g_(l-1)) + b_l at one input.

    Weights are independent and Gaussian; layers are counted from 1 by weight matrices, and layer
    len(widths) + 1 is the output. A unit is g_l, or phi(g_l) with `post=True`. Without bias and
    with an activation that is linear on each side of 0 the law of a unit is exact: a product of
    independent norms, whose Mellin transform is known and is inverted with a bound of the error,
    at 1e-1 as at 1e-300 and far below. Else it comes from a recursion on a grid, with an estimate.

    Survival is two-sided, P(|g| > t). Every answer carries its method and its error.

    Args:
        widths: Of the hidden layers.
        activation: By name ("relu", "leaky_relu(0.2)", "tanh", ...) or an `Activation`.
        weight_std: Standard deviation of a weight: a number, one for each of the
            len(widths) + 1 matrices, or "he": sqrt(2 / width before), and for the first layer
            what gives g_1 the variance input_norm^2.
        bias_std: Standard deviation of a bias.
        input_norm: |x|.

    Raises:
        InputError: A width below 1, scales that are none, or x = 0 without a bias.

    Example:
        >>> prior = UnitPrior((100, 100, 100))
        >>> prior.kurtosis(4)
        3.472875 (+- 3e-12, Mellin transform)
        >>> prior.log_survival(100.0, layer=4)
        -189.4109808 (+- 5e-12, Mellin inversion)

    References:
        Vladimirova, Verbeek, Mesejo & Arbel, "Understanding priors in Bayesian neural networks at
        the unit level", ICML 2019.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: str | Activation = "relu",
        weight_std: str | float | Sequence[float] = "he",
        bias_std: float = 0.0,
        input_norm: float = 1.0,
    ) -> None:
        self.spec = make_spec(widths, activation, weight_std, bias_std, input_norm)
        self._laws = UnitLaws(self.spec)

    @classmethod
    def from_spec(cls, spec: Spec) -> UnitPrior:
        """Return the prior of a checked `Spec`."""
        made = cls.__new__(cls)
        made.spec, made._laws = spec, UnitLaws(spec)
        return made

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"UnitPrior({list(spec.widths)}, {spec.activation.name!r}, "
            f"weight_std={[float(f'{std:.4g}') for std in spec.weight_std]}, "
            f"bias_std={spec.bias_std:g}, input_norm={spec.input_norm:g})"
        )

    def law(self, layer: int) -> Law:
        """Return the law of a pre-activation: what the methods below ask, without checks."""
        return self._laws.law(layer)

    def log_survival(self, t: Any, layer: int, *, post: bool = False) -> Answer:
        """Return log P(|u| > t): finite where the survival itself is 0 in float64.

        Args:
            t: Sizes from 0 on, any shape; a number, a list, an array or a tensor.
            layer: 1 ... len(widths) + 1.
            post: Whether u is the unit after the activation.

        Raises:
            InputError: Negative or NaN t, or no such layer.
        """
        unit = self._laws.unit(layer, post)
        return as_answer(*log_survival_from_zero(unit, as_sizes(t, "t")), unit.method)

    def survival(self, t: Any, layer: int, *, post: bool = False) -> Answer:
        """Return P(|u| > t), as `log_survival` takes its arguments."""
        unit = self._laws.unit(layer, post)
        return as_plain(*log_survival_from_zero(unit, as_sizes(t, "t")), unit.method)

    def log_density(self, u: Any, layer: int, *, post: bool = False) -> Answer:
        """Return the log of the density of the signed unit at u, its part off 0.

        It integrates to 1 - zero_mass. At u = 0 it may be inf: where layers before can be nearly
        dead.

        Args:
            u: Values of either sign, any shape.
            layer: 1 ... len(widths) + 1.
            post: Whether u is the unit after the activation.

        Raises:
            InputError: NaN, no such layer, or a density that is not computed.
        """
        unit = self._laws.unit(layer, post)
        return as_answer(*unit.log_density(as_floats(u, "u")), unit.method)

    def density(self, u: Any, layer: int, *, post: bool = False) -> Answer:
        """Return the density of the signed unit, as `log_density` takes its arguments."""
        unit = self._laws.unit(layer, post)
        return as_plain(*unit.log_density(as_floats(u, "u")), unit.method)

    def joint(self, points: Any, layer: int) -> Answer:
        """Return the log joint density of m units of one layer at points, its part off 0.

        Given the layers before, units of a layer are independent with one variance: contours of
        the density are spheres, whatever its tails.

        Args:
            points: (..., m); m at most the layer's width.
            layer: 1 ... len(widths) + 1.

        Returns:
            Of shape (...).

        Raises:
            InputError: NaN, no such layer, or more units than it has.
        """
        law, at = self.law(layer), as_floats(points, "points")
        width = self.spec.widths[layer - 1] if layer < self.spec.layers else math.inf
        if at.ndim == 0 or not 1 <= at.shape[-1] <= width:
            raise InputError(
                f"points of shape {at.shape}: give (..., m), m units of layer {layer}, 1 to {width}"
            )
        return as_answer(*joint_log_density(law, lengths(at), at.shape[-1]), law.method)

    def quantile(self, p: Any, layer: int, *, post: bool = False, log_p: Any = None) -> Answer:
        """Return the t that |u| exceeds with probability p, an upper quantile.

        Args:
            p: Probabilities in [0, 1], any shape; 0 at p from 1 - zero_mass on, inf at 0.
            layer: 1 ... len(widths) + 1.
            post: Whether u is the unit after the activation.
            log_p: In place of p = None, their logs: for probabilities under 1e-308.

        Raises:
            InputError: No probabilities, or no such layer.
        """
        unit, logs = self._laws.unit(layer, post), as_log_probabilities(p, log_p)
        value, error = quantile(unit, logs.reshape(-1))
        return as_answer(value.reshape(logs.shape), error.reshape(logs.shape), unit.method)

    def moment(self, order: float, layer: int, *, post: bool = False) -> Answer:
        """Return E|u|^order, refused where it is infinite: for some orders below 0."""
        unit = self._laws.unit(layer, post)
        return as_plain(*checked_log_moment(unit, order), unit.moment_method)

    def log_moment(self, order: float, layer: int, *, post: bool = False) -> Answer:
        """Return log E|u|^order, which is finite where the moment overflows."""
        unit = self._laws.unit(layer, post)
        return as_answer(*checked_log_moment(unit, order), unit.moment_method)

    def std(self, layer: int, *, post: bool = False) -> Answer:
        """Return the standard deviation of a unit."""
        unit = self._laws.unit(layer, post)
        return as_answer(*unit.spread()[0], unit.moment_method)

    def kurtosis(self, layer: int, *, post: bool = False) -> Answer:
        """Return E(u - m)^4 / Var(u)^2, m the mean: 3 for a Gaussian."""
        unit = self._laws.unit(layer, post)
        return as_answer(*unit.spread()[1], unit.moment_method)

    def zero_mass(self, layer: int, *, post: bool = False) -> Answer:
        """Return P(u = 0)."""
        unit = self._laws.unit(layer, post)
        return as_answer(unit.zero_mass, 0.0, unit.method)

    def square_correlation(self, layer: int) -> Answer:
        """Return the correlation of the squares of two units of a layer.

        Given the layers before, the two are independent Gaussians with one variance, so that it
        is (k - 3) / (3 (k - 1)), k their kurtosis; 0 in layer 1.
        """
        kurtosis = self.kurtosis(layer)
        k, error = float(kurtosis.value), float(kurtosis.error)
        found = max(0.0, k - 3) / (3 * (k - 1))
        return as_answer(found, 2 * error / (3 * (k - 1) ** 2), kurtosis.method)

    def tail_parameter(self, layer: int, *, post: bool = False) -> float:
        """Return theta of the tail exp(-t^(1/theta)) as t grows without end.

        It is layer / 2, before and after the activation, where phi is linear on a side. What is
        seen at a probability is `effective_tail`.
        """
        return asymptotic_tail(self.spec, layer, post=post)

    def effective_tail(
        self, p: Any, layer: int, *, post: bool = False, log_p: Any = None
    ) -> Answer:
        """Return theta as it is seen at survival p: 1 over the slope of log(-log S) in log t.

        Args:
            p: Probabilities above 0 and under 1 - zero_mass, any shape.
            layer: 1 ... len(widths) + 1.
            post: Whether the unit is that after the activation.
            log_p: In place of p = None, their logs.

        Raises:
            InputError: No such probabilities, or no such layer.
        """
        unit, logs = self._laws.unit(layer, post), as_log_probabilities(p, log_p)
        value, error = effective_tail(unit, logs)
        return as_answer(value, error, unit.method)

    def sample(
        self,
        n: int,
        layer: int,
        generator: int | torch.Generator | None = None,
        *,
        post: bool = False,
    ) -> Tensor:
        """Draw a unit over fresh weights, (n,) float64; None is the seed 0."""
        from merkhet.unit_prior.sampling.draws import draw_units

        return draw_units(self.spec, layer, n, 1, generator, post=post)[:, 0]
