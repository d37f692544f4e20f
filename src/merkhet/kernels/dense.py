"""Kernels of dense networks with ReLUs on processors: float64, all layers in one pass.

Products of the inputs are one matrix product; what follows depends on each entry of it alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from merkhet.core.threads import in_parallel, pieces
from merkhet.kernels import dense_loops
from merkhet.kernels.images import Array, with_inverses
from merkhet.kernels.layers import Linear
from merkhet.kernels.plan import DensePlan


class Dense:
    """Computes the kernels of a dense network between inputs.

    Attributes:
        side: Rows and columns of the blocks that suit it.
    """

    side = 512

    def __init__(self, plan: DensePlan, x: Tensor, y: Tensor, kind: str) -> None:
        self._plan, self._kind = plan, kind
        self._x = x.flatten(1)
        self._y = self._x if y is x else y.flatten(1)
        self._of_x = self._norms(self._x)
        self._of_y = self._of_x if y is x else self._norms(self._y)

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Return the kernels (kinds, rows, columns) between some x and some y, float64."""
        x, y = self._x[rows].double(), self._y[columns].double()
        weight, bias = _scale(self._plan.first, x.shape[1])
        s = (weight * (x @ y.T) + bias).contiguous()
        t = s.clone()
        upper = self._x is self._y and rows == columns
        ends = (
            np.ascontiguousarray(self._of_x[..., rows]),
            np.ascontiguousarray(self._of_y[..., columns]),
        )
        given = (s.numpy(), t.numpy(), *ends, self._leaks, self._scales, upper)
        in_parallel(dense_loops.through_layers, pieces(len(x)), *given)
        return self._wanted(s, t)

    def diagonal(self) -> Tensor:
        """Return the kernels (kinds, n) of each x with itself, float64."""
        s = self._start(self._x)
        t = s.clone()
        for act, layer in self._plan.pairs:
            leak = act.parameter
            s, t = (1 + leak**2) / 2 * s, (1 + leak**2) / 2 * t
            weight, bias = _scale(layer)
            s = weight * s + bias
            t = s + weight * t
        return self._wanted(s, t)

    def _norms(self, x: Tensor) -> Array:
        """Return (layers, 2, n): roots of variances before each activation, and inverses."""
        found, variance = [], self._start(x)
        for act, layer in self._plan.pairs:
            found.append(with_inverses(variance.sqrt().numpy(), axis=0))
            weight, bias = _scale(layer)
            variance = weight * (1 + act.parameter**2) / 2 * variance + bias
        return np.stack(found)

    def _start(self, x: Tensor) -> Tensor:
        """Return the variances (n,) after the first layer."""
        weight, bias = _scale(self._plan.first, x.shape[1])
        return weight * x.double().square().sum(1) + bias

    @property
    def _leaks(self) -> Array:
        """Slopes below 0 (layers,)."""
        return np.array([act.parameter for act, _ in self._plan.pairs])

    @property
    def _scales(self) -> Array:
        """weight_std^2 and bias_std^2 of the layers after the activations (layers, 2)."""
        return np.array([_scale(layer) for _, layer in self._plan.pairs])

    def _wanted(self, s: Tensor, t: Tensor) -> Tensor:
        """Return the kinds of kernel that were asked for."""
        return torch.stack({"nngp": (s,), "ntk": (t,)}.get(self._kind, (s, t)))


def _scale(layer: Linear, features: int = 1) -> tuple[float, float]:
    """Return weight_std^2 over the features, and bias_std^2."""
    return float(layer.weight_std) ** 2 / features, float(layer.bias_std) ** 2
