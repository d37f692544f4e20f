"""The one-versus-all squared hinge over features that are never copied, and its minimum.

n inputs, d features, K classes. Features f count as x = (f - centre) / scale:

    mean_i sum_k max(0, 1 - y_ik (w_k x_i + b_k))^2 + penalty / 2 |w|^2,  y = 1 or -1
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError

BLOCK = 2**22  # numbers of features in one product
DENSE = 12288  # features up to which the solve is preconditioned with their second moments
ROWS = 3  # rows a feature that these are computed from, at least


def squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the one-versus-all squared hinge loss, mean over inputs, a scalar.

    Args:
        scores: (n, classes).
        labels: (n,) integers.
    """
    return _slack(scores, labels).square().sum(1).mean()


class Task:
    """The objective over given features, as a function of weights and biases (K, d + 1), float64.

    Args:
        features: (n, d), float32 or float64; products are in this type.
        labels: (n,).
        classes: K.

    Attributes:
        learned: (n,) which inputs count; None for all.
        centre: (d,) the mean of the features, float64.
        scale: The mean norm of what is left.

    Raises:
        InputError: A feature is not finite, or all inputs are equal.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self.features, self.labels, self.classes = features, labels.to(features.device), classes
        self.learned: Tensor | None = None
        self.centre = _centre(features)
        self.scale = _scale(features, self.centre)
        dense = features.shape[1] <= DENSE
        self._moments = _moments(features, self.centre, self.scale) if dense else None

    def solve(self, penalty: float, start: Tensor | None = None, *, coarse: bool = False) -> Tensor:
        """Return the weights and biases (K, d + 1) of least objective, by L-BFGS.

        The Hessian is at most 2 C + penalty, C the second moments of the features. In v = w L, with
        L L^T that matrix, it is at most 1, and small penalties cost few steps more than large ones.

        Args:
            penalty: On |w|^2 / 2.
            start: (K, d + 1), to begin from.
            coarse: Whether 1e-6 of the objective is near enough, to compare penalties.
        """
        from scipy.optimize import minimize

        factor = self._factor(penalty)
        shape = (self.classes, self.features.shape[1] + 1)
        first = torch.zeros(shape, dtype=torch.float64) if start is None else start

        def objective(flat: Any) -> tuple[float, Any]:
            weights = _divided(torch.from_numpy(flat).view(shape), factor)
            value, slope = self.value_and_gradient(weights, penalty)
            return value, _divided(slope, factor, transposed=True).reshape(-1).numpy()

        single = self.features.dtype == torch.float32
        gain = 1e-6 if coarse else 1e-8 if single else 1e-14
        slope = 1e-4 if coarse else 1e-5 if single else 1e-8
        found = minimize(
            objective,
            _times(first, factor).reshape(-1).numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "maxfun": 2000, "maxcor": 20, "ftol": gain, "gtol": slope},
        )
        return _divided(torch.from_numpy(found.x).view(shape), factor)

    def value_and_gradient(self, weights: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Return the objective and its gradient (K, d + 1) at weights and biases (K, d + 1)."""
        matrix, shift = self.on_raw(weights)
        total, slope = 0.0, torch.zeros_like(weights)
        for rows in blocks(self.features):
            block, labels = self.features[rows], self.labels[rows]
            slack = _slack(_product(block, matrix, shift), labels)
            if self.learned is not None:
                slack *= self.learned[rows, None]
            total += float(slack.square().sum(dtype=torch.float64))
            residual = slack.mul_(2)
            residual[torch.arange(len(labels)), labels] *= -1
            slope[:, :-1] += (residual.mT @ block).to(slope)
            slope[:, -1] += residual.sum(0, dtype=torch.float64).to(slope)
        count = len(self.features) if self.learned is None else int(self.learned.sum())
        slope[:, :-1] = (slope[:, :-1] - slope[:, -1:] * self.centre) / self.scale
        slope /= count
        slope[:, :-1] += penalty * weights[:, :-1]
        return total / count + penalty / 2 * float(weights[:, :-1].square().sum()), slope

    def scores(self, weights: Tensor, features: Tensor) -> Tensor:
        """Return the scores (m, K) of features (m, d) with weights and biases (K, d + 1)."""
        matrix, shift = self.on_raw(weights)
        found = [_product(features[rows], matrix, shift) for rows in blocks(features)]
        return torch.cat(found)

    def on_raw(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrix (K, d) and shift (K,) that act on the features as they are."""
        matrix = weights[:, :-1] / self.scale
        shift = weights[:, -1] - matrix @ self.centre
        return matrix.to(self.features), shift.to(self.features)

    def _factor(self, penalty: float) -> Tensor | None:
        """Return the lower triangular L (d, d) with L L^T = 2 C + penalty."""
        if self._moments is None:
            return None
        matrix = 2 * self._moments
        matrix.diagonal().add_(penalty)
        try:
            factor: Tensor = torch.linalg.cholesky(matrix)
        except RuntimeError as error:  # torch.linalg.LinAlgError is one
            raise InputError(
                f"penalty = {penalty:g} is nothing beside the rounding of these features, or they "
                "are out of range: give a larger penalty, or features of scale 1"
            ) from error
        return factor


def blocks(features: Tensor) -> Iterator[slice]:
    """Yield rows of features (n, d) in blocks that stay in the cache between two products."""
    step = max(1, BLOCK // features.shape[1])
    for start in range(0, len(features), step):
        yield slice(start, start + step)


def _product(block: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return block matrix^T + shift, (m, K); few rows times many is the fast order."""
    return (matrix @ block.mT).mT + shift


def _slack(scores: Tensor, labels: Tensor) -> Tensor:
    """Return max(0, 1 - y s) of scores (n, K)."""
    own = labels[:, None].long()
    return (1 + scores).scatter(1, own, 1 - scores.gather(1, own)).clamp_min(0)


def _centre(features: Tensor) -> Tensor:
    """Return the mean (d,), float64, of features without NaN or infinity."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for rows in blocks(features):
        block = features[rows].sum(0, dtype=torch.float64).cpu()
        if not bool(block.isfinite().all()):
            finite = features[rows].isfinite().all(1)
            raise InputError(
                f"features of input {rows.start + int((~finite).int().argmax())} hold NaN or "
                "infinity: remove or mend it"
            )
        total += block
    return total / len(features)


def _scale(features: Tensor, centre: Tensor) -> float:
    """Return the mean norm of features less their centre."""
    shift = centre.to(features)
    norms = [(features[rows] - shift).norm(dim=1).double().sum() for rows in blocks(features)]
    found = float(torch.stack(norms).sum()) / len(features)
    largest = float(centre.abs().max())
    if found <= 4 * torch.finfo(features.dtype).eps * largest * math.sqrt(len(centre)):
        raise InputError(
            f"features of all {len(features):,} inputs are equal: give inputs that differ"
        )
    return found


def _moments(features: Tensor, centre: Tensor, scale: float) -> Tensor:
    """Return the second moments C (d, d), float64, of rows spread over the features."""
    count, d = features.shape
    chosen = features[:: max(1, count // (ROWS * d))]
    shift, total = centre.to(features), torch.zeros(d, d, dtype=torch.float64)
    for rows in blocks(chosen):
        block = chosen[rows] - shift
        total += (block.mT @ block).to(total)
    return total / (len(chosen) * scale**2)


def _times(weights: Tensor, factor: Tensor | None) -> Tensor:
    """Return weights (K, d + 1) times a factor (d, d), but for the biases."""
    if factor is None:
        return weights
    return torch.cat([weights[:, :-1] @ factor, weights[:, -1:]], 1)


def _divided(weights: Tensor, factor: Tensor | None, transposed: bool = False) -> Tensor:
    """Return weights (K, d + 1) times the inverse of a factor (d, d) or of its transpose."""
    if factor is None:
        return weights
    # w L^-1 and w L^-T are solved as columns, which is several times faster than as rows.
    lower = factor if transposed else factor.mT
    solved = torch.linalg.solve_triangular(lower, weights[:, :-1].mT, upper=not transposed).mT
    return torch.cat([solved, weights[:, -1:]], 1)
