"""Nystrom's approximation: exact with all landmarks, from below with fewer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.kernels.eigen import decompose
from merkhet.kernels.gaussian_process import posterior
from merkhet.kernels.gradient_flow import gradient_flow
from merkhet.kernels.nystrom import draw_landmarks, nystrom
from merkhet.kernels.ridge import leave_one_out, ridge_coefficients

sys.path.insert(0, str(Path(__file__).parent))
from given_kernels import given

CLOSE = {"rtol": 1e-8, "atol": 1e-8}  # the condition number, below 1e4, enters twice


def whole(basis):
    return basis.vectors * basis.values @ basis.vectors.T


def test_with_all_landmarks_it_is_exact() -> None:
    kernels = given()
    kernel, cross, y = kernels.train.ntk, kernels.cross.ntk, kernels.targets
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    near, exact = nystrom(kernel[:, order], kernel[order][:, order]), decompose(kernel)
    torch.testing.assert_close(near.values, exact.values, **CLOSE)
    torch.testing.assert_close(whole(near), kernel, **CLOSE)
    own = kernels.new.ntk.diag()
    for found, wanted in zip(
        posterior(near, cross[:, order], own, y, 0.1),
        posterior(exact, cross, own, y, 0.1),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, **CLOSE)
    for found, wanted in zip(
        leave_one_out(near, y, [0.01, 1.0]), leave_one_out(exact, y, [0.01, 1.0]), strict=True
    ):
        torch.testing.assert_close(found, wanted, **CLOSE)
    torch.testing.assert_close(
        gradient_flow(near, cross[:, order], y), gradient_flow(exact, cross, y), **CLOSE
    )


def test_it_is_the_papers_formula_and_never_above_the_kernel() -> None:
    """K - C W^-1 C^T is a Schur complement: positive, 0 at the landmarks, falling with them."""
    kernel = given().train.ntk
    left = []
    for count in (2, 5, 9):
        columns, among = kernel[:, :count], kernel[:count, :count]
        near = whole(nystrom(columns, among))
        wanted = columns @ torch.linalg.solve(among, columns.T)
        torch.testing.assert_close(near, wanted, **CLOSE)
        torch.testing.assert_close(near[:count], kernel[:count], **CLOSE)
        rest = kernel - near
        assert torch.linalg.eigvalsh((rest + rest.T) / 2)[0] > -1e-8
        left.append(float(rest.trace()))
    assert left[0] > left[1] > left[2] > 0


def test_coefficients_are_of_the_landmarks_and_predict() -> None:
    kernels = given()
    kernel, y = kernels.train.ntk, kernels.targets
    basis = nystrom(kernel[:, :4], kernel[:4, :4])
    found = ridge_coefficients(basis, y, 0.1)
    assert found.shape == (4, 2)
    # The normal equations in the landmarks' span: (C^T C + ridge W) b = C^T y.
    columns = kernel[:, :4]
    wanted = torch.linalg.solve(columns.T @ columns + 0.1 * kernel[:4, :4], columns.T @ y)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_equal_landmarks_change_nothing() -> None:
    kernel, y = given().train.ntk, given().targets
    once, twice = [0, 1, 2, 3], [0, 1, 2, 3, 3]
    found, wanted = (
        kernel[:, places]
        @ ridge_coefficients(nystrom(kernel[:, places], kernel[places][:, places]), y, 0.1)
        for places in (twice, once)
    )
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_the_variance_is_the_priors_off_the_landmarks_span() -> None:
    """Deterministic training conditionals (Quinonero-Candela & Rasmussen, JMLR 2005)."""
    kernels = given()
    kernel, cross, own = kernels.train.nngp, kernels.cross.nngp, kernels.new.nngp.diag()
    near = nystrom(kernel[:, :4], kernel[:4, :4])
    found = posterior(near, cross[:, :4], own, kernels.targets, 1e-9).variance
    among = torch.linalg.solve(kernel[:4, :4], cross[:, :4].T)
    wanted = own - (cross[:, :4] * among.T).sum(1)  # what four values of the function leave
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_landmarks_are_drawn_by_seed_without_replacement() -> None:
    drawn = draw_landmarks(50, 20, 3)
    assert torch.equal(drawn, draw_landmarks(50, 20, torch.Generator().manual_seed(3)))
    assert not torch.equal(drawn, draw_landmarks(50, 20, 4))
    assert len(drawn.unique()) == 20
    assert torch.equal(drawn, drawn.sort().values)
    assert torch.equal(draw_landmarks(7, 7), torch.arange(7))


def test_what_does_not_fit_is_refused() -> None:
    for count in (0, 6):
        with pytest.raises(InputError, match="of 5 inputs: give a number from 1 to that"):
            draw_landmarks(5, count)
    with pytest.raises(InputError, match=r"cross has shape \(3, 3\): give \(m, 2\)"):
        nystrom(torch.ones(3, 3), torch.eye(2))
    with pytest.raises(InputError, match="0 everywhere"):
        nystrom(torch.zeros(3, 2), torch.zeros(2, 2))
