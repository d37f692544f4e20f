"""Training filters and a linear head together: steps of the head where its inputs are white.

The maps of a kernel network have components of very different variance, and the head that a convex
solve finds lives in the small ones as well. A gradient step in its own coordinates would only ever
move the large ones.

K classes, c filters, p positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW

FLOOR = 1e-2  # of the mean variance, added to that of each component


class WhitenedAdamW(AdamW):
    """AdamW for a representation and its head, the head's steps in other coordinates.

    With maps x (c, p) of mean m and S = (covariance of the filters + floor)^(-1/2) over all
    positions, scores w x + b are v S (x - m) + a: v = w S^-1 and a = b + w m are what is stepped.
    What the network computes, and its parameters, stay those of a plain linear layer.

    Args:
        representation: What has filters.
        head: From flattened maps (c p) to scores (K).
        maps: (n, c, *positions), representations of some inputs.
        rate: Learning rate of the filters.
        head_rate: Learning rate of v and a.
    """

    def __init__(
        self,
        representation: nn.Module,
        head: nn.Linear,
        maps: Tensor,
        rate: float,
        head_rate: float,
    ) -> None:
        filters = {"params": list(representation.parameters()), "lr": rate}
        super().__init__([filters, {"params": list(head.parameters()), "lr": head_rate}])
        for group in self.param_groups:
            group["weight_decay"] = 0.0
        self.head = head
        self.mean, self.whiten, self.restore = _whitening(maps)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make a step of the filters and of the head."""
        assert closure is None
        weight, bias = self.head.weight, self.head.bias
        self.mean, self.whiten, self.restore = (
            one.to(weight) for one in (self.mean, self.whiten, self.restore)
        )
        assert weight.grad is not None
        assert bias.grad is not None
        # b = a - v S m, so that the gradient by v has a part through b.
        through = bias.grad[:, None, None] * self.mean[:, None]
        weight.grad.copy_(self._times(weight.grad, self.whiten, -through))
        bias.add_(self._at_mean(weight))
        weight.copy_(self._times(weight, self.restore))
        super().step()
        weight.copy_(self._times(weight, self.whiten))
        bias.sub_(self._at_mean(weight))

    def _times(self, weight: Tensor, matrix: Tensor, more: Tensor | float = 0.0) -> Tensor:
        """Return weights (K, c p), and what is added to them (K, c, p), times a matrix (c, c)."""
        apart = weight.unflatten(1, (len(matrix), -1)) + more
        found: Tensor = (matrix @ apart).flatten(1)
        return found

    def _at_mean(self, weight: Tensor) -> Tensor:
        """Return w m, (K,)."""
        apart = weight.unflatten(1, (len(self.mean), -1))
        found: Tensor = apart.sum(2) @ self.mean
        return found


def _whitening(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (c,), S and its inverse (c, c), symmetric, of maps (n, c, *positions)."""
    rows = maps.double().movedim(1, -1).flatten(0, -2)
    mean = rows.mean(0)
    covariance = (rows - mean).mT @ (rows - mean) / len(rows)
    values, vectors = torch.linalg.eigh(covariance)
    spread = float(values.mean()) or 1.0  # maps that are all alike are left as they are, scaled
    roots = (values.clamp_min(0) + FLOOR * spread).sqrt()
    whiten, restore = (vectors / roots) @ vectors.mT, (vectors * roots) @ vectors.mT
    return mean.to(maps), whiten.to(maps), restore.to(maps)
