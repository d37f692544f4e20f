from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.models import ResNet18
from merkhet.models.resnet import ResidualBlock


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def blocks(network: nn.Module) -> list[ResidualBlock]:
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


@pytest.fixture(scope="module")
def imagenet() -> ResNet18:
    return ResNet18(stem="imagenet", classes=1000)


def test_published_parameter_counts(imagenet: ResNet18) -> None:
    standard = ResNet18()
    assert count(standard) == 11_173_962
    assert count(imagenet) == 11_689_512
    assert count(ResNet18(norm="group")) == 11_173_962
    # Without a norm: one bias per channel where there were a scale and a shift.
    scales = sum(m.num_features for m in standard.modules() if isinstance(m, nn.BatchNorm2d))
    assert count(ResNet18(norm="none")) == 11_173_962 - scales


def test_names_and_shapes_are_torchvisions(imagenet: ResNet18) -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    wanted = ["conv1.weight", *(f"bn1.{name}" for name in norm)]
    for stage in range(1, 5):
        for block in range(2):
            path = f"layer{stage}.{block}"
            for index in (1, 2):
                wanted.append(f"{path}.conv{index}.weight")
                wanted += [f"{path}.bn{index}.{name}" for name in norm]
            if stage > 1 and block == 0:
                wanted.append(f"{path}.downsample.0.weight")
                wanted += [f"{path}.downsample.1.{name}" for name in norm]
    state = imagenet.state_dict()
    assert sorted(state) == sorted([*wanted, "fc.weight", "fc.bias"])
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer3.0.downsample.0.weight"].shape == (256, 128, 1, 1)


@pytest.mark.parametrize(("stem", "size", "left"), [("cifar", 32, 4), ("imagenet", 96, 3)])
def test_stages_halve_the_picture(stem: str, size: int, left: int) -> None:
    network = ResNet18(stem=stem, width=0.0625)
    seen: list[torch.Size] = []
    network.layer4.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 10)
    assert seen == [(2, 32, left, left)]


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (28, 28)])
def test_takes_every_size(size: tuple[int, int]) -> None:
    network = ResNet18(in_channels=1, width=0.0625).eval()
    assert network(torch.zeros(3, 1, *size)).shape == (3, 10)


def test_without_a_norm_a_block_starts_as_its_shortcut(generator: torch.Generator) -> None:
    network = ResNet18(norm="none", width=0.0625)
    assert len(blocks(network)) == 8
    for block in blocks(network):
        x = torch.randn(2, block.conv1.in_channels, 8, 8, generator=generator)
        assert torch.equal(block(x), block.act2(block.downsample(x)))
        assert block.conv1.weight.std() > 0


def test_with_a_norm_no_branch_starts_at_zero() -> None:
    assert all(block.conv2.weight.std() > 0 for block in blocks(ResNet18(width=0.0625)))


def test_gelu_takes_the_place_of_every_relu() -> None:
    kinds = {type(module) for module in ResNet18(activation="gelu", width=0.0625).modules()}
    assert nn.GELU in kinds
    assert nn.ReLU not in kinds


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="no stem 'cifar10': choose one of cifar, imagenet"):
        ResNet18(stem="cifar10")
    with pytest.raises(InputError, match=r"\(batch, 3, height, width\), not \(1, 1, 28, 28\)"):
        ResNet18(width=0.0625)(torch.zeros(1, 1, 28, 28))
