"""Smooth activations s(u) by their Taylor series, and their norm against a kernel's series.

A neuron z -> |z| s(<g, z> / |z|) lies in the RKHS of |z| |z'| k(cos(z, z')), with squared norm at
most C_s^2(|g|^2) = sum_j a_j^2 / b_j |g|^(2j), for s(u) = sum_j a_j u^j and k(u) = sum_j b_j u^j.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from merkhet.ckn.dot_products import DotProductKernel
from merkhet.core.errors import InputError, choose

MOST_TERMS = 2**17
EPS = torch.finfo(torch.float64).eps


def smooth_relu(u: Tensor) -> Tensor:
    """Return (u + u erf(u) + exp(-u^2) / sqrt(pi)) / 2: the ReLU of a noisy u, averaged."""
    return (u + u * u.erf() + (-u * u).exp() / math.sqrt(math.pi)) / 2


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "smooth_relu": smooth_relu,
    "linear": lambda u: u,
    "square": torch.square,
    "sine": torch.sin,
    "exp": torch.exp,
}


def activation_coefficients(activation: str, count: int) -> Tensor:
    """Return the Taylor coefficients a_0 to a_(count - 1) of an activation, (count,), float64.

    Args:
        activation: One of "smooth_relu", "linear", "square", "sine", "exp".
        count: How many.

    Raises:
        InputError: No such activation.
    """
    j = torch.arange(count, dtype=torch.float64)
    sizes = _log_activation(activation, j).exp()
    if activation == "smooth_relu":
        return torch.where((j > 0) & (j % 4 == 0), -sizes, sizes)
    return torch.where(j % 4 == 3, -sizes, sizes) if activation == "sine" else sizes


def activation_norm(activation: str, kernel: DotProductKernel, square: float) -> float:
    """Return C_s^2(square) = sum_j a_j^2 / b_j square^j, rounded up: never below the true sum.

    It is inf where the series diverges (`why_infinite` says why) or does not fit in float64.
    `smooth_relu` with "exp" is finite for sigma^2 square <= 1/2, the boundary included, where
    the terms fall as j^(-5/2); with "inverse" and "relu" it always is. "poly" has no terms past
    degree 2 and "relu" none of odd degree past 1, hence no activation that has them.

    Args:
        activation: One of `ACTIVATIONS`.
        kernel: The kernel of the layer.
        square: The squared norm of the filter, >= 0.

    Raises:
        InputError: No such activation, or `square` is negative or NaN.
    """
    if not square >= 0:
        raise InputError(f"square = {square!r}: give a squared norm, 0 or more")
    return _exp(log_activation_norm(activation, kernel, math.log(square) if square else -math.inf))


def log_activation_norm(activation: str, kernel: DotProductKernel, log_square: float) -> float:
    """Return log C_s^2(exp(log_square)), rounded up, or inf; see `activation_norm`."""
    if why_infinite(activation, kernel, log_square) is not None:
        return math.inf
    count = 64
    while True:
        logs, slack = _log_terms(activation, kernel, log_square, count)
        total = float(torch.logsumexp(logs, 0))
        tail = _log_tail(activation, kernel, log_square, logs)
        if tail < total + math.log(EPS) or (count >= MOST_TERMS and tail < math.inf):
            return _log_add(total, tail) + slack
        if count >= MOST_TERMS:
            return math.inf
        count *= 2


def series_terms(activation: str, kernel: DotProductKernel, square: float) -> Tensor | None:
    """Return the terms a_j^2 / b_j square^j, (count,), as many as float64 can tell.

    None where the sum is infinite, or too slow or too large for terms that are added one by one.
    """
    log_square = math.log(square) if square else -math.inf
    for count in (64, 256, 1024, 4096):
        if not log_activation_norm(activation, kernel, log_square) < 700:
            return None
        logs, _ = _log_terms(activation, kernel, log_square, count)
        if _log_tail(activation, kernel, log_square, logs) < torch.logsumexp(logs, 0) - 30:
            return logs.exp()
    return None


def why_infinite(activation: str, kernel: DotProductKernel, log_square: float) -> str | None:
    """Return in words why the series of `activation_norm` has no finite sum, or None.

    Raises:
        InputError: No such activation.
    """
    j = torch.arange(8, dtype=torch.float64)  # the patterns of zeros repeat after degree 4
    missing = _log_activation(activation, j).isfinite() & (_log_kernel(kernel, j) == -math.inf)
    if missing.any() and log_square > -math.inf:
        degree = int(missing.nonzero()[0])
        return (
            f"the series of {activation!r} has a term of degree {degree} and that of the kernel "
            f"{kernel.kind!r} has none"
        )
    if _log_limit(activation, kernel, log_square) > 0:
        return (
            f"the series of {activation!r} against the kernel {kernel.kind!r} with sigma = "
            f"{kernel.sigma:g} converges up to a squared norm of {0.5 / kernel.sigma**2:.4g}; "
            f"here it is {_exp(log_square):.4g}"
        )
    return None


def _log_terms(
    activation: str, kernel: DotProductKernel, log_square: float, count: int
) -> tuple[Tensor, float]:
    """Return the logarithms of the terms, (count,), and what rounding can take from the sum."""
    j = torch.arange(count, dtype=torch.float64)
    above, below = 2 * _log_activation(activation, j), _log_kernel(kernel, j)
    powers = torch.where(j > 0, j * log_square, 0)
    present = above.isfinite() & (powers > -math.inf)
    logs = torch.where(present, above - below + powers, -math.inf)
    sizes = torch.where(logs > logs.max() - 40, above.abs() + below.abs() + powers.abs(), 0)
    return logs, float(EPS * (8 * sizes.max() + 2 * math.sqrt(count) + 8))


def _log_tail(activation: str, kernel: DotProductKernel, log_square: float, logs: Tensor) -> float:
    """Return the logarithm of an upper bound of the terms that follow, inf where none is known.

    The ratio of a term to the one two before it is monotone from degree 4 on for every pair of
    an activation and a kernel, so it stays below the larger of its last value and its limit r:
    the tail is at most (t_(J-1) + t_J) r / (1 - r). Where `smooth_relu` meets "exp" and r <= 1,
    it is below (j - 1)^2 / ((j + 1)(j + 2)) as well, and Kummer's test gives (j - 1) / 3 t_j.
    """
    last = float(torch.logsumexp(logs[-2:], 0))
    if last == -math.inf:
        return -math.inf
    limit = _log_limit(activation, kernel, log_square)
    ratio = max(limit, last - float(torch.logsumexp(logs[-4:-2], 0)))
    found = last + ratio - math.log(-math.expm1(ratio)) if ratio < 0 else math.inf
    if limit > -math.inf:
        found = min(found, last + math.log((len(logs) - 1) / 3))
    return found


def _log_limit(activation: str, kernel: DotProductKernel, log_square: float) -> float:
    """Return the logarithm of the limit of t_(j+2) / t_j."""
    if (activation, kernel.kind) != ("smooth_relu", "exp"):
        return -math.inf
    return math.log(4) + 2 * (2 * math.log(kernel.sigma) + log_square)


def _log_activation(activation: str, j: Tensor) -> Tensor:
    """Return log |a_j|, -inf where a_j is 0; s''(u) = exp(-u^2) / sqrt(pi) for `smooth_relu`."""
    choose("activation", activation, ACTIVATIONS)
    none = torch.full_like(j, -math.inf)
    if activation in ("linear", "square"):
        return torch.where(j == (1 if activation == "linear" else 2), 0, none)
    if activation in ("sine", "exp"):
        return torch.where((j % 2 == 1) | (activation == "exp"), -torch.lgamma(j + 1), none)
    even = j.clamp(min=2)
    logs = -torch.lgamma(even / 2) - math.log(math.pi) / 2 - (even * (even - 1)).log()
    logs = logs.where(j % 2 == 0, -math.inf).where(j != 0, -math.log(2 * math.sqrt(math.pi)))
    return logs.where(j != 1, -math.log(2))


def _log_kernel(kernel: DotProductKernel, j: Tensor) -> Tensor:
    """Return log b_j, -inf where b_j is 0; `DotProductKernel.coefficients` underflows early."""
    if kernel.kind == "exp":
        return -(kernel.sigma**-2) - 2 * j * math.log(kernel.sigma) - torch.lgamma(j + 1)
    if kernel.kind == "inverse":
        return -(j + 1) * math.log(2)
    if kernel.kind == "poly":
        logs = torch.full_like(j, math.log(0.25)).where(j != 1, math.log(0.5))
        return logs.where(j < 3, -math.inf)
    even = j.clamp(min=2)
    logs = torch.lgamma(even - 1) - 2 * torch.lgamma(even / 2) - (even / 2 - 1) * math.log(4)
    logs = logs - math.log(math.pi) - (even * (even - 1)).log()
    logs = logs.where(j % 2 == 0, -math.inf).where(j != 0, -math.log(math.pi))
    return logs.where(j != 1, math.log(0.5))


def _log_add(first: float, second: float) -> float:
    """Return log(exp(first) + exp(second))."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _exp(logarithm: float) -> float:
    """Return the exponential, inf where float64 ends."""
    return math.exp(logarithm) if logarithm < 709 else math.inf
