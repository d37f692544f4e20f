from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.models import SmallCNN, save_weights
from merkhet.models.target import find_target, normaliser

CODE = """
import torch
made = torch.nn.Linear(2, 3)
_hidden = 1
def build(width=2): return torch.nn.Linear(width, 1)
def wrong(): return 3
def raises(): raise RuntimeError("their own fault")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "their_networks.py"
    path.write_text(CODE)
    return path


def test_a_function_a_module_and_a_class_give_networks(code: Path, monkeypatch) -> None:
    monkeypatch.chdir(code.parent)
    assert find_target("their_networks:made").module.out_features == 3
    assert find_target(f"{code}:build", arguments={"width": 5}).module.in_features == 5
    target = find_target("merkhet.models:SmallCNN", arguments={"widths": [4]})
    assert isinstance(target.module, SmallCNN)
    assert target.name == "merkhet.models:SmallCNN"
    assert not target.module.training


def test_weights_are_loaded(tmp_path: Path) -> None:
    saved = SmallCNN(widths=(4,), seed=7)
    save_weights(saved, tmp_path / "w.safetensors")
    arguments = {"widths": [4]}
    found = find_target(
        "merkhet.models:SmallCNN", weights=tmp_path / "w.safetensors", arguments=arguments
    )
    assert torch.equal(found.module.head.weight, saved.head.weight)


def test_a_run_gives_its_network_and_its_data(tmp_path: Path) -> None:
    saved = SmallCNN(widths=(4,), seed=7)
    spec = {"model": {"name": "small_cnn", "arguments": {"widths": [4]}}, "data": "digits"}
    (tmp_path / "run.json").write_text(json.dumps({"about": {"spec": spec}}))
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        find_target(str(tmp_path))
    save_weights(saved, tmp_path / "model.safetensors")
    target = find_target(str(tmp_path))
    assert torch.equal(target.module.head.weight, saved.head.weight)
    assert target.data == "digits"
    (tmp_path / "run.json").write_text(json.dumps({"about": {"spec": {**spec, "data": 3}}}))
    with pytest.raises(InputError, match="data is 3, not a name"):
        find_target(str(tmp_path))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json"):
        find_target(str(tmp_path))


def test_a_hugging_face_folder_gives_its_network_and_normalisation(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    preparation = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preparation))
    target = find_target(str(tmp_path))
    assert target.normalise == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    for odd in ("{", "[1]", '{"do_normalize": true, "image_mean": "x", "image_std": 1}'):
        (tmp_path / "preprocessor_config.json").write_text(odd)
        with pytest.raises(InputError, match="does not say how pictures are normalised"):
            find_target(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "no network at 'nothing': give package.module:callable"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("no/such.py:f", "no file"),
        ("their_networks:biuld", "Did you mean 'build'"),
        ("their_networks:wrong", "gives a int, not a torch.nn.Module"),
        ("their_networks:_hidden", "cannot be called"),
        ("their_networks:raises", "their_networks:raises raised RuntimeError: their own fault"),
    ],
)
def test_bad_targets_say_what_to_give(code: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_target(text)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_library", "needs no_such_library, which is not installed"),
        ("def build(:", "raised SyntaxError"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_code_that_breaks_is_named(tmp_path: Path, code: str, words: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(InputError, match=words):
        find_target(f"{path}:build")


def test_wrong_arguments_show_the_right_ones(code: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--arguments"):
        find_target("their_networks:build", arguments={"depth": 5})
    with pytest.raises(InputError, match=r"neither run\.json nor config\.json"):
        find_target(str(tmp_path))


def test_normalisation_is_by_channel() -> None:
    pictures = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    prepare = normaliser((0.1, 0.2, 0.3), (1.0, 2.0, 4.0), 3)
    assert torch.allclose(prepare(pictures)[:, 2], (pictures[:, 2] - 0.3) / 4)
    with pytest.raises(InputError, match="--mean has 2 numbers for 3 channels"):
        normaliser((0.1, 0.2), (1.0,), 3)
    with pytest.raises(InputError, match="must be positive"):
        normaliser((0.0,), (0.0,), 3)
