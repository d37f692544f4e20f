"""Every exported nn.Module keeps a module's promises."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.ckn import HomogeneousConv2d, HomogeneousNetwork
from merkhet.cnmm import MixtureStage, cnmm_classifier
from merkhet.unit_prior import UnitPrior, regulariser

sys.path.insert(0, str(Path(__file__).parent))
import packages as house

# How to make each exported module (its arguments, or a function that makes it), and an input for
# it: a new module is added here, or the test below says so.
CASES = {
    "ckn.CKN": ({"in_channels": 2, "filters": (4, 5)}, torch.rand(2, 2, 12, 12)),
    "ckn.CKNLayer": ({"in_channels": 2, "filters": 4, "kernel_size": 3}, torch.rand(2, 2, 8, 8)),
    "ckn.GaussianPool2d": ({"scale": 2}, torch.rand(2, 3, 8, 8)),
    "ckn.HomogeneousConv2d": (
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3},
        torch.rand(2, 2, 8, 8),
    ),
    "ckn.HomogeneousNetwork": (
        lambda: HomogeneousNetwork(HomogeneousConv2d(1, 3, 3), HomogeneousConv2d(3, 2, 3)),
        torch.rand(2, 1, 8, 8),
    ),
    "cnmm.CNMM": (lambda: cnmm_classifier(1, 3, (4, 5), 3), torch.rand(2, 1, 8, 8)),
    "cnmm.MixtureStage": (
        lambda: MixtureStage(3, lambda i, j: nn.Identity()),
        torch.rand(2, 2, 8, 8),
    ),
    "memory.ProductKeyMemory": (
        {"dim": 10, "num_subkeys": 8, "num_heads": 2, "top_k": 4, "key_dim": 6},
        torch.rand(2, 3, 10),
    ),
    "memory.ValueTable": ({"slots": 6, "dim": 4}, (torch.arange(6).view(2, 3), torch.rand(2, 3))),
    "models.SmallCNN": ({"widths": (4, 8)}, torch.rand(2, 1, 12, 12)),
    "models.VGG11": ({"width": 0.125}, torch.rand(2, 3, 32, 32)),
    "models.ResNet18": ({"width": 0.125}, torch.rand(2, 3, 32, 32)),
    "unit_prior.Regulariser": (lambda: regulariser(UnitPrior((10, 10)), 2), torch.rand(2, 3)),
    "models.Transformer": ({"vocab_size": 11, "dim": 16, "layers": 1}, torch.arange(8)[None]),
}
FOUND = {
    f"{package}.{name}": found
    for package, name, found in house.public()
    if isinstance(found, type) and issubclass(found, nn.Module)
}


def test_every_exported_module_has_a_case() -> None:
    assert set(CASES) == set(FOUND)


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    arguments, example = CASES[name]
    given = example if isinstance(example, tuple) else (example,)
    module = FOUND[name](**arguments) if isinstance(arguments, dict) else arguments()
    return module.eval(), given


@pytest.mark.parametrize("name", CASES)
def test_copies_and_states_give_the_same_result(name: str) -> None:
    module, example = made(name)
    result = module(*example)
    assert torch.equal(copy.deepcopy(module)(*example), result)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh, _ = made(name)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh(*example), result)


@pytest.mark.parametrize("name", CASES)
def test_the_data_type_moves_with_the_module(name: str) -> None:
    module, example = made(name)
    double = module.double()
    given = [part.double() if part.is_floating_point() else part for part in example]
    assert double(*given).dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in double.parameters())


@pytest.mark.parametrize("name", CASES)
def test_building_leaves_the_global_generator_alone_and_is_the_same_twice(name: str) -> None:
    before = torch.get_rng_state()
    (one, example), (other, _) = made(name), made(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(*example), other(*example))


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter(name: str) -> None:
    module, example = made(name)
    if not list(module.parameters()):
        return
    module(*example).square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.to_dense().isfinite().all())


@pytest.mark.parametrize("name", CASES)
def test_it_exports(name: str) -> None:
    module, example = made(name)
    program = torch.export.export(module, example, strict=False)
    assert torch.allclose(program.module()(*example), module(*example), atol=1e-5)
