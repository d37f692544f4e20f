"""What every network of the registry promises, in its variants."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet import models
from merkhet.models import registry


@dataclass(frozen=True)
class Case:
    name: str
    arguments: dict[str, Any]

    def build(self, **more: Any) -> nn.Module:
        return models.build(self.name, **self.arguments, **more)

    def inputs(self, batch: int = 4) -> Tensor:
        generator = torch.Generator().manual_seed(11)
        if self.name == "transformer":
            return torch.randint(13, (batch, 6), generator=generator)
        size = 16 if self.name == "small_cnn" else 32
        return torch.randn(batch, 3, size, size, generator=generator)

    def loss(self, network: nn.Module) -> Tensor:
        x = self.inputs()
        if self.name == "transformer":
            return F.cross_entropy(network(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        return F.cross_entropy(network(x), torch.arange(len(x)))

    def __str__(self) -> str:
        words = [str(value) for value in self.arguments.values() if isinstance(value, str)]
        return "-".join((self.name, *words))


SMALL: dict[str, dict[str, Any]] = {
    "small_cnn": {"in_channels": 3, "widths": (8, 16)},
    "vgg11": {"width": 0.125},
    "resnet18": {"width": 0.125},
    "transformer": {"vocab_size": 13, "dim": 32, "layers": 2, "kv_heads": 2},
}
PLAIN = [Case(name, SMALL[name]) for name in registry._NETWORKS]  # other packages test theirs
VARIANTS = PLAIN + [
    Case(name, {**SMALL[name], "norm": norm, "activation": activation})
    for name in ("small_cnn", "vgg11", "resnet18")
    for norm, activation in (("group", "gelu"), ("none", "relu"))
]
each = pytest.mark.parametrize("case", PLAIN, ids=str)
each_variant = pytest.mark.parametrize("case", VARIANTS, ids=str)


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@each_variant
def test_a_seed_decides_the_weights_and_nothing_global_moves(case: Case) -> None:
    state = torch.random.get_rng_state()
    network = case.build()
    assert same(network, case.build(seed=torch.Generator().manual_seed(0)))
    assert not same(network, case.build(seed=1))
    network.reset_parameters(torch.Generator().manual_seed(1))
    assert same(network, case.build(seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)


@each_variant
def test_reset_renews_every_weight_and_buffer(case: Case) -> None:
    network = case.build()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(77)
    network.reset_parameters(torch.Generator().manual_seed(0))
    assert same(network, case.build())


@each_variant
def test_gradient_reaches_every_parameter(case: Case) -> None:
    network = case.build()
    steps = torch.optim.SGD(network.parameters(), lr=0.05)
    # Two steps: without norms, a residual branch starts behind a zero.
    for _ in range(2):
        steps.step()
        steps.zero_grad()
        case.loss(network).backward()
    flat = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert flat == []


@each_variant
def test_loss_falls_in_twenty_steps(case: Case) -> None:
    network = case.build()
    steps = torch.optim.AdamW(network.parameters(), lr=3e-3)
    first = case.loss(network).item()
    for _ in range(20):
        steps.zero_grad()
        case.loss(network).backward()
        steps.step()
    assert case.loss(network).item() < 0.5 * first


@each_variant
def test_pictures_and_texts_do_not_see_each_other(case: Case) -> None:
    network = case.build().double().eval()
    x = case.inputs(3)
    x = x if case.name == "transformer" else x.double()
    with torch.no_grad():
        alone = torch.cat([network(x[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(network(x), alone)
        assert network(x[:0]).shape == alone[:0].shape


@each
def test_a_copy_is_equal_and_apart(case: Case) -> None:
    network = case.build().eval()
    clone = copy.deepcopy(network)
    assert torch.equal(network(case.inputs()), clone(case.inputs()))
    with torch.no_grad():
        next(clone.parameters()).add_(1)
    assert not same(network, clone)
    clone.load_state_dict(network.state_dict())
    assert same(network, clone)


@each
def test_training_mode_changes_outputs_only_through_batch_norm(case: Case) -> None:
    network = case.build()
    x = case.inputs()
    trained, evaluated = network.train()(x), network.eval()(x)
    assert torch.allclose(trained, evaluated) == (case.name == "transformer")


@each
def test_shapes_need_no_memory(case: Case) -> None:
    with torch.device("meta"):
        network = case.build()
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert network(case.inputs().to("meta")).shape[0] == 4


@each
def test_exports_with_a_free_batch(case: Case) -> None:
    network = case.build().eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(network, (case.inputs(),), dynamic_shapes=free, strict=False)
    x = case.inputs(7)
    torch.testing.assert_close(exported.module()(x), network(x))


@each
def test_compiles_into_one_graph(case: Case) -> None:
    network = case.build().eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(case.inputs()), network(case.inputs()))
    torch._dynamo.reset()
