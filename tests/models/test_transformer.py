from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.models import Cache, Transformer
from merkhet.models.transformer import FeedForward


def tokens(batch: int, length: int, vocab: int = 23) -> Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=[4, 2, 1])
def model(request: pytest.FixtureRequest) -> Transformer:
    network = Transformer(23, dim=32, layers=3, heads=4, kv_heads=request.param).double()
    # Weights of GPT-2's size would leave so small a network almost linear.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return network


def test_parameters_by_hand() -> None:
    network = Transformer(1000, dim=64, layers=3, heads=4, kv_heads=2, hidden=100)
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64
    block = attention + 3 * 64 * 100 + 2 * 64
    assert sum(p.numel() for p in network.parameters()) == 1000 * 64 + 3 * block + 64


@pytest.mark.parametrize(("dim", "hidden"), [(48, 128), (64, 176), (256, 688)])
def test_hidden_is_eight_thirds_in_steps_of_eight(dim: int, hidden: int) -> None:
    feed_forward = Transformer(5, dim=dim, layers=1, heads=2).layers[0].feed_forward
    assert feed_forward.up.out_features == hidden
    assert hidden % 8 == 0
    assert 0 <= hidden - 8 * dim / 3 < 8


def test_a_later_token_leaves_earlier_logits(model: Transformer) -> None:
    x = tokens(2, 9)
    changed = x.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 23
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-13)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(dim=(0, 2)).min() > 1e-6


def test_an_earlier_token_moves_every_later_logit(model: Transformer) -> None:
    x = tokens(1, 9)
    changed = x.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 23
    assert (model(x) - model(changed)).abs().amax(dim=(0, 2)).min() > 1e-6


@pytest.mark.parametrize("cut", [[1] * 9, [4, 5], [1, 7, 1], [9]])
def test_reading_in_pieces_is_reading_at_once(model: Transformer, cut: list[int]) -> None:
    x, cache = tokens(2, 9), Cache()
    pieces = [model(piece, cache) for piece in x.split(cut, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(x), rtol=0, atol=1e-12)
    assert (cache.length, cache.batch) == (9, 2)


def test_grouped_heads_are_full_heads_with_repeated_weights() -> None:
    grouped = Transformer(23, dim=32, layers=1, heads=4, kv_heads=2).double()
    full = Transformer(23, dim=32, layers=1, heads=4).double()
    state = grouped.state_dict()
    for name in ("layers.0.attention.key.weight", "layers.0.attention.value.weight"):
        state[name] = state[name].view(2, 8, 32).repeat_interleave(2, dim=0).view(32, 32)
    full.load_state_dict(state)
    torch.testing.assert_close(full(tokens(2, 6)), grouped(tokens(2, 6)))


def test_first_weights_are_gpt2s() -> None:
    network = Transformer(500, dim=128, layers=8, heads=4)
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            assert parameter.eq(1).all()
            continue
        residual = name.endswith(("output.weight", "down.weight"))
        wanted = 0.02 / math.sqrt(16) if residual else 0.02
        assert parameter.std().item() == pytest.approx(wanted, rel=0.03), name


def test_another_module_takes_a_feed_forwards_place(generator: torch.Generator) -> None:
    network = Transformer(23, dim=32, layers=2)
    assert isinstance(network.get_submodule("layers.1.feed_forward"), FeedForward)
    network.layers[1].feed_forward = nn.Sequential(nn.RMSNorm(32), nn.Linear(32, 32))
    nn.init.constant_(network.layers[1].feed_forward[0].weight, 3.0)
    kept = network.layers[1].feed_forward[1].weight.clone()
    network.reset_parameters(generator)
    assert network.layers[1].feed_forward[0].weight.eq(3).all()
    assert torch.equal(network.layers[1].feed_forward[1].weight, kept)
    network(tokens(2, 4)).sum().backward()
    assert network.layers[1].feed_forward[1].weight.grad.abs().sum() > 0


def test_embedding_is_the_output_layer() -> None:
    network = Transformer(23, dim=32, layers=1)
    assert [name for name in network.state_dict() if "layers" not in name] == [
        "embedding.weight",
        "norm.weight",
    ]
    with torch.no_grad():
        network.embedding.weight[7] *= 100
    assert network(torch.full((1, 1), 7)).argmax() == 7


def test_agrees_with_llama(model: Transformer) -> None:
    transformers = pytest.importorskip("transformers")
    own = model.state_dict()
    config = transformers.LlamaConfig(
        vocab_size=23,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=model.layers[0].attention.key.out_features // 8,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    llama = transformers.LlamaForCausalLM(config).double().eval()
    names = {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    }
    state = {"model.norm.weight": own["norm.weight"]}
    state |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), own["embedding.weight"])
    for i in range(3):
        for ours, theirs in names.items():
            state[f"model.layers.{i}.{theirs}.weight"] = own[f"layers.{i}.{ours}.weight"]
    llama.load_state_dict(state)
    # Llama takes cosines in float32 whatever the dtype.
    torch.testing.assert_close(model(tokens(2, 9)), llama(tokens(2, 9)).logits, rtol=0, atol=1e-5)


def test_greedy_generation_is_the_argmax_loop(model: Transformer) -> None:
    wanted = tokens(2, 3)
    for _ in range(6):
        best = model(wanted)[:, -1].argmax(dim=1, keepdim=True)
        wanted = torch.cat((wanted, best), dim=1)
    assert torch.equal(model.generate(tokens(2, 3), 6, temperature=0), wanted)
    assert torch.equal(model.generate(tokens(2, 3), 6, top_k=1), wanted)


def test_generation_follows_its_seed_and_nothing_else() -> None:
    network = Transformer(23, dim=32, layers=1)
    state = torch.random.get_rng_state()
    first = network.generate(tokens(4, 2), 12, generator=3)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(first, network.generate(tokens(4, 2), 12, generator=generator))
    assert not torch.equal(first, network.generate(tokens(4, 2), 12, generator=generator))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first[:, :2], tokens(4, 2))
    assert first.dtype == torch.int64


def test_generation_keeps_the_mode_and_no_graph() -> None:
    network = Transformer(23, dim=32, layers=1).train()
    assert not network.generate(tokens(1, 2), 2).requires_grad
    assert network.training


def test_bfloat16_is_near_float32() -> None:
    network = Transformer(23, dim=64, layers=2)
    exact = network(tokens(2, 9))
    rough = network.bfloat16()(tokens(2, 9))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 30}, "dim = 30 does not split into 4 heads .* multiple of 8"),
        ({"kv_heads": 3}, "kv_heads = 3 does not divide heads = 4"),
        ({"dim": "64"}, "dim = '64': give a whole number"),
        ({"heads": 0}, "heads = 0: give a whole number"),
        ({"hidden": -1}, "hidden = -1: give a whole number"),
        ({"rope_base": 0}, "rope_base = 0: give a positive number"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Transformer(23, **arguments)


def test_bad_tokens_are_refused() -> None:
    network = Transformer(23, dim=32, layers=1)
    for given in (torch.zeros(5, dtype=torch.int64), torch.zeros(2, 5)):
        with pytest.raises(InputError, match=r"whole numbers of shape \(batch, length\)"):
            network(given)
    with pytest.raises(InputError, match="give at least one token"):
        network.generate(tokens(1, 0), 2)
    with pytest.raises(InputError, match="max_new_tokens = 0"):
        network.generate(tokens(1, 1), 0)


def test_cache_of_another_batch_is_refused() -> None:
    network, cache = Transformer(23, dim=32, layers=1), Cache()
    assert (cache.length, cache.batch) == (0, None)
    network(tokens(2, 3), cache)
    with pytest.raises(InputError, match=r"holds 2 texts and the tokens 3: start a new Cache"):
        network(tokens(3, 1), cache)
