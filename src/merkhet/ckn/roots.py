"""Inverse square roots of the kernel between filters, with gradients that stay finite.

Any R with R^T R = (k(W W^T) + ridge)^(-1) gives the same Nystrom kernel. They are computed in
float64, whatever the layer's own type: small eigenvalues decide.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROOTS = ("cholesky", "symmetric")


def inverse_root(gram: Tensor, root: str) -> Tensor:
    """Return R with R^T R the inverse of a positive definite matrix.

    Args:
        gram: (filters, filters), float64, its eigenvalues away from 0.
        root: "cholesky": the inverse of the Cholesky factor, lower triangular, the cheaper one;
            "symmetric": gram^(-1/2).

    Returns:
        (filters, filters). Gradients are finite also where eigenvalues are equal.
    """
    if root == "symmetric":
        return SymmetricRoot.apply(gram)[0]  # type: ignore[no-any-return, no-untyped-call]
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor: Tensor = torch.linalg.cholesky(gram)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse


class SymmetricRoot(torch.autograd.Function):
    """gram^(-1/2) by eigenvalues, its gradient without their differences.

    The derivative of a function f of a symmetric matrix is, in the basis of eigenvectors, the
    product with divided differences of f (Daleckii and Krein); for x^(-1/2) they are
    -1 / (sqrt(a b) (sqrt(a) + sqrt(b))), in which equal eigenvalues do no harm.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the root, the roots of the eigenvalues, and the eigenvectors."""
        values, vectors = torch.linalg.eigh(gram)
        roots = values.sqrt()
        return (vectors / roots) @ vectors.mT, roots, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs."""
        _, roots, vectors = output
        ctx.mark_non_differentiable(roots, vectors)
        ctx.save_for_backward(roots, vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of the matrix, (filters, filters)."""
        roots, vectors = ctx.saved_tensors
        gradient = gradients[0]
        a, b = roots[:, None], roots[None]
        inner = vectors.mT @ ((gradient + gradient.mT) / 2) @ vectors
        found: Tensor = vectors @ (-inner / (a * b * (a + b))) @ vectors.mT
        return found
