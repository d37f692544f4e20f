"""Networks commute with their group, and their end ignores it: to rounding, layer by layer."""

from __future__ import annotations

import pytest
import torch

from merkhet.ckn import CKN, CKNLayer, Form
from merkhet.ckn.frames import is_permutation, turned_patch
from merkhet.core.groups import Group, cyclic, dihedral, reflections

EXACT = [cyclic(2), cyclic(4), dihedral(4), reflections()]


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def forms(across: bool, patches: str = "raw", padding: str = "same") -> tuple[Form, Form]:
    first = Form(patches=patches, padding=padding)
    return first, Form(across=across, padding=padding)


@pytest.mark.parametrize("group", EXACT, ids=lambda group: group.name)
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("pooling", "side"), [((1, 2), 9), ((2, 3), 10), (((3, 2), 4), 11)])
def test_every_layer_commutes_with_the_group(group, across, pooling, side) -> None:
    network = CKN(1, (5, 6), 3, pooling, group=group, form=forms(across)).double()
    x = pictures(2, 1, side, side)
    for element in group.elements:
        maps, turned = x, group.act(x, element)
        for layer in network.layers:
            maps, turned = layer(maps), layer(turned)
            expected = group.act_on_maps(maps, element)
            assert float(((turned - expected).norm() / expected.norm()).detach()) < 1e-11


@pytest.mark.parametrize("group", EXACT, ids=lambda group: group.name)
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("patches", ["raw", "centred", "whitened"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_representation_ignores_the_group(group, across, patches, dtype) -> None:
    network = CKN(1, (16, 24), 3, (2, 3), group=group, form=forms(across, patches)).to(dtype)
    x = pictures(3, 1, 15, 15).to(dtype)
    network.fit_unsupervised(x, patches=1000, progress=False)
    # A few roundings of sums of some hundred terms, over the root of the ridge, 1e-2.
    most = 1e-11 if dtype == torch.float64 else 1e-5
    with torch.no_grad():
        found = network(x)
        for element in group.elements:
            moved = network(group.act(x, element))
            assert float((moved - found).norm() / found.norm()) < most


def test_a_network_without_the_group_does_move() -> None:
    x = pictures(2, 1, 12, 12)
    plain = CKN(1, (8, 8), 3, (2, 3)).double().requires_grad_(False)
    moved = plain(torch.rot90(x, 1, (2, 3)))
    assert float((moved - plain(x)).norm() / plain(x).norm()) > 0.01


def test_patches_that_stay_average_the_network_over_turned_pictures() -> None:
    group = cyclic(4)
    network = CKN(1, (6, 7), 3, (2, 2), group=group).double()
    plain = CKN(1, (6, 7), 3, (2, 2)).double()
    plain.load_state_dict(network.state_dict())
    x = pictures(2, 1, 12, 12)
    views = torch.stack([plain(group.act(x, group.inverse(g))) for g in group.elements])
    assert torch.allclose(network(x), views.mean(0), rtol=1e-10)


def test_patches_across_the_group_tell_more_than_the_average() -> None:
    network = CKN(1, (6, 7), 3, (2, 2), group=cyclic(4), form=forms(True)).double()
    assert network.layer(1).patches.raw_size == 4 * 6 * 9
    assert network.layer(1).patches.positions == 36


def test_rotations_by_45_degrees_commute_exactly_at_right_angles_and_nearly_between() -> None:
    group = cyclic(8)
    network = CKN(1, (12, 16), 5, (2, 3), group=group, form=forms(False)).double()
    x = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    rows = torch.arange(33.0, dtype=torch.float64) - 16
    blob = (-((rows[:, None] - 3) ** 2 / 40) - (rows + 2) ** 2 / 12).exp()
    x[0, 0] = blob
    found = network(x)

    def error(element: int) -> float:
        return float((network(group.act(x, element)) - found).norm() / found.norm())

    assert max(error(g) for g in (2, 4, 6)) < 1e-11
    plain = CKN(1, (12, 16), 5, (2, 3)).double()
    away = float((plain(group.act(x, 1)) - plain(x)).norm() / plain(x).norm())
    assert max(error(g) for g in (1, 3, 5, 7)) < away / 3


@pytest.mark.parametrize("group", [cyclic(4), cyclic(8), dihedral(4), cyclic(6)])
@pytest.mark.parametrize("side", [3, 5])
def test_a_turned_patch_reads_the_turned_picture(group: Group, side: int) -> None:
    x = pictures(1, 1, 15, 15)
    for element in group.elements:
        matrix = turned_patch(group, element, side, 2)
        outer = round(matrix.shape[1] ** 0.5)
        low, high = 7 - outer // 2, 8 + outer // 2
        read = matrix @ x[0, 0, low:high, low:high].flatten()
        turned = group.act(x, group.inverse(element))[0, 0]
        middle = slice(7 - side // 2, 8 + side // 2)
        assert torch.allclose(read, turned[middle, middle].flatten(), atol=1e-12)
        assert torch.allclose(matrix.sum(1), torch.ones(side**2).double())
        assert is_permutation(matrix) or not group.exact


def test_a_group_layer_has_gradients() -> None:
    layer = CKNLayer(1, 2, 3, 2, group=cyclic(4), form=Form(across=True)).double()
    x = pictures(1, 4, 1, 4, 4)

    def of(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"filters": weight}, x)

    assert torch.autograd.gradcheck(of, layer.filters.detach().clone().requires_grad_())
