from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merkhet.memory import cpu, plain
from merkhet.memory.retrieval import retrieve

sys.path.insert(0, str(Path(__file__).parent))
import reference

SHAPES = [(7, 3, 5, 1, 2), (4, 2, 8, 8, 3), (5, 4, 33, 32, 4), (3, 1, 16, 7, 6), (2, 2, 64, 64, 5)]


def drawn(tokens: int, heads: int, keys: int, width: int, seed: int = 0, whole: bool = False):
    generator = torch.Generator().manual_seed(seed)
    shapes = (tokens, heads, 2, width), (heads, 2, keys, width)
    if whole:
        return [torch.randint(-2, 3, shape, generator=generator).double() for shape in shapes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(("tokens", "heads", "keys", "top_k", "width"), SHAPES)
def test_retrieval_is_brute_force_over_all_keys(tokens, heads, keys, top_k, width) -> None:
    queries, subkeys = drawn(tokens, heads, keys, width)
    indices, weights = plain.select(queries, subkeys, top_k)
    scores, slots = reference.brute_force(queries, subkeys, top_k)
    assert torch.equal(indices, slots)
    assert torch.allclose(weights, scores.softmax(-1), rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_have_the_scores_of_brute_force_whatever_k(data) -> None:
    keys = data.draw(st.integers(1, 20))
    top_k = data.draw(st.integers(1, keys))
    seed = data.draw(st.integers(0, 10**6))
    queries, subkeys = drawn(3, 2, keys, 2, seed, whole=True)
    scores, _ = reference.brute_force(queries, subkeys, top_k)
    slow, fast = (
        form.select(queries.to(kind), subkeys.to(kind), top_k)
        for form, kind in ((plain, torch.float64), (cpu, torch.float32))
    )
    assert torch.equal(slow[0], fast[0]), "ties go the same way on both paths"
    for indices, weights in (slow, fast):
        left, right = indices // keys, indices % keys
        found = torch.einsum("thcd,hcnd->cthn", queries, subkeys)
        got = found[0].gather(-1, left) + found[1].gather(-1, right)
        assert torch.equal(got, scores), "whole numbers: exactly the k largest, in order"
        assert all(len(set(row.tolist())) == top_k for row in indices.flatten(0, 1))
        assert torch.allclose(weights.double(), scores.softmax(-1), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(("tokens", "heads", "keys", "top_k", "width"), SHAPES)
def test_the_fast_path_is_the_plain_one(tokens, heads, keys, top_k, width) -> None:
    queries, subkeys = (part.float() for part in drawn(tokens, heads, keys, width, 1))
    slow, fast = plain.select(queries, subkeys, top_k), cpu.select(queries, subkeys, top_k)
    assert torch.equal(slow[0], fast[0])
    # Scores differ by the rounding of width products; a softmax turns that into relative error.
    assert torch.allclose(slow[1], fast[1], rtol=1e-5, atol=1e-30)


def test_many_tokens_go_through_in_blocks() -> None:
    queries, subkeys = (part.float() for part in drawn(2 * cpu.BLOCK + 3, 1, 6, 2))
    slow, fast = plain.select(queries, subkeys, 3), cpu.select(queries, subkeys, 3)
    assert torch.equal(slow[0], fast[0])


def test_no_token_is_no_slot() -> None:
    queries, subkeys = (part.float() for part in drawn(0, 2, 6, 2))
    indices, weights = retrieve(queries.flatten(-2), subkeys, 3)
    assert indices.shape == weights.shape == (0, 2, 3)


@pytest.mark.parametrize("top_k", [1, 3, 6])
def test_gradients_are_those_of_finite_differences(top_k: int) -> None:
    queries, subkeys = (part.requires_grad_() for part in drawn(4, 2, 6, 2, 3))
    assert torch.autograd.gradcheck(
        lambda q, k: retrieve(q.flatten(-2), k, top_k)[1], (queries, subkeys)
    )


@pytest.mark.parametrize(("tokens", "heads", "keys", "top_k", "width"), SHAPES)
def test_the_fast_gradients_are_the_plain_ones(tokens, heads, keys, top_k, width) -> None:
    double = [part.requires_grad_() for part in drawn(tokens, heads, keys, width, 4)]
    single = [part.detach().float().requires_grad_() for part in double]
    upstream = torch.randn(tokens, heads, top_k, dtype=torch.float64)
    for given_, kind in ((double, torch.float64), (single, torch.float32)):
        weights = retrieve(given_[0].flatten(-2), given_[1], top_k)[1]
        weights.backward(upstream.to(kind))
    for exact, fast in zip(double, single, strict=True):
        scale = exact.grad.abs().max() + 1e-12
        assert ((exact.grad - fast.grad.double()).abs().max() / scale) < 2e-5


def test_scores_are_float32_at_least_under_autocast_too() -> None:
    queries, subkeys = (part.float() for part in drawn(50, 2, 16, 8))
    wanted, _ = retrieve(queries.flatten(-2), subkeys, 4)
    with torch.autocast("cpu", torch.bfloat16):
        indices, weights = retrieve(queries.flatten(-2), subkeys, 4)
    assert torch.equal(indices, wanted)
    assert weights.dtype == torch.float32
    half, _ = retrieve(queries.bfloat16().flatten(-2), subkeys.bfloat16(), 4)
    rounded, _ = retrieve(queries.bfloat16().float().flatten(-2), subkeys.bfloat16().float(), 4)
    assert torch.equal(half, rounded)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_never_leads_outside_the_table(bad: float) -> None:
    queries, subkeys = (part.float() for part in drawn(5, 2, 16, 4))
    queries[2] = bad
    subkeys[1, 0, 3] = bad
    indices, weights = retrieve(queries.flatten(-2), subkeys, 4)
    assert 0 <= int(indices.min()) <= int(indices.max()) < 16**2
    assert not bool(weights[2].isfinite().all())
    assert bool(weights[0, 0].isfinite().all())


def test_the_result_does_not_depend_on_the_threads() -> None:
    queries, subkeys = (part.float() for part in drawn(297, 3, 20, 4))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            given_ = [part.clone().requires_grad_() for part in (queries, subkeys)]
            indices, weights = retrieve(given_[0].flatten(-2), given_[1], 5)
            weights.square().sum().backward()
            found.append((indices, weights.detach(), given_[0].grad, given_[1].grad))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
