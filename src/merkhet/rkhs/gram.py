"""The largest eigenvalue of many Hermitian matrices, bounded from above by Cholesky factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
SMALL = 32  # up to this side all eigenvalues of many matrices are as cheap as an iteration
MEDIUM = {torch.float64: 1024, torch.complex128: 128}  # the same, of one matrix that decides
VECTORS, ROUNDS, TRIALS, FEW = 4, 20, 40, 4
FIRST, GROWTH = 1e-10, 2.0  # how far above its estimate an eigenvalue is sought, and tried anew


class LargestEigenvalue:
    """A bound on the largest eigenvalue of all Hermitian matrices that were included.

    If the Cholesky factorisation of H = tau I - G in floating point runs to its end, then
    H + E is positive semidefinite with |E| <= gamma tr(H), whatever the order of the sums, and
    the largest eigenvalue of G is at most tau + gamma tr(H), tr(H) <= r tau. gamma is 4 (r + 3)
    eps here, which holds in complex arithmetic, too. No accuracy of an eigenvalue solver enters:
    estimates only say where to try. Matrices under the bound so far cost one factorisation.

    Attributes:
        bound: The certified bound so far, at least 0.

    Reference:
        Rump, "Verification of positive definiteness", BIT 46 (2006), theorem 2.3; Demmel, "On
        floating point errors in Cholesky", LAPACK working note 14 (1989).
    """

    def __init__(self) -> None:
        self.bound = 0.0
        self._tried = 0.0  # the tau that gave the bound

    def include(self, blocks: Tensor, limit: float = math.inf) -> bool:
        """Raise the bound to hold for more matrices, and return whether it does.

        Args:
            blocks: (n, r, r) Hermitian up to rounding, float64 or complex128; what rounding they
                carry themselves is for the caller to add. The lower triangle counts.
            limit: An eigenvalue from which on no bound is wanted.

        Returns:
            False if an eigenvalue reaches the limit: the bound does not hold for these matrices.
        """
        assert bool(torch.isfinite(blocks).all()), "weights are checked before"
        if blocks.shape[-1] == 1:
            self._raise(float(blocks.real.max()), 1)
            return self.bound < limit
        left = self._above(blocks, self._tried)
        while len(left):
            # Large entries promise large eigenvalues; the estimates of the few best decide.
            sizes = left.abs().square().flatten(1).sum(1)
            few = sizes.topk(min(FEW, len(left))).indices
            estimates, _ = _estimates(left[few], None)
            worst = int(few[estimates.argmax()])
            if float(estimates.max()) >= limit:
                return False
            self._certify(left[worst : worst + 1], float(estimates.max()))
            failed = _fails(left, self._tried)
            failed[worst] = False
            left = left[failed]
        return self.bound < limit

    def _certify(self, block: Tensor, estimate: float) -> None:
        """Find a tau just above the largest eigenvalue of one matrix (1, r, r)."""
        step, vectors = FIRST, None
        if block.shape[-1] <= MEDIUM[block.dtype]:
            estimate = float(torch.linalg.eigvalsh(block)[0, -1])
        for _ in range(TRIALS):
            tau = max(estimate, 0.0) * (1 + step)
            if tau > self._tried and not bool(_fails(block, tau)):
                self._raise(tau, block.shape[-1])
                return
            if block.shape[-1] > MEDIUM[block.dtype]:
                found, vectors = _estimates(block, vectors)
                estimate = max(estimate, float(found[0]))
            step *= GROWTH
        # An eigenvalue that no iteration found: the norm of Frobenius is above it in any case.
        self._raise(float(block.abs().square().sum().sqrt()) * (1 + 1e-12), block.shape[-1])

    def _above(self, blocks: Tensor, tau: float) -> Tensor:
        """Return the matrices that are not seen to lie under tau."""
        if tau == 0:
            return blocks[blocks.flatten(1).abs().amax(1) > 0]
        return blocks[_fails(blocks, tau)]

    def _raise(self, tau: float, side: int) -> None:
        """Take a larger tau into the bound."""
        self._tried = max(self._tried, tau)
        self.bound = max(self.bound, tau * (1 + 4 * (side + 3) * side * EPS))


def _fails(blocks: Tensor, tau: float) -> Tensor:
    """Return which of tau I - G have no Cholesky factor, (n,)."""
    shifted = -blocks
    shifted.diagonal(dim1=-2, dim2=-1).add_(tau)
    failed: Tensor = torch.linalg.cholesky_ex(shifted).info != 0
    return failed


def _estimates(blocks: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return estimates (n,) of the largest eigenvalues, from below, and where they came from."""
    count, side, _ = blocks.shape
    if side <= SMALL:
        return torch.linalg.eigvalsh(blocks)[:, -1], None
    if vectors is None:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(side, VECTORS, generator=generator, dtype=torch.float64)
        vectors = start.to(blocks).expand(count, -1, -1)
    for turn in range(ROUNDS):
        if turn % 4 == 0:  # the columns stay apart, and of size 1
            vectors = torch.linalg.qr(vectors).Q
        vectors = blocks @ vectors
    vectors = torch.linalg.qr(vectors).Q
    return torch.linalg.eigvalsh(vectors.mH @ blocks @ vectors)[:, -1], vectors
