from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merkhet.core.errors import InputError
from merkhet.models import from_pretrained, load_weights, save_weights

transformers = pytest.importorskip("transformers")


def tiny_gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=31,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("hub") / "gpt2"
    network = tiny_gpt2()
    network.save_pretrained(folder)
    return network.eval(), folder


@pytest.fixture
def folder(saved: tuple[Any, Path], tmp_path: Path) -> Path:
    """A folder of the tests' own, with the saved network in it."""
    for file in saved[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_config(folder: Path, **entries: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def edit_weights(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(file).items()}
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


def test_gpt2_comes_back_whole_tied_and_in_eval_mode(saved: tuple[Any, Path]) -> None:
    network, folder = saved
    state = torch.random.get_rng_state()
    loaded = from_pretrained(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(loaded) is transformers.GPT2LMHeadModel
    assert not loaded.training
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    tokens = torch.arange(10)[None]
    assert torch.equal(network(tokens).logits, loaded(tokens).logits)


def test_vit_comes_back_in_the_dtype_it_was_kept(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    network = transformers.ViTForImageClassification(config).bfloat16().eval()
    network.save_pretrained(tmp_path / "vit")
    loaded = from_pretrained(str(tmp_path / "vit"))
    pictures = torch.ones(2, 3, 8, 8, dtype=torch.bfloat16)
    assert loaded(pictures).logits.dtype == torch.bfloat16
    assert torch.equal(network(pictures).logits, loaded(pictures).logits)


def test_own_weights_format_serves_these_networks_too(
    saved: tuple[Any, Path], tmp_path: Path
) -> None:
    save_weights(saved[0], tmp_path / "own.safetensors")
    other = tiny_gpt2().eval()
    load_weights(other, tmp_path / "own.safetensors")
    assert other.lm_head.weight is other.transformer.wte.weight
    tokens = torch.arange(10)[None]
    assert torch.equal(saved[0](tokens).logits, other(tokens).logits)
    # And transformers' own file, which leaves out the tied name.
    load_weights(other, saved[1] / "model.safetensors")


def test_pickles_of_tensors_load_and_of_code_do_not_run(
    saved: tuple[Any, Path], folder: Path
) -> None:
    (folder / "model.safetensors").unlink()
    pickled = folder / "pytorch_model.bin"
    torch.save(saved[0].state_dict(), pickled)
    tokens = torch.arange(10)[None]
    assert torch.equal(saved[0](tokens).logits, from_pretrained(folder)(tokens).logits)

    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (folder / "ran",)

    torch.save({"weight": Code()}, pickled)
    with pytest.raises(InputError, match=r"hold more than tensors, and are not run: convert them"):
        from_pretrained(folder)
    assert not (folder / "ran").exists()


def test_code_beside_the_weights_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: ...\n")
    edit_config(folder, architectures=["Evil"], auto_map={"AutoModelForCausalLM": "evil.Evil"})
    with pytest.raises(InputError, match=r"asks for 'Evil', which transformers .* does not have"):
        from_pretrained(folder)
    edit_config(folder, architectures=["GPT2LMHeadModel"])
    from_pretrained(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["AutoModel", "pipeline", "GPT2Config", "logging"])
def test_only_networks_of_transformers_are_taken(folder: Path, name: str) -> None:
    edit_config(folder, architectures=[name])
    with pytest.raises(InputError, match=f"asks for '{name}'"):
        from_pretrained(folder)


def test_folder_without_config(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"no config\.json in "):
            from_pretrained(folder)


def test_config_that_says_nothing(folder: Path) -> None:
    for architectures in (None, [], [3], "GPT2LMHeadModel"):
        edit_config(folder, architectures=architectures)
        with pytest.raises(InputError, match='names no class under "architectures"'):
            from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not JSON"):
        from_pretrained(folder)


def test_config_that_transformers_refuses(folder: Path) -> None:
    edit_config(folder, n_head="two")
    with pytest.raises(InputError, match=r"does not load as GPT2LMHeadModel: .*n_head") as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights in .*: it needs model\.safetensors"):
        from_pretrained(folder)


def test_a_missing_weight_is_never_made_up(folder: Path) -> None:
    edit_weights(folder, "transformer.h.0.ln_1.weight", None)
    message = (
        r"do not fill GPT2LMHeadModel: 1 missing, the first is transformer\.h\.0\.ln_1\.weight"
    )
    with pytest.raises(InputError, match=message):
        from_pretrained(folder)


def test_a_misshapen_weight_is_named(folder: Path) -> None:
    edit_weights(folder, "transformer.h.0.ln_1.weight", torch.zeros(3))
    with pytest.raises(InputError, match=r"1 of another shape, the first is transformer\.h\.0\.ln"):
        from_pretrained(folder)


def test_damaged_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="does not load as GPT2LMHeadModel: Error while deserial"):
        from_pretrained(folder)
