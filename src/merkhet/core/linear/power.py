"""Spectral norms of linear operators by power iteration on a few vectors: from below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.building import as_generator
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.scaling import normalised, times_power_of_two, weights_of

ROUNDS, TOLERANCE = 200, 1e-10
BLOCKS = 12  # of vectors that are kept before the best of them start anew
REPEATS = 2  # rounds without gain that end the iteration


@torch.inference_mode(False)
def power_norm(
    chain: Chain,
    *,
    vectors: int = 2,
    rounds: int = ROUNDS,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> float:
    """Return an estimate of a chain's spectral norm, from below, in float64.

    Block power iteration that keeps its last powers: the largest singular value of A on the span
    of v, A^T A v, (A^T A)^2 v, ... (Rayleigh and Ritz; the block Lanczos method). It grows with
    every round, and is near where plain powers need hundreds of rounds.

    Args:
        chain: The operator.
        vectors: How many start; more converge faster where singular values lie close.
        rounds: The most rounds, each a product with A and one with its transpose.
        tolerance: Relative change of the norm at which the iteration ends.
        seed: Of the start.

    Raises:
        InputError: Weights that are complex, NaN or infinite.
    """
    chain, exponent = normalised(chain)
    generator = as_generator(seed)
    count = min(vectors, math.prod(chain.input_shape))
    start = torch.randn(count, *chain.input_shape, generator=generator, dtype=torch.float64)
    krylov = _Krylov(chain, _orthonormal(start).to(_device(chain)))
    values = [krylov.value]
    for _ in range(rounds):
        values.append(krylov.grow())
        before = values[max(0, len(values) - 1 - REPEATS)]
        if krylov.complete or values[-1] - before <= tolerance * values[-1]:
            break
    return times_power_of_two(values[-1], exponent)


class _Krylov:
    """Orthonormal vectors, what A makes of them, and the largest singular value on their span."""

    def __init__(self, chain: Chain, v: Tensor) -> None:
        self.chain, self.count, self.complete = chain, len(v), False
        answer, self.next = chain.apply_both(v)
        self.basis, self.answers = v.flatten(1), answer.flatten(1)
        self.value = self._ritz()[0]

    def grow(self) -> float:
        """Add the newest vectors times A^T A, and return the new value."""
        if len(self.basis) >= BLOCKS * self.count:
            self._restart()
        new = self._apart(self.next.flatten(1))
        if not len(new):
            self.complete = True
            return self.value
        answer, self.next = self.chain.apply_both(new.reshape(-1, *self.chain.input_shape))
        self.basis = torch.cat([self.basis, new])
        self.answers = torch.cat([self.answers, answer.flatten(1)])
        self.value = max(self.value, self._ritz()[0])
        return self.value

    def _apart(self, new: Tensor) -> Tensor:
        """Return orthonormal vectors that span what is new, without those that are not."""
        basis = self.basis
        for row in new:
            unit = row / row.norm().clamp_min(1e-300)
            for _ in range(3):  # a direction that was all rounding is spanned already, and shrinks
                left = unit - (unit @ basis.mT) @ basis
                kept = float(left.norm())
                unit = left / max(kept, 1e-300)
            if kept > 0.5:
                basis = torch.cat([basis, unit[None]])
        return basis[len(self.basis) :]

    def _ritz(self) -> tuple[float, Tensor]:
        """Return the largest singular value on the span, and coefficients of the best vectors."""
        values, vectors = torch.linalg.eigh(self.answers @ self.answers.mT)
        return math.sqrt(max(float(values[-1]), 0.0)), vectors.flip(1)[:, : self.count]

    def _restart(self) -> None:
        """Keep the best vectors alone."""
        best = self._ritz()[1].mT
        self.basis, self.answers = best @ self.basis, best @ self.answers
        shaped = self.answers.reshape(-1, *self.chain.output_shape)
        self.next = self.chain.transpose(shaped)


def power_step(chain: Chain, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return singular vectors nearer to the largest after one step, detached.

    One product with the operator and one with its transpose. <u_1, A v_1> is then at most the
    norm, at least what it was before, and, taken by `chain.apply`, has the gradient of the
    singular value in the weights.

    Args:
        chain: The operator; its weights are cast to the dtype of v.
        v: (k, *in), orthonormal; k = 1 is the power method, more a block with Rayleigh-Ritz.

    Returns:
        u (k, *out) and the new v (k, *in), unit vectors, orthonormal, the largest first. u is 0
        where A v is.
    """
    with torch.autocast(v.device.type, enabled=False):
        u, v, _ = _step(chain, v)
    return u, v


def _step(chain: Chain, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, the new v and the estimates (k,) that the old v gave."""
    with torch.enable_grad():
        start = v.detach().requires_grad_()
        answer = chain.apply(start)
    if len(v) == 1:
        size = answer.detach().norm()
        u = answer.detach() / size.clamp_min(torch.finfo(v.dtype).tiny)
        values = size.reshape(1)
    else:
        left, values, _ = torch.linalg.svd(answer.detach().flatten(1).mT, full_matrices=False)
        u = _filled(left.mT, len(v)).reshape(answer.shape)
    (back,) = torch.autograd.grad(answer, start, u)
    size = back.flatten(1).norm(dim=1).amax()
    return u, torch.where(size > 0, _orthonormal(back), v.detach()), values


def _filled(u: Tensor, count: int) -> Tensor:
    """Return u (r, n) with rows of zeros up to `count`: an operator has at most n outputs."""
    return torch.cat([u, u.new_zeros(count - len(u), u.shape[1])]) if len(u) < count else u


def _orthonormal(v: Tensor) -> Tensor:
    """Return an orthonormal basis (k, *in) of what v (k, *in) spans, the first direction kept."""
    if len(v) == 1:
        unit: Tensor = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
        return unit
    q, r = torch.linalg.qr(v.flatten(1).mT)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)  # so that <u_1, A v_1> is positive
    basis: Tensor = (q * signs).mT.reshape(v.shape)
    return basis


def _device(chain: Chain) -> torch.device:
    """Return where the chain's weights are."""
    found = (weights_of(step) for step in chain.steps)
    return next((pair[1].device for pair in found if pair), torch.device("cpu"))
