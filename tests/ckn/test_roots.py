"""Inverse roots: their definition, their gradients, and equal eigenvalues."""

from __future__ import annotations

import pytest
import torch

from merkhet.ckn.roots import ROOTS, inverse_root


def positive(size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, size + 2, generator=generator, dtype=torch.float64)
    return x @ x.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("root", ROOTS)
def test_it_is_a_root_of_the_inverse(root: str) -> None:
    gram = positive(8)
    found = inverse_root(gram, root)
    assert torch.allclose(found.T @ found @ gram, torch.eye(8).double(), atol=1e-12)
    if root == "symmetric":
        assert torch.allclose(found, found.T, atol=1e-14)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("equal", [False, True])
def test_gradients_are_those_of_differences(root: str, equal: bool) -> None:
    gram = torch.eye(5).double() if equal else positive(5)
    half = gram.detach().clone().requires_grad_()

    def of(matrix: torch.Tensor) -> torch.Tensor:
        return inverse_root((matrix + matrix.T) / 2, root)

    assert torch.autograd.gradcheck(of, half, atol=1e-6)


def test_torchs_own_gradient_by_eigenvectors_is_not_finite_at_equal_eigenvalues() -> None:
    # What the divided differences are for: this is the derivative that they replace.
    gram = torch.eye(3).double().requires_grad_()
    values, vectors = torch.linalg.eigh(gram)
    ((vectors * values.rsqrt()) @ vectors.T)[0, 1].backward()
    assert gram.grad is not None
    assert not bool(gram.grad.isfinite().all())
