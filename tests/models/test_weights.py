from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from merkhet import models
from merkhet.core.errors import InputError
from merkhet.models.weights import load_weights, save_weights


class Tied(nn.Module):
    """Embedding and output layer share one weight; `part` is a view of another."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(6, 4)
        self.output = nn.Linear(4, 6, bias=False)
        self.embedding.weight.data = torch.randn(6, 4, generator=generator)
        self.output.weight = self.embedding.weight
        whole = torch.randn(8, generator=generator)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[2:5])
        self.register_buffer("turned", torch.randn(3, 2, generator=generator).T)
        self.register_buffer("steps", torch.tensor(seed))
        self.register_buffer("nothing", torch.empty(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run" / "weights.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip_is_exact(file: Path, dtype: torch.dtype) -> None:
    network = models.ResNet18(width=0.0625).to(dtype)
    network(torch.ones(2, 3, 8, 8, dtype=dtype))
    save_weights(network, file)
    again = models.ResNet18(width=0.0625, seed=1).to(dtype)
    load_weights(again, file)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_tied_tensors_are_written_once_and_stay_tied(file: Path) -> None:
    first, second = Tied(1), Tied(2)
    save_weights(first, file)
    assert sorted(load_file(file)) == [
        "embedding.weight",
        "nothing",
        "part",
        "steps",
        "turned",
        "whole",
    ]
    load_weights(second, file)
    assert second.output.weight is second.embedding.weight
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_either_name_of_a_tied_tensor_will_do(file: Path) -> None:
    save_weights(Tied(1), file)
    tensors = load_file(file)
    tensors["output.weight"] = tensors.pop("embedding.weight")
    save_file(tensors, file)
    network = Tied(2)
    load_weights(network, file)
    assert torch.equal(network.embedding.weight, Tied(1).embedding.weight)


def test_two_values_for_one_tied_tensor_are_refused(file: Path) -> None:
    save_weights(Tied(1), file)
    tensors = load_file(file)
    tensors["output.weight"] = tensors["embedding.weight"].clone()
    save_file(tensors, file)
    load_weights(Tied(2), file)
    tensors["output.weight"][0, 0] += 1
    save_file(tensors, file)
    with pytest.raises(
        InputError, match=r"tied in the network but not in the file: embedding\.wei"
    ):
        load_weights(Tied(2), file)


def test_transformer_round_trip_keeps_its_one_embedding(file: Path) -> None:
    first, second = (models.Transformer(9, dim=16, layers=1, heads=2, seed=s) for s in (0, 1))
    save_weights(first, file)
    load_weights(second, file)
    tokens = torch.arange(9)[None]
    assert torch.equal(first(tokens), second(tokens))


def test_misfits_are_named_in_one_line_and_nothing_is_loaded(file: Path) -> None:
    network = models.SmallCNN(widths=(4,))
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    del tensors["head.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["head.weight"] = torch.zeros(3, 16)
    tensors["features.0.weight"] += 1
    file.parent.mkdir()
    save_file(tensors, file)
    before = network.features[0].weight.clone()
    with pytest.raises(InputError) as caught:
        load_weights(network, file)
    message = str(caught.value)
    assert "\n" not in message
    assert "does not fit SmallCNN: missing: head.bias; unexpected: extra; " in message
    assert "head.weight is (3, 16) in the file and (10, 16) here" in message
    assert torch.equal(network.features[0].weight, before)


def test_many_misfits_are_counted(file: Path) -> None:
    save_weights(nn.Linear(2, 2), file)
    with pytest.raises(
        InputError, match=r"missing: .*, .*, .* and 5 more; unexpected: bias, weight"
    ):
        load_weights(models.SmallCNN(widths=(4,)), file)


def test_damaged_file_is_told(file: Path) -> None:
    save_weights(nn.Linear(2, 2), file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        load_weights(nn.Linear(2, 2), file)
    file.write_bytes(b"")
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        load_weights(nn.Linear(2, 2), file)


def test_absent_file_and_other_suffix(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=file.name):
        load_weights(nn.Linear(2, 2), file)
    for act in (load_weights, save_weights):
        with pytest.raises(InputError, match=r"name a file \*\.safetensors"):
            act(nn.Linear(2, 2), file.with_suffix(".pt"))


def test_failed_save_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(nn.Linear(2, 2), file)
    before = file.read_bytes()

    def fail(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("merkhet.models.weights.write_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(nn.Linear(2, 2), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_state_without_memory_is_refused(file: Path) -> None:
    with torch.device("meta"):
        network = nn.Linear(2, 2)
    with pytest.raises(InputError, match="weight of Linear holds no tensor with memory"):
        save_weights(network, file)
    save_weights(nn.Linear(2, 2), file)
    with pytest.raises(InputError, match="weight of Linear holds no tensor with memory"):
        load_weights(network, file)
