from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.memory import ProductKeyMemory, RowwiseAdam, ValueTable, parameter_groups

sys.path.insert(0, str(Path(__file__).parent))
import reference

SMALL = {"num_subkeys": 8, "num_heads": 2, "top_k": 4, "key_dim": 6}
NORMS = ["batch", "layer", "rms", None]


def made(dim: int = 10, **options) -> ProductKeyMemory:
    return ProductKeyMemory(dim, **{**SMALL, **options})


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_papers_layer(norm: str | None) -> None:
    """The whole layer in float64, by hand: queries, all keys scored, softmax, weighted sum."""
    memory, x = made(query_norm=norm).double(), tokens(5, 7, 10).double()
    flat = x.view(-1, 10) @ memory.to_query.weight.T + memory.to_query.bias
    heads = flat.view(-1, 2, 6)
    if norm == "batch":
        centred = flat - flat.mean(0)
        heads = (centred / (flat.var(0, correction=0) + 1e-5).sqrt()).view(-1, 2, 6)
    if norm == "layer":
        centred = heads - heads.mean(-1, keepdim=True)
        heads = centred / (heads.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    if norm == "rms":
        heads = heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    scores, slots = reference.brute_force(heads.view(-1, 2, 2, 3), memory.subkeys, 4)
    wanted = sum(
        (scores[:, head].softmax(-1)[..., None] * memory.values.weight[slots[:, head]]).sum(1)
        for head in range(2)
    )
    assert torch.allclose(memory(x).view(-1, 10), wanted, rtol=1e-10, atol=1e-12)
    assert torch.allclose(memory.query(x).view(-1, 2, 6), heads, rtol=1e-10, atol=1e-12)


def test_shapes_and_initialisation_are_the_papers() -> None:
    memory = ProductKeyMemory(16, num_subkeys=64, key_dim=32, top_k=8)
    assert memory.subkeys.shape == (4, 2, 64, 16)
    assert memory.values.weight.shape == (64**2, 16)
    assert 0.24 < float(memory.subkeys.detach().abs().max()) <= 0.25  # 1 / sqrt(32 / 2)
    assert abs(float(memory.values.weight.detach().std()) * 4 - 1) < 0.02
    indices, weights = memory.retrieve(tokens(3, 5, 16))
    assert indices.shape == weights.shape == (3, 5, 4, 8)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 5, 4))
    assert bool((weights[..., :-1] >= weights[..., 1:]).all())
    assert memory.query(tokens(3, 5, 16)).shape == (3, 5, 4, 32)


def test_the_fast_layer_is_the_exact_one() -> None:
    memory, x = made(48, num_subkeys=16, key_dim=16), tokens(64, 48)
    exact = copy.deepcopy(memory).double()
    fast, slow = memory(x), exact(x.double())
    assert torch.allclose(fast.double(), slow, rtol=1e-4, atol=1e-5)
    upstream = tokens(64, 48, seed=1)
    fast.backward(upstream)
    slow.backward(upstream.double())
    for name, parameter in memory.named_parameters():
        wanted = exact.get_parameter(name).grad
        assert parameter.grad is not None, name
        scale = float(wanted.to_dense().abs().max()) + 1e-9
        error = (parameter.grad.to_dense().double() - wanted.to_dense()).abs().max()
        # A bias before a batch norm has no gradient but rounding.
        assert float(error) < 1e-4 * max(scale, 0.1), name


def test_padding_changes_nothing_for_other_tokens_and_the_statistics() -> None:
    memory = made()
    x, mask = tokens(4, 6, 10), torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 4:], mask[3, 2:] = True, True
    alone = copy.deepcopy(memory)
    y = memory(x.masked_fill(mask[..., None], 1e3), padding_mask=mask)
    assert torch.allclose(y[~mask], alone(x[~mask]), atol=1e-6)
    assert torch.equal(y[mask], torch.zeros(6, 10))
    for one, other in zip(memory.buffers(), alone.buffers(), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-6)
    y.sum().backward()
    with pytest.raises(
        InputError, match=r"give a bool tensor of shape \(4, 6\), True where a token is pad"
    ):
        memory(x, padding_mask=mask[:2])


def test_options_project_gate_and_share() -> None:
    first = made(value_dim=5)
    assert first.values.weight.shape == (64, 5)
    assert first(tokens(3, 10)).shape == (3, 10)
    second = made(12, values=first.values, seed=1)
    assert second.values is first.values
    assert second.projection is not None
    gated, x = made(gated=True), tokens(7, 10)
    indices, weights = gated.eval().retrieve(x)
    read = gated.values(indices.flatten(-2), weights.flatten(-2))
    wanted = (read * nn.functional.silu(x @ gated.gate.weight.T)) @ gated.projection.weight.T
    assert torch.allclose(gated(x), wanted, atol=1e-6)


def test_one_table_in_two_layers_is_one_parameter_with_one_gradient() -> None:
    first = made()
    network = nn.Sequential(first, made(values=first.values, seed=1))
    groups = parameter_groups(network)
    assert [parameter.shape for parameter in groups["values"]] == [(64, 10)]
    assert len(groups["others"]) == 2 * 5
    network(tokens(9, 10)).sum().backward()
    assert first.values.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 9}, "top_k = 9: at most num_subkeys = 8"),
        ({"key_dim": 7}, "key_dim = 7: give an even number"),
        ({"num_heads": 0}, "num_heads = 0: give a whole number of at least 1"),
        ({"query_norm": "bach"}, "Did you mean 'batch'"),
        ({"values": ValueTable(60, 10)}, r"60 slots of width 10: this memory wants .* = 64"),
        ({"values": ValueTable(64, 5), "value_dim": 10}, "64 slots of width 5"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(options, words: str) -> None:
    with pytest.raises(InputError, match=words):
        made(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="the last length must be 10"):
        made()(tokens(3, 9))
    with pytest.raises(InputError, match="no variance of a single token"):
        made()(tokens(1, 10))
    assert made().eval()(tokens(1, 10)).shape == (1, 10)
    assert made(query_norm="layer")(tokens(1, 10)).shape == (1, 10)


@pytest.mark.parametrize("norm", NORMS)
def test_no_token_is_no_output(norm: str | None) -> None:
    memory = made(query_norm=norm)
    assert memory(tokens(0, 10)).shape == (0, 10)
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(memory(tokens(2, 3, 10), padding_mask=mask), torch.zeros(2, 3, 10))


def test_bfloat16_and_autocast() -> None:
    memory, x = made(32, num_subkeys=16).eval(), tokens(20, 32)
    wanted = memory(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(memory(x).float(), wanted, atol=0.1)
    half = copy.deepcopy(memory).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    half.train()(x.bfloat16()).sum().backward()
    assert half.values.weight.grad.dtype == torch.bfloat16


def test_a_module_built_on_meta_takes_no_memory() -> None:
    with torch.device("meta"):
        memory = ProductKeyMemory(1024, num_subkeys=4096)
    assert memory.values.weight.is_meta
    assert memory.values.slots == 2**24


def test_slots_beyond_32_bits_of_offset_are_read_rightly() -> None:
    """2**20 slots of width 2050: offsets go beyond 2**31; pages that are not touched cost none."""
    weight = torch.zeros(2**20 + 7, 2050)
    weight[-1] = 3.0
    from merkhet.memory import cpu

    sums = cpu.read(weight, torch.tensor([[2**20 + 6, 0]]), torch.tensor([[0.5, 1.0]]))
    assert torch.equal(sums, torch.full((1, 2050), 1.5))


def test_it_compiles_and_exports_as_plain_torch() -> None:
    memory, x = made().eval(), tokens(9, 10)
    wanted = memory(x)
    assert torch.allclose(torch.compile(memory, backend="eager")(x), wanted, atol=1e-6)
    program = torch.export.export(memory, (x,), strict=False)
    assert torch.allclose(program.module()(x), wanted, atol=1e-6)


def test_defaults_of_torch_that_change_do_not_matter() -> None:
    memory, x = ProductKeyMemory(8, 8, 2, 4, 4, query_norm="rms"), tokens(5, 8)
    optimiser = RowwiseAdam([memory.values.weight], mode="caught_up")
    wanted = memory(x)
    kept = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            found = memory(x)
            found.square().sum().backward()
            optimiser.step()
            optimiser.flush()
    finally:
        torch.set_default_dtype(kept)
    assert torch.equal(found, wanted)


def test_transforms_of_torch_func_go_through() -> None:
    memory, x = ProductKeyMemory(8, 8, 2, 4, 4, query_norm="rms"), tokens(6, 8)
    parameters = dict(memory.named_parameters())

    def loss(parameters, row):
        return torch.func.functional_call(memory, parameters, (row,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for place in range(len(x)):
        memory.zero_grad()
        loss(parameters, x[place]).backward()
        for name, parameter in parameters.items():
            wanted = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            assert torch.allclose(each[name][place], wanted, atol=1e-5), name
    moved = torch.func.jvp(memory, (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(moved, (memory(x + 1e-3) - memory(x - 1e-3)) / 2e-3, atol=1e-2)


def test_shapes_are_told_without_data() -> None:
    with torch.device("meta"):
        memory = ProductKeyMemory(8, 8, 2, 4, 4, value_dim=5, query_norm="rms")
        assert memory(torch.empty(3, 5, 8)).shape == (3, 5, 8)


def test_a_sub_key_that_is_not_a_number_shows() -> None:
    memory = ProductKeyMemory(8, 8, 2, 4, 4, query_norm="rms")
    with torch.no_grad():
        memory.subkeys[0, 0, 2] = torch.nan
    assert bool(memory(tokens(5, 8)).isnan().any())


def test_under_autocast_the_result_has_the_type_of_the_tokens() -> None:
    memory = ProductKeyMemory(8, 8, 2, 4, 4, value_dim=6, query_norm="rms", gated=True)
    mask = torch.tensor([False, True, False])
    with torch.autocast("cpu", torch.bfloat16):
        assert memory(tokens(3, 8)).dtype == torch.float32
        assert memory(tokens(3, 8), mask).dtype == torch.float32


@pytest.mark.parametrize("wrong", [4, -1, 10**12])
def test_an_index_that_is_not_of_a_slot_is_refused(wrong: int) -> None:
    with pytest.raises(InputError, match="the table has slots 0 to 3"):
        ValueTable(4, 3)(torch.tensor([[0, wrong]]), torch.ones(1, 2))
