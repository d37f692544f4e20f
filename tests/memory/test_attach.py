from __future__ import annotations

import copy
import functools
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.memory import ProductKeyMemory, attach, parameter_groups
from merkhet.memory.attach import Beside
from merkhet.memory.networks import from_pretrained, save_pretrained
from merkhet.models import Transformer, find_target

SMALL = {"num_subkeys": 8, "num_heads": 2, "top_k": 4, "key_dim": 6}
TOKENS = torch.arange(24).view(2, 12) % 11


def network() -> Transformer:
    return Transformer(11, dim=16, layers=2, heads=2)


@pytest.mark.parametrize("training", [True, False])
def test_beside_a_layer_nothing_changes_before_training(training: bool) -> None:
    model = network().train(training)
    wanted = model(TOKENS)
    (memory,) = attach(model, ["layers.1.feed_forward"], **SMALL)
    assert isinstance(model.layers[1].feed_forward, Beside)
    assert memory.training == training
    assert torch.equal(model(TOKENS), wanted)
    model(TOKENS).square().mean().backward()
    assert float(memory.values.weight.grad.to_dense().abs().max()) > 0, "and it can learn"


def test_in_a_layers_place_it_is_the_layer() -> None:
    model = network()
    memories = attach(model, [f"layers.{i}.feed_forward" for i in (0, 1)], "replace", **SMALL)
    assert [model.layers[i].feed_forward for i in (0, 1)] == memories
    assert not torch.equal(memories[0].subkeys, memories[1].subkeys)
    assert model(TOKENS).shape == (2, 12, 11)
    assert len(parameter_groups(model)["values"]) == 2


def test_width_type_and_device_are_those_of_the_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6)).bfloat16()
    holder = nn.ModuleDict({"mlp": model})
    (memory,) = attach(holder, ["mlp"], **SMALL)
    assert memory.dim == 6
    assert memory.values.weight.dtype == torch.bfloat16
    with pytest.raises(InputError, match="give dim="):
        attach(nn.ModuleDict({"act": nn.ReLU()}), ["act"])
    (given,) = attach(nn.ModuleDict({"act": nn.ReLU()}), ["act"], dim=9, **SMALL)
    assert given.dim == 9


def test_wrong_names_say_what_there_is() -> None:
    with pytest.raises(InputError, match=r"Did you mean 'layers\.1\.feed_forward'"):
        attach(network(), ["layers.1.feedforward"])
    with pytest.raises(InputError, match="Did you mean 'beside'"):
        attach(network(), ["layers.1.feed_forward"], "besides")
    with pytest.raises(InputError, match="name a layer inside it"):
        attach(network(), [""])


def test_a_hugging_face_model_takes_memories_and_learns() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=11, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()
    wanted = model(TOKENS).logits
    (memory,) = attach(model, ["transformer.h.1.mlp"], **SMALL)
    assert memory.dim == 16
    assert torch.equal(model(TOKENS).logits, wanted)
    model.train()
    model(TOKENS, labels=TOKENS).loss.backward()
    assert memory.values.weight.grad.layout == torch.sparse_coo


def test_a_copy_of_a_network_has_memories_of_its_own() -> None:
    model = network()
    (memory,) = attach(model, ["layers.0.feed_forward"], "replace", **SMALL)
    other = copy.deepcopy(model)
    assert torch.equal(other(TOKENS), model(TOKENS))
    inside = other.layers[0].feed_forward
    assert isinstance(inside, ProductKeyMemory)
    assert inside.values.weight is not memory.values.weight


@pytest.mark.parametrize(("mode", "norm"), [("beside", "batch"), ("replace", None)])
def test_a_hugging_face_model_comes_back_from_its_folder(mode: str, norm, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=11, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    (memory,) = attach(model, ["transformer.h.1.mlp"], mode, query_norm=norm, **SMALL)
    memory.values.reset_parameters()
    model.train()(TOKENS)  # the batch norm has statistics
    model.eval()
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    assert again.lm_head.weight is again.transformer.wte.weight, "tied as before"
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-5])
    with pytest.raises(InputError, match="damaged"):
        from_pretrained(tmp_path)
    (tmp_path / "memories.json").write_text("[{}]")
    with pytest.raises(InputError, match="holds no model with memories"):
        from_pretrained(tmp_path)


def test_a_model_without_memories_is_not_saved_as_one(tmp_path) -> None:
    with pytest.raises(InputError, match="needs memories"):
        save_pretrained(nn.Linear(2, 2), tmp_path)


def test_the_example_with_hugging_faces_trainer_goes_on_as_if_never_stopped(
    text: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples/hugging_face_trainer.py"))
    main = functools.partial(example["main"], batch=4, text=str(text), vocabulary=300)
    whole = main(tmp_path / "whole", steps=4)
    main(tmp_path / "parts", steps=2)
    parts = main(tmp_path / "parts", steps=4)
    assert parts == pytest.approx(whole, rel=1e-6)  # the moments of the values came back too
    assert whole < math.log(300)


def test_a_table_that_is_shared_stays_as_it_is() -> None:
    model = network()
    (first,) = attach(model, ["layers.0.feed_forward"], "replace", **SMALL)
    values, wanted = first.values.weight.detach().clone(), first(torch.ones(2, 3, 16))
    model.layers[1].feed_forward.double()
    (second,) = attach(model, ["layers.1.feed_forward"], "replace", **SMALL, values=first.values)
    assert second.values is first.values
    assert second.subkeys.dtype == torch.float64
    assert torch.equal(first.values.weight, values)
    assert torch.equal(first(torch.ones(2, 3, 16)), wanted)
    with pytest.raises(InputError, match="would change the outputs"):
        attach(network(), ["layers.0.feed_forward"], "beside", **SMALL, values=first.values)


def test_nothing_is_attached_where_something_is_wrong() -> None:
    model = network()
    before = [name for name, _ in model.named_modules()]
    for layers, options, words in (
        ("layers.0.feed_forward", {}, "list of paths"),
        (["layers.0.feed_forward", "layers.9"], {}, "no layer"),
        (["layers.0.feed_forward"], {"subkeys": 4}, "num_subkeys"),
        (["layers.0.feed_forward"], {"values": torch.ones(2)}, "another memory's"),
    ):
        with pytest.raises(InputError, match=words):
            attach(model, layers, "replace", **options)
    assert [name for name, _ in model.named_modules()] == before


def small_gpt2():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=11, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


def test_memories_beside_memories_come_back_in_their_data_types(tmp_path: Path) -> None:
    model, path = small_gpt2(), "transformer.h.1.mlp"
    for mode in ("replace", "beside", "beside"):
        for memory in attach(model, [path], mode, **SMALL):
            memory.values.reset_parameters()
    attach(model, ["transformer.h.0.mlp"], **SMALL)[0].values.bfloat16()
    model.transformer.h[1].bfloat16()
    save_pretrained(model.eval(), tmp_path)
    again = from_pretrained(tmp_path)
    assert again.lm_head.weight is again.transformer.wte.weight
    types = {name: tensor.dtype for name, tensor in model.named_parameters()}
    assert {name: tensor.dtype for name, tensor in again.named_parameters()} == types
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_saved_model_with_a_memory_is_audited(tmp_path: Path) -> None:
    model = small_gpt2()
    attach(model, ["transformer.h.1.mlp"], **SMALL)
    save_pretrained(model, tmp_path)
    target = find_target(str(tmp_path))
    assert target.module.transformer.h[1].mlp.memory.values.slots == 64


def test_a_folder_that_lacks_a_file_says_what_wrote_such_folders(tmp_path: Path) -> None:
    model = small_gpt2()
    attach(model, ["transformer.h.1.mlp"], **SMALL)
    save_pretrained(model, tmp_path)
    for name in ("model.safetensors", "memories.json"):
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(InputError, match=rf"has no {name}: give a folder that merkhet"):
            from_pretrained(tmp_path)
        (tmp_path / "aside").rename(tmp_path / name)
