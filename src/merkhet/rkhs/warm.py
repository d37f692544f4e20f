"""Warm-started power iteration: singular vectors that follow weights while they are trained.

Each call makes one step from the vectors of the call before, as in Miyato et al., "Spectral
normalization for generative adversarial networks", ICLR 2018 (arXiv 1802.05957), section 3.1 and
appendix A, but with the layer's whole operator in the place of its reshaped weight.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.linear.steps import Sizes
from merkhet.rkhs.operations import Operation

FRESH_ROUNDS = 12  # steps from random vectors before their first use


@dataclass(frozen=True)
class Estimate:
    """One step of the power iteration.

    Attributes:
        norm: |A v|, (), from below: an estimate of the spectral norm |A|.
        direction: The gradient of <u, A v> by the weight at fixed u and v, of the weight's shape,
            or None if it was not asked for. <u, A v> is linear in the weight W, so that
            <direction, W> = <u, A v> = |A v|.
        vectors: (k, *in), the orthonormal vectors to go on from.
    """

    norm: Tensor
    direction: Tensor | None
    vectors: Tensor


def power_steps(
    found: Sequence[Operation],
    weights: Sequence[Tensor],
    vectors: Sequence[Tensor],
    *,
    directions: bool = True,
) -> list[Estimate]:
    """Make one step of block power iteration for several operations, in the vectors' dtypes.

    With A's best direction v in the span of the vectors and u = A v / |A v|, one pass through the
    operation and one back give |A v|, the next vectors A^T u, and the gradient by the weight. All
    passes back are one call of autograd, whose own cost is that of a small layer.

    Args:
        found: The operations.
        weights: Their weights; detached here.
        vectors: (k, *in) each, orthonormal.
        directions: Whether gradients by the weights are wanted, of those that require one.
    """
    wanted = [directions and weight.requires_grad for weight in weights]
    with torch.enable_grad(), torch.autocast(vectors[0].device.type, enabled=False):
        starts = [given.detach().requires_grad_() for given in vectors]
        leaves = [
            weight.detach().requires_grad_(want)
            for weight, want in zip(weights, wanted, strict=True)
        ]
        answers = [
            operation.apply(start, leaf)
            for operation, start, leaf in zip(found, starts, leaves, strict=True)
        ]
        best = [_best(answer.detach()) for answer in answers]
        backs, gradients = _back(answers, starts, leaves, best)
    return [
        Estimate(part.norm, gradient, _orthonormal(back, before))
        for part, gradient, back, before in zip(best, gradients, backs, vectors, strict=True)
    ]


class WarmVectors:
    """The vectors of one network's operations, by name.

    An operation whose vectors are absent, or have another shape, dtype or device, begins from
    random ones, of which the first estimate takes `FRESH_ROUNDS` steps. Weights that were
    replaced (`load_state_dict`) need no new beginning: vectors that fitted others are a start
    like any other, and a few calls bring them round.

    Args:
        count: Vectors for each operation, at most as many as its inputs have entries.
        seed: Of the first vectors; the same on every device.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._held: dict[str, Tensor] = {}

    def estimates(
        self,
        found: Sequence[Operation],
        weights: Sequence[Tensor],
        *,
        directions: bool = True,
    ) -> list[Estimate]:
        """Make one step for each operation from the vectors that are kept; keep the new ones.

        Args:
            found: The operations.
            weights: Their weights.
            directions: Whether gradients by the weights are wanted, of those that require one.
        """
        vectors = [self._vectors(*pair) for pair in zip(found, weights, strict=True)]
        steps = power_steps(found, weights, vectors, directions=directions)
        for operation, step in zip(found, steps, strict=True):
            self._held[operation.name] = step.vectors
        return steps

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the vectors, by the operation's name."""
        return {name: vectors.clone() for name, vectors in self._held.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from vectors that `state_dict` returned; those that do not fit are drawn anew.

        Raises:
            InputError: The state does not hold tensors by name.
        """
        if not all(isinstance(vectors, Tensor) for vectors in state.values()):
            raise InputError("these are no vectors: give what state_dict returned")
        self._held = {name: vectors.detach().clone() for name, vectors in state.items()}

    def _number(self, shape: Sizes) -> int:
        """Return how many vectors of a shape there are to be."""
        return min(self.count, math.prod(shape))

    def _vectors(self, operation: Operation, weight: Tensor) -> Tensor:
        """Return the vectors to go on from."""
        kept = self._held.get(operation.name)
        if kept is not None and self._fits(kept, operation, weight):
            return kept
        vectors = self._fresh(operation, weight)
        for _ in range(FRESH_ROUNDS):
            (step,) = power_steps([operation], [weight], [vectors], directions=False)
            vectors = step.vectors
        return vectors

    def _fits(self, vectors: Tensor, operation: Operation, weight: Tensor) -> bool:
        """Tell whether kept vectors are those of an operation."""
        return (
            vectors.shape == (self._number(operation.shape), *operation.shape)
            and vectors.dtype == weight.dtype
            and vectors.device == weight.device
        )

    def _fresh(self, operation: Operation, weight: Tensor) -> Tensor:
        """Return random orthonormal vectors, drawn on the CPU, the same for every dtype."""
        generator = torch.Generator().manual_seed(self.seed ^ zlib.crc32(operation.name.encode()))
        shape = (self._number(operation.shape), *operation.shape)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return _columns(drawn).to(weight)


class _Best(NamedTuple):
    """What an operation does on the span of some vectors.

    Attributes:
        norm: Its largest singular value on the span, ().
        units: Left singular vectors there, (k, *out), the largest first; zero where the value is.
        mixture: Coordinates (k,) of the first right singular vector; None for a single vector.
    """

    norm: Tensor
    units: Tensor
    mixture: Tensor | None


def _best(answers: Tensor) -> _Best:
    """Return the best that an operation does on the span of vectors, of A v_i, (k, *out)."""
    if len(answers) == 1:
        norm = torch.linalg.vector_norm(answers)
        return _Best(norm, answers / norm.clamp_min(_tiny(norm)), None)
    # Rayleigh-Ritz: the Gram matrix of A V has the squared singular values of A on the span.
    flat = answers.flatten(1)
    _, mixtures = torch.linalg.eigh(flat @ flat.mT)
    mixtures = mixtures.flip(1)
    mixed = mixtures.mT @ flat
    norms = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
    units = (mixed / norms.clamp_min(_tiny(norms))).view_as(answers)
    return _Best(norms[0, 0], units, mixtures[:, 0])


def _back(
    answers: list[Tensor], starts: list[Tensor], leaves: list[Tensor], best: list[_Best]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return A^T u for each operation, (k, *in), and the gradients of <u, A v> by the weights.

    A weight that requires no gradient has None.
    """
    units = [part.units for part in best]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if all(part.mixture is None for part in best):  # the same cotangents give both
        both = torch.autograd.grad(answers, [*starts, *wanted], units)
        backs, gradients = list(both[: len(starts)]), iter(both[len(starts) :])
    else:
        backs = list(torch.autograd.grad(answers, starts, units, retain_graph=bool(wanted)))
        mixed = [_cotangent(part) for part in best]
        gradients = iter(torch.autograd.grad(answers, wanted, mixed) if wanted else ())
    return backs, [next(gradients) if leaf.requires_grad else None for leaf in leaves]


def _cotangent(part: _Best) -> Tensor:
    """Return what takes answers A v_i to <u, A v>, v the best direction: (k, *out)."""
    if part.mixture is None:
        return part.units
    return part.mixture.view(-1, *[1] * (part.units.dim() - 1)) * part.units[0]


def _orthonormal(back: Tensor, before: Tensor) -> Tensor:
    """Return an orthonormal basis of what vectors became, or those before if nothing is left.

    Whether something is left is asked on the device, which nobody waits for.
    """
    norm = torch.linalg.vector_norm(back)
    usable = (norm > 0) & (norm < torch.inf)
    if len(back) == 1:
        return torch.where(usable, back / norm, before)
    return torch.where(usable, _columns(torch.where(usable, back / norm, before)), before)


def _columns(vectors: Tensor) -> Tensor:
    """Return orthonormal vectors (k, *in) with the span of the given ones, in their order."""
    basis: Tensor = torch.linalg.qr(vectors.flatten(1).mT)[0]
    return basis.mT.reshape(vectors.shape).contiguous()


def _tiny(norm: Tensor) -> float:
    """Return the least norm that one can divide by."""
    return torch.finfo(norm.dtype).tiny
