"""Activations without a closed form: expectations over pairs of Gaussian units by quadrature."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.kernels.activations import Activation, cosine, geometric_mean
from merkhet.kernels.hermite import ROUNDING, Function, coefficients, series

FINE, COARSE = 16, 10  # nodes of each panel; what they differ by tells the integrals' error


class Error(NamedTuple):
    """Estimates of how far the two expectations of a `Numeric` are off.

    Attributes:
        dual: Of E[s(u) s(v)].
        slope: Of E[s'(u) s'(v)].
    """

    dual: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Numeric(Activation):
    """Any continuous function of each unit, such as `Numeric(torch.tanh)`.

    E[s(u) s(v)] is summed over Hermite polynomials up to the power `terms` of the cosine; what is
    left of the series is put at that power, so that the answer is exact for equal units and is
    positive semi-definite as a kernel at any number of terms. For a function that is analytic
    within t of the real line the error falls like exp(-2 t sqrt(terms / variance)): tanh has t =
    pi / 2. A kink makes it fall like a power instead, terms^(-3/2) for the dual and terms^(-1/2)
    for the slope, at cosines within about 1 / terms of 1; further from 1 it is far less. `error`
    tells it.

    Gradients go to the inputs, and to tensors in the function. At units of variance 0 the slope's
    gradient is given as 0.

    Args:
        function: From a tensor to one of the same shape, entry by entry, differentiable by torch.
        derivative: Its derivative, likewise; by default torch's.
        name: What it is called in messages and in what files of kernels are of; by default the
            function's own name.
        kinks: Where the function or its derivative jumps or bends, but for 0, which is always
            taken care of; the integrals lose digits otherwise, and `error` sees it.
        terms: Even number of terms.

    Raises:
        InputError: The function jumps, does not go entry by entry, or has no name.
    """

    function: Function
    derivative: Function | None = None
    _: KW_ONLY
    name: str = ""
    kinks: tuple[float, ...] = ()
    terms: int = 96

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or getattr(self.function, "__name__", ""))
        object.__setattr__(self, "kinks", tuple(float(kink) for kink in self.kinks))
        if self.name in ("", "<lambda>"):
            raise InputError('the function has no name of its own: give name="square"')
        if not isinstance(self.terms, int) or self.terms < 4 or self.terms % 2:
            raise InputError(f"terms = {self.terms}: give an even number from 4 on")
        if not all(map(math.isfinite, self.kinks)):
            raise InputError(f"kinks = {self.kinks}: give finite places")
        self._check()

    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s(u) s(v)] for covariances and variances of shapes that broadcast."""
        return self._dual(c, a, b, FINE)

    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s'(u) s'(v)] for covariances and variances of shapes that broadcast."""
        return self._slope(c, a, b, FINE)

    @torch.no_grad()
    def error(self, c: Tensor, a: Tensor, b: Tensor) -> Error:
        """Return estimates of the absolute errors of `dual` and `slope`.

        Each is twice the terms that were put at one power of the cosine, which bounds what that
        can change, plus the difference between integrals of two numbers of nodes.

        Args:
            c: Covariances, of shapes that broadcast with the variances.
            a: Variances.
            b: Variances.
        """
        u = cosine(c, geometric_mean(a, b)).abs()
        found = []
        for function, rule in ((self.function, self._dual), (self._derived, self._slope)):
            left, right = self._rests(function, a), self._rests(function, b)
            rest = sum(left[odd] * right[odd] * u ** (self.terms + odd) for odd in (0, 1))
            # Between other variances what is left may be negative: both ends of the bound count.
            found.append(2 * rest + (rule(c, a, b, FINE) - rule(c, a, b, COARSE)).abs())
        return Error(*found)

    def _rests(self, function: Function, variance: Tensor) -> Tensor:
        """Return roots of what is left of even and of odd terms, (2, *), not below rounding."""
        found = coefficients(function, variance, self.kinks, self.terms, FINE)
        least = ROUNDING * found.square().sum(0)
        return torch.maximum(found[-2:].square(), least).sqrt()

    def _dual(self, c: Tensor, a: Tensor, b: Tensor, order: int) -> Tensor:
        """Return E[s(u) s(v)] with integrals of `order` nodes a panel."""
        u = cosine(c, geometric_mean(a, b))
        left, right = (
            coefficients(self.function, one, self.kinks, self.terms, order) for one in (a, b)
        )
        # s_1(a) = sqrt(a) E[s'(sqrt(a) z)] (Stein): so written where a variance is 0, the term has
        # its gradient in c there.
        means = [coefficients(self._derived, one, self.kinks, 2, order)[0] for one in (a, b)]
        first = torch.where((a > 0) & (b > 0), left[1] * right[1] * u, means[0] * means[1] * c)
        return series(left, right, u, first)

    def _slope(self, c: Tensor, a: Tensor, b: Tensor, order: int) -> Tensor:
        """Return E[s'(u) s'(v)] with integrals of `order` nodes a panel."""
        u = cosine(c, geometric_mean(a, b))
        left, right = (
            coefficients(self._derived, one, self.kinks, self.terms, order) for one in (a, b)
        )
        return series(left, right, u, left[1] * right[1] * u)

    def _derived(self, z: Tensor) -> Tensor:
        """Return s'(z), of the shape of z."""
        if self.derivative is not None:
            return self.derivative(z)
        pull = torch.func.vjp(self.function, z)[1]
        found: Tensor = pull(torch.ones_like(z))[0]
        return found

    @torch.no_grad()
    def _check(self) -> None:
        """Refuse what is no function of each entry, or not the integral of its derivative.

        Raises:
            InputError: Says which.
        """
        z = torch.linspace(-2.9, 3.1, 24, dtype=torch.float64).reshape(4, 6)
        for what, function in (("function", self.function), ("derivative", self._derived)):
            try:
                found, alone = function(z), function(z[1:2, :1])
            except (RuntimeError, TypeError, ValueError) as error:
                raise InputError(
                    f"the {what} of {self!r} fails on a tensor: {first_line(error)}"
                ) from error
            if not found.isfinite().all():
                raise InputError(f"the {what} of {self!r} is not finite on all of [-3, 3]")
            if found.shape != z.shape or not torch.allclose(found[1:2, :1], alone):
                raise InputError(
                    f"the {what} of {self!r} does not act on each entry alone: "
                    "give one that returns a tensor of the same shape, as torch.tanh"
                )
        one = torch.ones((), dtype=torch.float64)
        found = coefficients(self.function, one, self.kinks, 2, FINE)
        mean = coefficients(self._derived, one, self.kinks, 2, FINE)[0]
        if (found[1] - mean).abs() > 0.1 * found.norm():
            raise InputError(
                f"{self!r} is not the integral of its derivative: it jumps, which leaves no "
                "tangent kernel, or bends where kinks= does not say, or the derivative is another's"
            )

    def __repr__(self) -> str:
        kinks = f", kinks={self.kinks}" if self.kinks else ""
        return f"Numeric({self.name}{kinks}, terms={self.terms})"
