"""Ridge regression: leave-one-out in closed form against leaving each input out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.kernels.eigen import decompose
from merkhet.kernels.nystrom import nystrom
from merkhet.kernels.ridge import default_ridges, leave_one_out, ridge_coefficients

sys.path.insert(0, str(Path(__file__).parent))
from given_kernels import given

RIDGES = [0.0, 1e-3, 0.1, 10.0]
# The kernels' condition numbers stay below 1e4: solutions agree to 1e4 roundings and some.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def left_out(kernel, targets, ridge):
    """Refit without each input in turn."""
    found = []
    for place in range(len(kernel)):
        rest = torch.arange(len(kernel)) != place
        part = kernel[rest][:, rest] + ridge * torch.eye(len(kernel) - 1).double()
        found.append(kernel[place, rest] @ torch.linalg.solve(part, targets[rest]))
    return torch.stack(found)


@pytest.mark.parametrize("outputs", ["one", "two"])
def test_leave_one_out_is_refitting_without_each_input(outputs) -> None:
    kernels = given()
    targets = kernels.targets if outputs == "two" else kernels.targets[:, 0]
    found = leave_one_out(kernels.train.ntk, targets, RIDGES)
    assert found.predictions.shape == (len(RIDGES), *targets.shape)
    for place, ridge in enumerate(RIDGES):
        wanted = left_out(kernels.train.ntk, targets, ridge)
        torch.testing.assert_close(found.predictions[place], wanted, **CLOSE)
        torch.testing.assert_close(found.errors[place], (wanted - targets).square().mean(), **CLOSE)
    assert found.best == int(found.errors.argmin())


def test_leave_one_out_with_landmarks_is_refitting_with_their_features() -> None:
    kernel, targets = given().train.ntk, given().targets
    basis = nystrom(kernel[:, :4], kernel[:4, :4])
    near = basis.vectors * basis.values @ basis.vectors.T
    found = leave_one_out(basis, targets, RIDGES[1:])
    for place, ridge in enumerate(RIDGES[1:]):
        wanted = left_out(near, targets, ridge)
        torch.testing.assert_close(found.predictions[place], wanted, rtol=1e-9, atol=1e-9)


def test_coefficients_solve_the_system() -> None:
    kernel, targets = given().train.ntk, given().targets
    for ridge in RIDGES:
        found = ridge_coefficients(kernel, targets, ridge)
        torch.testing.assert_close(kernel @ found + ridge * found, targets, **CLOSE)
    assert ridge_coefficients(kernel, targets[:, 0], 0.1).shape == (12,)


def test_of_equal_errors_the_largest_ridge_is_taken() -> None:
    """Without a kernel between different inputs the others say nothing, at any ridge."""
    found = leave_one_out(torch.eye(4).double(), torch.ones(4), [0.1, 2.0, 1.0])
    torch.testing.assert_close(found.errors, torch.ones(3).double())
    assert found.best == 1


def test_the_default_ridges_scale_with_the_kernel() -> None:
    kernel = given().train.ntk
    ridges = torch.tensor(default_ridges(kernel)).double()
    mean = kernel.trace() / len(kernel)
    torch.testing.assert_close(ridges[[0, -1]], torch.stack([1e-6 * mean, 100 * mean]))
    torch.testing.assert_close(torch.tensor(default_ridges(3 * kernel)).double(), 3 * ridges)


def test_a_kernel_in_float32_is_solved_in_float64() -> None:
    kernel, targets = given().train.ntk, given().targets
    found = leave_one_out(kernel.float(), targets, 0.1).predictions
    wanted = leave_one_out(kernel.float().double(), targets, 0.1).predictions
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_equal_rows_are_refused_without_a_ridge_and_learned_with_one() -> None:
    kernel = given().train.ntk
    places = [0, 0, *range(1, 12)]
    twice, targets = kernel[places][:, places], given().targets[places]
    with pytest.raises(InputError, match=r"rank 12 over 13 inputs .*time=math.inf"):
        ridge_coefficients(twice, targets, 0.0)
    with pytest.raises(InputError, match="give a ridge above"):
        leave_one_out(twice, targets, [1e-18])
    found = leave_one_out(twice, targets, 1e-3)
    wanted = left_out(twice, targets, 1e-3)
    torch.testing.assert_close(found.predictions[0], wanted, rtol=1e-8, atol=1e-8)


KERNEL = torch.eye(3).double()
WRONG = [
    ((torch.ones(3, 2), torch.ones(3), 1.0), "give a square one"),
    ((torch.eye(3).long(), torch.ones(3), 1.0), "torch.int64; give torch.float32"),
    ((torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2), 1.0), "eigenvalue of -1"),
    ((torch.tensor([[1.0, 0.5], [0.2, 1.0]]), torch.ones(2), 1.0), "not symmetric"),
    ((KERNEL.clone().fill_(torch.nan), torch.ones(3), 1.0), "row 0 holds NaN"),
    ((KERNEL, torch.ones(4), 1.0), r"shape \(4,\): give \(3,\)"),
    ((KERNEL, torch.tensor([0.0, torch.nan, 0.0]), 1.0), "targets: row 1 holds NaN"),
    ((KERNEL, torch.ones(3), -1.0), "ridge -1: give a finite number from 0"),
    ((KERNEL, torch.ones(3), [0.1, torch.inf]), "ridge inf"),
    ((KERNEL, torch.ones(3), []), "no ridge"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_does_not_fit_is_refused(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        leave_one_out(*arguments)


def test_a_kernel_of_zeros_has_no_ridges() -> None:
    with pytest.raises(InputError, match="0 everywhere"):
        default_ridges(torch.zeros(3, 3))


def test_more_inputs_than_memory_holds_are_refused_before_the_work(monkeypatch) -> None:
    monkeypatch.setattr("merkhet.core.available.available_memory", lambda: 100)
    with pytest.raises(InputError, match="take landmarks"):
        decompose(KERNEL)
