from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.memory import ValueTable, cpu, plain

sys.path.insert(0, str(Path(__file__).parent))
import reference

GENERATOR = torch.Generator().manual_seed(0)


def accesses(kind: str, tokens: int, reads: int, slots: int) -> torch.Tensor:
    """Return indices (tokens, reads) drawn in some way."""
    if kind == "same":
        return torch.full((tokens, reads), slots - 1)
    if kind == "zipf":
        shares = 1 / torch.arange(1, slots + 1).double()
        drawn = torch.multinomial(shares, tokens * reads, replacement=True, generator=GENERATOR)
        return drawn.view(tokens, reads)
    return torch.randint(slots, (tokens, reads), generator=GENERATOR)


@pytest.mark.parametrize("kind", ["uniform", "zipf", "same"])
@pytest.mark.parametrize(
    ("tokens", "reads", "slots", "width"),
    [(6, 5, 20, 7), (1, 1, 1, 1), (40, 12, 9, 33), (3, 130, 400, 16), (200, 8, 5, 3)],
)
def test_reads_and_gradients_are_those_of_a_dense_matrix(
    kind: str, tokens: int, reads: int, slots: int, width: int
) -> None:
    table, indices = ValueTable(slots, width), accesses(kind, tokens, reads, slots)
    weights = torch.rand(tokens, reads, generator=GENERATOR, requires_grad=True)
    upstream = torch.randn(tokens, width, generator=GENERATOR)
    exact = [table.weight.detach().double(), weights.detach().double()]
    dense = reference.dense_read(exact[0].requires_grad_(), indices, exact[1].requires_grad_())
    dense.backward(upstream.double())
    sums = table(indices, weights)
    sums.backward(upstream)
    sparse = table.weight.grad
    assert sparse.layout == torch.sparse_coo
    assert torch.equal(sparse._indices()[0], indices.unique())
    # Sums of `hits` float32 products: hits * 2^-24 of the sum of their sizes.
    hits = int(indices.flatten().bincount().max())
    pairs = ((sums, dense), (sparse.to_dense(), exact[0].grad), (weights.grad, exact[1].grad))
    for fast, slow in pairs:
        scale = float(slow.detach().abs().max()) + 1e-6
        bound = 1e-6 * max(hits, reads, width)
        assert float((fast.detach().double() - slow).abs().max()) < bound * scale


def test_gradients_are_those_of_finite_differences() -> None:
    table = ValueTable(5, 3).double()
    indices = torch.randint(5, (4, 6), generator=GENERATOR)
    weights = torch.rand(4, 6, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: table(indices, w), (weights,))
    assert torch.autograd.gradcheck(
        lambda v: plain.read(v, indices, weights.detach()), (table.weight,)
    )
    table(indices, weights).square().sum().backward()
    values = table.weight.detach().clone().requires_grad_()
    plain.read(values, indices, weights.detach()).square().sum().backward()
    assert torch.allclose(table.weight.grad.to_dense(), values.grad, rtol=1e-12)


def test_bfloat16_values_are_summed_in_float32() -> None:
    table = ValueTable(50, 9).bfloat16()
    indices = torch.randint(50, (30, 40), generator=GENERATOR)
    weights = torch.rand(30, 40, generator=GENERATOR, requires_grad=True)
    sums = table(indices, weights)
    assert sums.dtype == torch.float32
    wanted = plain.read(table.weight.float(), indices, weights)
    assert torch.allclose(sums, wanted, rtol=1e-5, atol=1e-5)
    sums.sum().backward()
    assert table.weight.grad.dtype == torch.bfloat16
    exact = torch.zeros(50).index_add_(0, indices.flatten(), weights.detach().flatten())
    found = table.weight.grad.to_dense()
    assert torch.equal(found, exact[:, None].expand(-1, 9).bfloat16())


def test_any_leading_shape_and_none() -> None:
    table = ValueTable(9, 4)
    indices = torch.randint(9, (2, 3, 5), generator=GENERATOR)
    weights = torch.rand(2, 3, 5, generator=GENERATOR)
    flat = table(indices.view(6, 5), weights.view(6, 5))
    assert torch.equal(table(indices, weights).view(6, 4), flat)
    empty = table(indices[:0], weights[:0].requires_grad_())
    assert empty.shape == (0, 3, 4)
    empty.sum().backward()
    assert table.weight.grad._nnz() == 0


def test_two_reads_of_one_table_add_their_gradients() -> None:
    table = ValueTable(9, 4)
    indices = torch.randint(9, (2, 6, 5), generator=GENERATOR)
    weights = torch.rand(2, 6, 5, generator=GENERATOR)
    (table(indices[0], weights[0]) + 2 * table(indices[1], weights[1])).sum().backward()
    both = table.weight.grad.to_dense()
    table.weight.grad = None
    parts = []
    for place in range(2):
        table(indices[place], weights[place]).sum().backward()
        parts.append(table.weight.grad.to_dense())
        table.weight.grad = None
    assert torch.allclose(both, parts[0] + 2 * parts[1], rtol=1e-5)


def test_gradients_that_are_kept_are_not_written_into_again() -> None:
    table = ValueTable(64, 8)
    kept = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        indices = torch.randint(64, (10, 6), generator=generator)
        table(indices, torch.rand(10, 6, generator=generator)).sum().backward()
        kept.append((table.weight.grad, table.weight.grad.to_dense().clone()))
        table.weight.grad = None
    assert all(torch.equal(gradient.to_dense(), copied) for gradient, copied in kept)


def test_the_result_does_not_depend_on_the_threads() -> None:
    indices = accesses("zipf", 60, 40, 30)
    weights = torch.rand(60, 40, generator=GENERATOR)
    upstream = torch.randn(60, 11, generator=GENERATOR)
    values, threads, found = torch.randn(30, 11, generator=GENERATOR), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(
                (
                    cpu.read(values, indices, weights),
                    *(
                        part.clone()
                        for part in cpu.read_gradients(values, indices, weights, upstream)
                    ),
                )
            )
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_values_have_variance_one_over_their_width_and_a_seed() -> None:
    table = ValueTable(400, 64, seed=3)
    assert abs(table.weight.std().item() * 8 - 1) < 0.02
    assert torch.equal(table.weight, ValueTable(400, 64, seed=3).weight)
    assert not torch.equal(table.weight, ValueTable(400, 64, seed=4).weight)


def test_copies_and_pickles_are_tables_of_their_own() -> None:
    table = ValueTable(5, 3)
    for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert torch.equal(other.weight, table.weight)
        assert other.weight.data_ptr() != table.weight.data_ptr()


@pytest.mark.parametrize(("slots", "dim"), [(0, 3), (3, 0), (-1, 2)])
def test_a_table_without_rows_or_columns_is_refused(slots: int, dim: int) -> None:
    with pytest.raises(InputError, match="give numbers from 1 on"):
        ValueTable(slots, dim)
