from __future__ import annotations

import copy
import io
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.memory import ProductKeyMemory, RowwiseAdam, ValueTable
from merkhet.training.clip import clip_gradients

sys.path.insert(0, str(Path(__file__).parent))
import reference

SLOTS, WIDTH = 12, 5


def sparse(rows: list[int], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return a sparse gradient of some rows."""
    values = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(seed))
    found = torch.sparse_coo_tensor(torch.tensor([rows]), values.to(dtype), (SLOTS, WIDTH))
    return found.coalesce()


def walk(steps: int, seed: int = 0) -> list[tuple[torch.Tensor, float]]:
    """Return gradients of random rows, of some rows only early, and learning rates that change."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for step in range(steps):
        rows = torch.randperm(SLOTS - 4, generator=generator)[:3].sort().values.tolist()
        rows += [SLOTS - 2] if step in (0, 1) else []
        found.append((sparse(rows, step), 0.01 * (1 + step % 7)))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
def test_caught_up_is_the_dense_optimiser(dtype: torch.dtype, betas: tuple[float, float]) -> None:
    table = ValueTable(SLOTS, WIDTH).to(dtype)
    optimiser = RowwiseAdam([table.weight], betas=betas, eps=1e-6, mode="caught_up")
    dense = reference.DenseRowwiseAdam(table.weight.detach(), betas, 1e-6)
    for gradient, lr in walk(700):
        optimiser.param_groups[0]["lr"] = lr
        table.weight.grad = gradient.to(dtype)
        optimiser.step()
        dense.step(gradient.to_dense(), lr)
    optimiser.flush()
    # Each of 700 steps moves a value by about 0.01 and rounds it once.
    bound = 1e-11 if dtype == torch.float64 else 700 * 2**-24
    assert float((table.weight.detach().double() - dense.table).abs().max()) < bound
    state = optimiser.state[table.weight]
    assert torch.allclose(state["momentum"].double(), dense.momentum, rtol=1e-4, atol=1e-7)
    assert torch.allclose(state["second"].double(), dense.second, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_are_caught_up_when_they_are_read(dtype: torch.dtype) -> None:
    table = ValueTable(SLOTS, WIDTH).to(dtype)
    optimiser = RowwiseAdam([table.weight], lr=0.05, mode="caught_up")
    dense = reference.DenseRowwiseAdam(table.weight.detach(), (0.9, 0.999), 1e-8)
    for gradient, _ in walk(30):
        table.weight.grad = gradient.to(dtype)
        optimiser.step()
        dense.step(gradient.to_dense(), 0.05)
    behind = table.weight.detach().double().clone()
    read = table(torch.tensor([[SLOTS - 2, 3, SLOTS - 2]]), torch.tensor([[1.0, 0.5, 0.25]]))
    wanted = 1.25 * dense.table[SLOTS - 2] + 0.5 * dense.table[3]
    assert torch.allclose(read[0].double(), wanted, atol=1e-6)
    assert float((behind[SLOTS - 2] - dense.table[SLOTS - 2]).abs().max()) > 1e-3
    assert torch.allclose(table.state_dict()["weight"].double(), dense.table, atol=1e-6)


def test_evaluation_brings_all_rows_up_to_date() -> None:
    table = ValueTable(SLOTS, WIDTH).double()
    optimiser = RowwiseAdam([table.weight], lr=0.05, mode="caught_up")
    dense = reference.DenseRowwiseAdam(table.weight.detach(), (0.9, 0.999), 1e-8)
    for gradient, _ in walk(9):
        table.weight.grad = gradient
        optimiser.step()
        dense.step(gradient.to_dense(), 0.05)
    nn.Sequential(table).eval()
    assert torch.allclose(table.weight.detach(), dense.table, rtol=0, atol=1e-13)
    before = table.weight.detach().clone()
    optimiser.flush()
    assert torch.equal(table.weight, before), "a second time there is nothing to do"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lazy_has_the_semantics_of_sparse_adam(dtype: torch.dtype) -> None:
    """With one column the mean of a row's squares is its square: SparseAdam itself."""
    one, other = (nn.Parameter(torch.ones(SLOTS, 1, dtype=dtype)) for _ in range(2))
    ours = RowwiseAdam([one], lr=0.05, betas=(0.8, 0.95))
    theirs = torch.optim.SparseAdam([other], lr=0.05, betas=(0.8, 0.95))
    for step in range(40):
        rows = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(step))[:4]
        values = torch.randn(4, 1, generator=torch.Generator().manual_seed(step)).to(dtype)
        for parameter, optimiser in ((one, ours), (other, theirs)):
            parameter.grad = torch.sparse_coo_tensor(rows[None], values, (SLOTS, 1))
            optimiser.step()
    assert torch.allclose(one, other, rtol=1e-12 if dtype == torch.float64 else 1e-5)


def test_only_rows_with_a_gradient_are_touched() -> None:
    table = ValueTable(SLOTS, WIDTH)
    before = table.weight.detach().clone()
    optimiser = RowwiseAdam([table.weight], lr=0.1)
    table.weight.grad = sparse([2, 7], 0, torch.float32)
    optimiser.step()
    moved = (table.weight.detach() != before).any(1).nonzero().flatten()
    assert moved.tolist() == [2, 7]
    state = optimiser.state[table.weight]
    assert state["second"].nonzero().flatten().tolist() == [2, 7]
    assert state["second"].shape == (SLOTS,)


def test_repeated_rows_are_summed_before_the_step() -> None:
    tables = [ValueTable(SLOTS, WIDTH) for _ in range(2)]
    values = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    for table, rows in zip(tables, ([5, 1, 5], None), strict=True):
        if rows is None:
            summed = torch.stack([values[1], values[0] + values[2]])
            found = torch.sparse_coo_tensor(torch.tensor([[1, 5]]), summed, (SLOTS, WIDTH))
        else:
            found = torch.sparse_coo_tensor(torch.tensor([rows]), values, (SLOTS, WIDTH))
        table.weight.grad = found
        RowwiseAdam([table.weight]).step()
    assert torch.allclose(tables[0].weight, tables[1].weight, atol=1e-7)


@pytest.mark.parametrize("mode", ["lazy", "caught_up"])
def test_a_checkpoint_goes_on_as_if_nothing_had_been(mode: str) -> None:
    def run(stop: int | None) -> torch.Tensor:
        table = ValueTable(SLOTS, WIDTH)
        optimiser = RowwiseAdam([table.weight], mode=mode)
        for step, (gradient, lr) in enumerate(walk(24)):
            if step == stop:
                file = io.BytesIO()
                torch.save({"table": table.state_dict(), "optimiser": optimiser.state_dict()}, file)
                file.seek(0)
                saved = torch.load(file, weights_only=True)
                table = ValueTable(SLOTS, WIDTH, seed=9)
                optimiser = RowwiseAdam([table.weight], lr=5.0, mode=mode)
                table.load_state_dict(saved["table"])
                optimiser.load_state_dict(saved["optimiser"])
            optimiser.param_groups[0]["lr"] = lr
            table.weight.grad = gradient.float()
            optimiser.step()
        return table.state_dict()["weight"]

    if mode == "lazy":
        assert torch.equal(run(None), run(11))
    else:  # saving brings rows up to date one step earlier: the same to rounding
        assert torch.allclose(run(None), run(11), atol=1e-5)


def test_the_state_of_another_table_is_refused() -> None:
    small, large = ValueTable(3, 2), ValueTable(4, 2)
    optimiser = RowwiseAdam([small.weight])
    small(torch.tensor([[1]]), torch.ones(1, 1)).sum().backward()
    optimiser.step()
    with pytest.raises(InputError, match=r"of shape \(3, 2\), not \(4, 2\)"):
        RowwiseAdam([large.weight]).load_state_dict(optimiser.state_dict())


def test_clipping_and_accumulation() -> None:
    whole, parts = (ProductKeyMemory(6, 8, 2, 4, 4, query_norm="layer") for _ in range(2))
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    whole(x).sum().backward()
    for part in x.split(5):
        parts(part).sum().backward()
    found = []
    for memory in (whole, parts):
        norm = clip_gradients(memory.parameters(), 0.5)
        RowwiseAdam([memory.values.weight]).step()
        found.append((norm, memory.values.weight.detach()))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


@pytest.mark.parametrize("mode", ["lazy", "caught_up"])
def test_bfloat16_is_rounded_to_the_right_mean(mode: str) -> None:
    """Steps of a thirtieth of an ulp: rounding to the nearest would lose every one of them."""
    count, steps = 4000, 60
    table = ValueTable(1, count)
    with torch.no_grad():
        table.weight.fill_(1.0)
    table = table.bfloat16()
    optimiser = RowwiseAdam([table.weight], lr=2.0**-12, mode=mode)  # an ulp below 1 is 2^-8
    for _ in range(steps):
        table.weight.grad = torch.sparse_coo_tensor(
            torch.tensor([[0]]), torch.ones(1, count).bfloat16(), (1, count)
        )
        optimiser.step()
    moved = 1 - table.weight.detach().float().mean().item()
    # Each entry rounds with a deviation below an ulp; 4000 of them, walks of 60 steps.
    assert abs(moved - steps * 2.0**-12) < 5 * 2.0**-8 * 60**0.5 / count**0.5
    assert optimiser.state[table.weight]["momentum"].dtype == torch.bfloat16
    assert optimiser.state[table.weight]["second"].dtype == torch.float32


def test_the_rounding_is_that_of_the_seed() -> None:
    found = []
    for seed in (0, 0, 1):
        table = ValueTable(SLOTS, WIDTH).bfloat16()
        optimiser = RowwiseAdam([table.weight], lr=1e-4, seed=seed)
        for step in range(5):
            table.weight.grad = sparse([1, 4], step, torch.bfloat16)
            optimiser.step()
        found.append(table.weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_is_no_sparse_gradient_of_a_table_is_refused() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    optimiser = RowwiseAdam([weight])
    weight.grad = torch.ones(3, 2)
    with pytest.raises(InputError, match="sparse by rows"):
        optimiser.step()
    with pytest.raises(InputError, match=r"not shape \(3,\)"):
        RowwiseAdam([nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"betas": (1.0, 0.9)},
        {"eps": 0.0},
        {"mode": "eager"},
        {"mode": "caught_up", "betas": (0.9, 0.8)},
    ],
)
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(InputError, match=r"give|choose|needs"):
        RowwiseAdam([nn.Parameter(torch.ones(3, 2))], **options)


def test_a_copied_table_is_not_kept_by_the_first_ones_optimiser() -> None:
    table = ValueTable(SLOTS, WIDTH)
    optimiser = RowwiseAdam([table.weight], lr=0.1, mode="caught_up")
    table.weight.grad = sparse([1], 0, torch.float32)
    optimiser.step()
    table.weight.grad = sparse([2], 1, torch.float32)
    optimiser.step()
    other = copy.deepcopy(table)
    before = other.weight.detach().clone()
    other.eval()
    assert torch.equal(other.weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_table_that_two_layers_read_is_caught_up_between_them(dtype: torch.dtype) -> None:
    table = ValueTable(SLOTS, WIDTH).to(dtype)
    optimiser = RowwiseAdam([table.weight], lr=0.05, mode="caught_up")
    for gradient, _ in walk(5):
        table.weight.grad = gradient.to(dtype)
        optimiser.step()
        optimiser.zero_grad()
    ones = torch.ones(1, 2, dtype=dtype)
    first = table(torch.tensor([[0, 1]]), ones)
    second = table(torch.tensor([[1, SLOTS - 2]]), ones)
    (first + second).sum().backward()
    wanted = torch.zeros(SLOTS, dtype=dtype).index_add_(
        0, torch.tensor([0, 1, 1, SLOTS - 2]), torch.ones(4, dtype=dtype)
    )
    assert torch.equal(table.weight.grad.to_dense(), wanted[:, None].expand(-1, WIDTH))
