"""Blocks that a user writes come out of a mixture as they are: folded only where that is exact."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from merkhet.cnmm import CNMM, MixtureStage, extract, recalibrated
from merkhet.cnmm.extraction.folding import folded
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating

NODES = ((0, 1, 3),)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


class Inside(nn.Module):
    """Calls its sequences as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU())
        self.more = nn.ModuleList([nn.Sequential(conv(), nn.BatchNorm2d(3))])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) + self.more[0](x)


class StepByStep(nn.Module):
    """Calls the steps of a sequence one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), conv(), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body[1](x)
        return x + self.body[2](x)


class OnValues(StepByStep):
    """Chooses by values, where no tracer follows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else self.body(x)


class ByName(nn.Module):
    """Calls a norm with its argument's name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=x)


class Standardised(nn.Conv2d):
    """A convolution whose weight is centred before it is used."""

    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, centred / centred.norm(), self.bias, padding=1)


class NormAndReLU(nn.BatchNorm2d):
    """A batch norm with the activation in it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


def shared_activation() -> nn.Module:
    activation = nn.ReLU()
    return nn.Sequential(conv(), activation, conv(), activation)


def shared_convolution() -> nn.Module:
    same = conv()
    return nn.Sequential(same, nn.ReLU(), same, nn.BatchNorm2d(3), nn.ReLU(), same)


def tied() -> nn.Module:
    first, last = conv(), conv()
    last.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), last)


def pruned() -> nn.Module:
    block = nn.Sequential(conv(), nn.BatchNorm2d(3))
    prune.l1_unstructured(block[0], "weight", 0.5)
    with torch.no_grad():
        block(torch.rand(2, 3, 4, 4))  # leaves a weight that can be copied
    return block


def hooked(place: int | None) -> nn.Module:
    """Return a block one of whose steps, or the whole of it, gives 1 more."""
    block = nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU())
    part = block if place is None else block[place]
    part.register_forward_hook(lambda module, given, result: result + 1)
    return block


FOLDED: dict[str, Callable[[], nn.Module]] = {
    "inside": Inside,
    "nested": lambda: nn.Sequential(nn.Sequential(conv()), nn.Sequential(nn.BatchNorm2d(3))),
    "two norms": lambda: nn.Sequential(conv(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)),
    "no affine": lambda: nn.Sequential(conv(), nn.BatchNorm2d(3, affine=False), nn.ReLU()),
    "in place": lambda: nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU(inplace=True)),
    "shared activation": shared_activation,
    "shared convolution": shared_convolution,
    "tied": tied,
}
KEPT: dict[str, Callable[[], nn.Module]] = {
    "step by step": StepByStep,
    "on values": OnValues,
    "by name": ByName,
    "standardised": lambda: nn.Sequential(Standardised(3, 3, 3), nn.BatchNorm2d(3)),
    "norm and relu": lambda: nn.Sequential(conv(), NormAndReLU(3)),
    "pruned": pruned,
    "hook on conv": lambda: hooked(0),
    "hook on norm": lambda: hooked(1),
    "hook on relu": lambda: hooked(2),
    "hook on all": lambda: hooked(None),
    "norm first": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True), conv()),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 1), nn.BatchNorm2d(3)),
    "dropout": lambda: nn.Sequential(conv(), nn.Dropout(), nn.BatchNorm2d(3), nn.Dropout2d()),
    "instance": lambda: nn.Sequential(conv(), nn.InstanceNorm2d(3, track_running_stats=True)),
    "spectral": lambda: nn.Sequential(parametrizations.spectral_norm(conv()), nn.ReLU()),
    "hooked spectral": lambda: nn.Sequential(nn.utils.spectral_norm(conv()), nn.ReLU()),
}


@pytest.mark.parametrize("name", [*FOLDED, *KEPT])
def test_own_blocks_compute_what_they_did(name: str) -> None:
    make = (FOLDED | KEPT)[name]
    model = CNMM([MixtureStage(4, lambda i, j: make())], nn.Identity()).double().train()
    nn.init.normal_(model.parts()[0].logits)
    batches = [torch.randn(size, 3, 5, 5, dtype=torch.float64) for size in (4, 3)]
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for subset in (False, True):
        network = extract(model, NODES, batches, subset=subset)
        gates = model.subset(NODES) if subset else model.path(NODES)
        reference = recalibrated(model, gates, batches)
        with evaluating(reference):
            wanted = reference(batches[0], gates)
        # A few sums of 27 products.
        assert (network(batches[0]) - wanted).abs().max() <= 1e-12 * wanted.abs().max()
        norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
        assert not norms or name in KEPT
    assert model.training
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_fold_is_rounded_once() -> None:
    block = nn.Sequential(conv(), nn.BatchNorm2d(3)).eval()
    for tensor in (block[1].running_mean, block[1].running_var, block[1].weight):
        nn.init.uniform_(tensor, 0.5, 2)
    block = block.bfloat16()
    exact = folded(copy.deepcopy(block).double())[0].state_dict()
    for key, value in folded(block)[0].state_dict().items():
        assert torch.equal(value, exact[key].bfloat16())


def test_what_is_lost_or_cannot_be_copied_is_refused() -> None:
    model = CNMM([MixtureStage(4, lambda i, j: conv())], nn.Identity())
    handle = model.parts()[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match=r"a hook on stage 0.*handle\.remove"):
        extract(model, NODES)
    handle.remove()
    extract(model, NODES)
    with pytest.warns(FutureWarning, match="weight_norm"):
        computed = CNMM([MixtureStage(4, lambda i, j: nn.utils.weight_norm(conv()))], conv())
    with pytest.raises(InputError, match=r"cannot be copied: .*parametrizations\.weight_norm"):
        extract(computed, NODES)


def test_in_inference_mode_it_can_be_trained_further() -> None:
    model = CNMM([MixtureStage(4, lambda i, j: hooked(2))], nn.Identity())
    with torch.inference_mode():
        network = extract(model, NODES, [torch.rand(4, 3, 5, 5)])
    network(torch.rand(2, 3, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
