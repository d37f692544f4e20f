"""Networks by name: rebuilt from JSON, seeded, trained with filters of norm 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from merkhet.ckn import CKN
from merkhet.ckn.frames import GROUPS, as_group
from merkhet.ckn.hinge import squared_hinge
from merkhet.ckn.networks import (
    ckn_classifier,
    fine_tune,
    hinge_loss,
    renormalise_after,
)
from merkhet.core.errors import InputError
from merkhet.models import Spec, build, names

SMALL = {"filters": [4, 8], "pooling": [2, 2], "seed": 1}


def small(**options):
    return ckn_classifier(1, 3, (8, 8), **{**SMALL, **options})


def pictures(count: int = 6, side: int = 8):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_it_is_built_by_name_and_rebuilt_from_json() -> None:
    assert "ckn" in names()
    arguments = {"in_channels": 1, "classes": 3, "size": (8, 8), **SMALL, "group": "d4"}
    spec = Spec("ckn", {**arguments, "pooling": [[2, 1], 2], "patches": ["centred", "whitened"]})
    one, other = spec.build(), Spec.from_json(spec.to_json()).build()
    x = pictures()
    assert torch.equal(one(x), other(x))
    assert list(dict(one.named_children())) == ["representation", "flatten", "head"]
    assert one.representation.layer(0).pooling == (2, 1)
    assert [part.form.patches for part in one.representation.layers] == ["centred", "whitened"]


def test_it_is_the_network_followed_by_a_linear_layer() -> None:
    network, x = small(), pictures()
    wanted = network.head(network.representation(x).flatten(1))
    assert torch.equal(network(x), wanted)
    assert network(x).shape == (6, 3)
    assert isinstance(network.representation, CKN)
    assert not torch.equal(small(seed=2).head.weight, network.head.weight)


def test_signals_have_one_side() -> None:
    network = ckn_classifier(2, 3, [16], filters=[4], pooling=2, group="reflections")
    assert network(torch.rand(5, 2, 16)).shape == (5, 3)


@pytest.mark.parametrize("name", ["c4", "d4", "reflections"])
def test_scores_do_not_change_under_the_group(name) -> None:
    """Exact groups only move pixels: what is left is rounding in float64."""
    network, x, group = small(group=name).double(), pictures().double(), as_group(name)
    for element in group.elements:
        torch.testing.assert_close(network(group.act(x, element)), network(x), rtol=0, atol=1e-12)


def test_every_group_has_a_name() -> None:
    orders = {name: make().order for name, make in GROUPS.items()}
    assert orders == {"c4": 4, "c8": 8, "d4": 8, "reflections": 2}


def test_its_weights_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    small()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_is_the_squared_hinge() -> None:
    network, x, labels = small(), pictures(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(hinge_loss(network, (x, labels)), squared_hinge(network(x), labels))


def test_filters_are_brought_back_and_nothing_changes() -> None:
    network, x = small().double(), pictures().double()
    wanted = network(x)
    with torch.no_grad():
        for layer in network.representation.layers:
            layer.filters.mul_(3)
    assert renormalise_after(torch.nn.ModuleDict({"inside": network}), 7) is None
    for layer in network.representation.layers:
        torch.testing.assert_close(
            layer.filters.norm(dim=1), torch.ones(len(layer.filters)).double()
        )
    torch.testing.assert_close(network(x), wanted)


def test_training_learns_with_filters_of_norm_one(tmp_path) -> None:
    """Bright above or bright below, in noise: a fresh network learns it in thirty passes."""
    x = 0.3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 2
    x[labels == 0, :, :4] += 1
    x[labels == 1, :, 4:] += 1
    network = ckn_classifier(1, 2, (8, 8), [4], 3, 4)
    before = [layer.filters.detach().clone() for layer in network.representation.layers]
    folder = tmp_path / "run"
    result = fine_tune(
        network, TensorDataset(x, labels), 30, rate=1e-2, batch_size=16, folder=folder
    )
    assert result.steps == 120
    assert result.losses[-1] < 0.5 * result.losses[0]
    for layer, old in zip(network.representation.layers, before, strict=True):
        assert not torch.allclose(layer.filters, old, atol=1e-2)
        torch.testing.assert_close(layer.filters.norm(dim=1), torch.ones(4))
    assert float((network(x).argmax(1) == labels).double().mean()) > 0.95


WRONG = [
    ({"group": "c5"}, "no group 'c5': choose one of c4, c8, d4, reflections"),
    ({"size": (8, 6), "group": "c4"}, "pictures of 8x6 are not mapped onto themselves"),
    ({"size": (8,), "group": "c4"}, "give reflections"),
    ({"size": (8, 8, 8)}, r"size = \[8, 8, 8\]: give \(height, width\)"),
    ({"size": (8, 0)}, "side = 0"),
    ({"classes": 0}, "classes = 0"),
    ({"filters": ()}, "give the filters of each layer"),
    ({"filters": (4, 0)}, "filters = 0"),
    ({"pooling": (2, 2, 2)}, "pooling = .* for 2 layers"),
    ({"patches": ("raw",)}, "patches = .* for 2 layers"),
    ({"patches": "centered"}, "Did you mean 'centred'"),
    ({"kernel": "rbf"}, "rbf"),
    ({"group": "c4", "kernel_size": 4}, "give an odd kernel_size"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_does_not_fit_is_refused(options, message) -> None:
    given = {"in_channels": 1, "classes": 3, "size": (8, 8), **SMALL, **options}
    with pytest.raises(InputError, match=message):
        build("ckn", **given)


def test_a_classifier_is_tuned_whatever_its_parts_are_called() -> None:
    plain = nn.Sequential(CKN(1, (4, 5), 3, (2, 2)), nn.Flatten(), nn.Linear(20, 2))
    dataset = TensorDataset(pictures(12), torch.arange(12) % 2)
    before = plain[2].weight.detach().clone()
    fine_tune(plain, dataset, 1, batch_size=6)
    assert not torch.equal(plain[2].weight, before)
    with pytest.raises(InputError, match="linear head"):
        fine_tune(nn.Sequential(CKN(1, (4,), 3, 2)), dataset, 1)
