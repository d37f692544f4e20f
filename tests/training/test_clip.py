from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.training.clip import clip_gradients


def with_gradients(shapes: list[tuple[int, ...]], seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def sparse_and_dense(seed: int = 0) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return parameters with a sparse gradient that has duplicates, and their dense twins."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor([[0, 3, 3, 1, 3]])
    values = torch.randn(5, 4, generator=generator)
    sparse, dense = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(6, 4))
    sparse.grad = torch.sparse_coo_tensor(rows, values, (6, 4), is_coalesced=False)
    dense.grad = sparse.grad.to_dense()
    other = torch.randn(3, generator=generator)
    pairs = [sparse, nn.Parameter(torch.zeros(3))], [dense, nn.Parameter(torch.zeros(3))]
    for parameters in pairs:
        parameters[1].grad = other.clone()
    return pairs


@settings(max_examples=30, deadline=None)
@given(max_norm=st.floats(0.01, 20), seed=st.integers(0, 1000))
def test_dense_gradients_end_as_torch_would_leave_them(max_norm: float, seed: int) -> None:
    shapes: list[tuple[int, ...]] = [(3,), (2, 5), (4, 1, 2)]
    ours, theirs = with_gradients(shapes, seed), with_gradients(shapes, seed)
    norm = clip_gradients(ours, max_norm)
    assert norm == nn.utils.clip_grad_norm_(theirs, max_norm)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


@settings(max_examples=30, deadline=None)
@given(max_norm=st.floats(0.01, 20), seed=st.integers(0, 1000))
def test_sparse_gradients_equal_their_dense_form(max_norm: float, seed: int) -> None:
    sparse, dense = sparse_and_dense(seed)
    norm = clip_gradients(sparse, max_norm)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(dense, max_norm))
    for one, other in zip(sparse, dense, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.to_dense(), other.grad)


def test_duplicates_that_cancel_have_no_norm() -> None:
    parameter = nn.Parameter(torch.zeros(2, 1))
    values = torch.tensor([[5.0], [-5.0]])
    parameter.grad = torch.sparse_coo_tensor(torch.tensor([[0, 0]]), values, (2, 1))
    assert clip_gradients([parameter], 1.0) == 0


def test_the_norm_after_clipping_is_the_largest_allowed() -> None:
    parameters = with_gradients([(100,), (7, 7)])
    assert clip_gradients(parameters, 0.5) > 0.5
    assert clip_gradients(parameters, 1.0).item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_told_and_changes_nothing(bad: float) -> None:
    parameters = with_gradients([(3,), (2,)])
    assert parameters[0].grad is not None
    parameters[0].grad[1] = bad
    before = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    assert not clip_gradients(parameters, 1e-3).isfinite()
    for parameter, gradient in zip(parameters, before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, equal_nan=True)


def test_parameters_without_gradient_count_as_zero() -> None:
    parameters: list[Tensor] = [nn.Parameter(torch.ones(2))]
    assert clip_gradients(parameters, 1.0) == 0


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(max_norm: float) -> None:
    with pytest.raises(InputError, match="max_norm"):
        clip_gradients([], max_norm)
