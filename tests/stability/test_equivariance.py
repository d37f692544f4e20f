"""Equivariance and invariance: exact where the architecture promises it, visible where not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.groups import circular_translations, cyclic, dihedral, reflections
from merkhet.stability import Layer, equivariance_error, invariance_error

ROUNDING = 1e-12


def pictures(side: int = 12, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, channels, side, side, generator=generator, dtype=torch.float64)


def worst(errors: dict) -> float:
    return max(error.value for error in errors.values())


def convolution(symmetric: bool) -> nn.Conv2d:
    layer = nn.Conv2d(1, 4, 5, padding=2, padding_mode="circular", bias=False).double()
    kernel = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    if symmetric:
        kernel = sum(torch.rot90(kernel, k, (-2, -1)) for k in range(4)) / 4
    layer.weight.data = kernel
    return layer


def test_a_symmetrised_convolution_commutes_with_turns_and_another_does_not() -> None:
    assert worst(equivariance_error(convolution(True), pictures(), cyclic(4))) < ROUNDING
    errors = equivariance_error(convolution(False), pictures(), cyclic(4))
    assert errors[0].value == 0
    assert min(errors[element].value for element in (1, 2, 3)) > 0.1
    assert errors[1].low < errors[1].value < errors[1].high
    # Kernels that turn onto themselves need not be their own mirror images (from 5x5 on).
    assert worst(equivariance_error(convolution(True), pictures(), dihedral(4))) > 0.1


def test_every_convolution_commutes_with_circular_translations() -> None:
    group = circular_translations((12, 12), step=6)
    assert worst(equivariance_error(convolution(False), pictures(), group)) < ROUNDING
    pooled = nn.Sequential(convolution(False), nn.MaxPool2d(2))
    assert worst(equivariance_error(pooled, pictures(), group)) < ROUNDING
    odd = circular_translations((12, 12), step=3)
    with pytest.raises(InputError, match="larger step"):
        equivariance_error(nn.MaxPool2d(2), pictures(), odd)
    assert worst(equivariance_error(F.relu, pictures(), odd)) == 0


def test_stride_two_breaks_turns_on_even_sides_only() -> None:
    def pool(x: Tensor) -> Tensor:
        line = torch.exp(-(torch.arange(-2.0, 3.0, dtype=torch.float64) ** 2) / 4)
        kernel = torch.outer(line, line)[None, None] / line.sum() ** 2
        return F.conv2d(x, kernel, stride=2, padding=2)

    def blurred(side: int) -> Tensor:
        return F.avg_pool2d(pictures(side + 4), 5, stride=1)

    assert worst(equivariance_error(pool, blurred(29), cyclic(4))) < ROUNDING
    assert equivariance_error(pool, blurred(28), cyclic(4))[1].value > 0.1


def test_group_maps_are_permuted() -> None:
    group = dihedral(4)
    kernel = torch.randn(3, 1, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    filters = torch.cat([group.act(kernel, element) for element in group.elements])

    def lift(x: Tensor) -> Tensor:
        return F.conv2d(x, filters, padding=1).unflatten(1, (group.order, 3)).relu()

    assert worst(equivariance_error(lift, pictures(), group)) < ROUNDING
    assert worst(invariance_error(lift, pictures(), group)) > 0.1
    # Pooling over the group and space is invariant, as the theory says.
    errors = invariance_error(lambda x: lift(x).mean((1, 3, 4)), pictures(), group)
    assert worst(errors) < ROUNDING
    assert set(errors) == set(group.elements)


def test_signals() -> None:
    signals = pictures()[:, 0]
    kernel = torch.tensor([[[1.0, 3.0, 1.0]]], dtype=torch.float64)

    def smooth(x: Tensor) -> Tensor:
        return F.conv1d(x, kernel, padding=1)

    one = signals[:, :1]
    assert worst(equivariance_error(smooth, one, reflections())) < ROUNDING
    assert worst(invariance_error(lambda x: x.sum(-1), one, circular_translations((12,)))) < 1e-9


def test_layers_preprocessing_and_batches() -> None:
    network = nn.Sequential(convolution(True), nn.Flatten(), nn.Linear(4 * 144, 2).double())
    for batch_size in (3, 64):
        errors = equivariance_error(
            Layer(network, "0"), pictures(), cyclic(4), batch_size=batch_size, preprocess=F.relu
        )
        assert worst(errors) < ROUNDING
    with pytest.raises(InputError, match=r"no maps for rotations.*use invariance_error"):
        equivariance_error(network, pictures(), cyclic(4))
    assert worst(invariance_error(network, pictures(), cyclic(4))) > 0.1


def test_inputs_without_a_representation() -> None:
    inputs = pictures()
    inputs[3] = 0
    assert worst(equivariance_error(F.relu, inputs, cyclic(4))) == 0
    with pytest.raises(InputError, match="0 on every input"):
        invariance_error(lambda x: 0 * x, inputs, reflections())
    inputs[3] = torch.inf
    with pytest.raises(InputError, match="infinite values on input 3"):
        invariance_error(F.relu, inputs, reflections())
