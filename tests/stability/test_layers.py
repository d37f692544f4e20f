"""Reading representations: modes, hooks, devices and errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.stability import Layer
from merkhet.stability.layers import device_of, reading


class Forked(nn.Module):
    """A network with a mapping for an output, a layer never run and one that turns its axes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.unused = nn.Linear(3, 3)
        self.flipped = nn.Identity()
        self.body[1].eval()  # a submodule whose mode differs from its parent's

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        logits = self.body(inputs)
        self.flipped(logits.T)
        return {"aside": torch.zeros(5), "logits": logits}


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_layers_are_read_in_evaluation_mode_and_without_gradients() -> None:
    network, inputs = Forked().train(), torch.randn(5, 3)
    network.body[1].eval()
    before = modes(network)
    with reading(network, ("body.0", "body.1", "")) as reader:
        found = reader(inputs)
        assert not any(modes(network))
    assert modes(network) == before
    assert hooks(network) == 0
    assert torch.equal(found["body.0"], found["body.1"])  # dropout is off
    assert found[""].shape == (5, 2)
    assert not found[""].requires_grad


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("unused", "layer 'unused' was not run"),
        ("flipped", r"layer 'flipped' has shape \(2, 5\) for 5 inputs"),
        ("body.3", "Did you mean 'body"),
    ],
)
def test_layers_that_cannot_be_read_are_refused_and_the_network_left_alone(
    path: str, message: str
) -> None:
    network = Forked().train()
    before = modes(network)
    with pytest.raises(InputError, match=message), reading(network, (path,)) as reader:
        reader(torch.randn(5, 3))
    assert modes(network) == before
    assert hooks(network) == 0


def test_a_failing_network_is_left_as_it_was() -> None:
    network = Forked().train()
    before = modes(network)
    with pytest.raises(RuntimeError), reading(network, ("body.0",)) as reader:
        reader(torch.randn(5, 4))  # 4 features instead of 3
    assert modes(network) == before
    assert hooks(network) == 0
    assert torch.is_grad_enabled()


def test_a_later_in_place_activation_does_not_change_what_was_read() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True))
    with reading(network, ("0", "1")) as reader:
        found = reader(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    assert found["0"].min() < 0
    assert found["1"].min() == 0


def test_callables_layers_and_modules() -> None:
    network, inputs = Forked(), torch.randn(5, 3)
    with reading(Layer(network, "body.0")) as reader:
        assert reader.paths == ("body.0",)
        assert reader(inputs)["body.0"].shape == (5, 4)
    with reading(lambda x: {"out": x * 2}, preprocess=lambda x: x + 1) as reader:
        assert torch.equal(reader(inputs)[""], (inputs + 1) * 2)
    with (
        pytest.raises(InputError, match="the output has shape"),
        reading(lambda x: x.sum()) as reader,
    ):
        reader(inputs)


def test_inputs_go_where_the_network_is() -> None:
    seen = []

    class Ghost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1, device="meta"))

        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.device.type)
            return inputs

    assert device_of(nn.ReLU()) is None
    with reading(Ghost()) as reader:
        reader(torch.randn(2, 3))
    assert seen == ["meta"]
