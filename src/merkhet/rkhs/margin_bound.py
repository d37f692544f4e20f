"""A bound of the robust error by margins, for functions of bounded norm in a known RKHS.

Source: Bietti, Mialon, Chen and Mairal, ICML 2019 (arXiv 1810.00363), Section 3.2 (the form
with the margin moved by eps |f|); the Rademacher bound is that of Bartlett and Mendelson, JMLR
2002. The union over grids is ours, as is the proof's use of the ramp instead of the 0-1 loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.building import check_positive
from merkhet.core.errors import InputError


@dataclass(frozen=True)
class MarginBound:
    """An upper bound of the robust error that holds with probability 1 - eta.

    Attributes:
        value: The bound, 1 at most.
        empirical: Mean of the margin loss on the examples.
        complexity: 2 lambda sqrt(trace K) / (gamma n).
        confidence: 3 sqrt(log(2 / eta') / (2 n)), eta' the share of eta of a pair of the grids.
        gamma: The margin that gave the smallest bound.
        norm_class: The lambda that did.
        vacuous: Whether the bound says nothing: it is 1 or more.
        assumptions: What must hold for it, in words.
    """

    value: float
    empirical: float
    complexity: float
    confidence: float
    gamma: float
    norm_class: float
    vacuous: bool
    assumptions: tuple[str, ...]

    def __str__(self) -> str:
        word = "it is vacuous: no error exceeds 1" if self.vacuous else "it says something"
        parts = f"{self.empirical:.4g} + {self.complexity:.4g} + {self.confidence:.4g}"
        lines = [
            f"robust error <= {self.value:.4g} = min(1, {parts}): {word}",
            f"at gamma = {self.gamma:.4g} and lambda = {self.norm_class:.4g}, assuming",
            *(f"- {one}" for one in self.assumptions),
        ]
        return "\n".join(lines)


def margin_bound(
    margins: Tensor,
    *,
    norm: float,
    trace: float,
    gammas: Sequence[float],
    lambdas: Sequence[float],
    eps: float = 0.0,
    eta: float = 0.05,
) -> MarginBound:
    """Return the smallest margin bound over grids of margins gamma and norm classes lambda.

    Let |f| <= lambda and Phi be non-expansive. A move of x by eps changes y f by eps lambda at
    most, so the robust 0-1 loss is at most r(y f(x) - eps lambda), with the ramp r(m) = 1 below 0,
    0 from gamma on, and linear between. The ramp has slope 1 / gamma and its shift is a constant,
    so its class has the Rademacher complexity lambda sqrt(trace K) / (gamma n) of the ball, and
    with probability 1 - eta'

        robust error <= mean of r(y f(x) - eps lambda) + 2 lambda sqrt(trace K) / (gamma n)
                        + 3 sqrt(log(2 / eta') / (2 n)).

    lambda must not look at the data. Hence all pairs of the grids hold together, each with
    eta' = eta / (gammas x lambdas), and the smallest of those with lambda >= |f| is taken.

    Args:
        margins: (n,), y f(x) of the examples that f was trained on, y = -1 or 1.
        norm: |f|, or an upper bound of it; not a lower one.
        trace: Sum of K(x, x) over the same examples.
        gammas: Margins above 0, chosen before the data are seen.
        lambdas: Norms above 0, chosen before the data are seen.
        eps: l2 radius of the moves, in the units of x; 0 bounds the plain error.
        eta: Probability that the bound fails.

    Raises:
        InputError: A number out of its range, or no lambda of `norm` or more.
    """
    values = _checked(margins, gammas, lambdas, norm, eps, eta)
    check_positive(trace=trace)
    allowed = [one for one in lambdas if one >= norm]
    if not allowed:
        raise InputError(
            f"norm = {norm:g} is above every lambda up to {max(lambdas):g}: no class of the grid "
            f"holds f; fix a grid beforehand that reaches further, such as powers of 2"
        )
    n = len(values)
    confidence = 3 * math.sqrt(math.log(2 * len(gammas) * len(lambdas) / eta) / (2 * n))
    found = []
    for bound in allowed:
        for gamma in gammas:
            ramp = float((1 - (values - eps * bound) / gamma).clamp(0, 1).mean())
            complexity = 2 * bound * math.sqrt(trace) / (gamma * n)
            found.append((ramp + complexity + confidence, ramp, complexity, gamma, bound))
    total, ramp, complexity, gamma, bound = min(found)
    return MarginBound(
        min(1.0, total), ramp, complexity, confidence, gamma, bound, total >= 1, _assumed(eps)
    )


def _assumed(eps: float) -> tuple[str, ...]:
    """Return the assumptions in words."""
    moved = (f"the kernel map is non-expansive, and moves are within {eps:g} in l2",) if eps else ()
    return (
        "two classes, with y f(x) as margin (of a softmax over two, f is the difference)",
        "the examples are independent draws from the distribution that the error is of, and the "
        "kernel was not fitted to them",
        "norm is an upper bound of |f| in the RKHS of the kernel that trace is of, without a bias",
        "the grids of gamma and lambda were chosen before the data were seen",
        *moved,
    )


def _checked(
    margins: Tensor,
    gammas: Sequence[float],
    lambdas: Sequence[float],
    norm: float,
    eps: float,
    eta: float,
) -> Tensor:
    """Return margins in float64; refuse numbers out of their range."""
    values = torch.as_tensor(margins).detach().to("cpu", torch.float64)
    if values.dim() != 1 or not len(values) or not bool(values.isfinite().all()):
        raise InputError(
            f"margins of shape {tuple(values.shape)}: give one finite number an example"
        )
    for name, grid in (("gammas", gammas), ("lambdas", lambdas)):
        if not isinstance(grid, Sequence) or not len(grid):
            raise InputError(f"{name} = {grid!r}: give a list of some positive numbers")
        for one in grid:
            check_positive(**{name: one})
    if not isinstance(norm, int | float) or not math.isfinite(norm) or norm < 0:
        raise InputError(
            f"norm = {norm!r}: give a finite upper bound of |f|; there is no bound of "
            "the error without one"
        )
    numbers = all(isinstance(one, int | float) for one in (eps, eta))
    if not numbers or not 0 <= eps < math.inf or not 0 < eta < 1:
        raise InputError(
            f"eps = {eps!r}, eta = {eta!r}: give eps of 0 or more, eta between 0 and 1"
        )
    return values
