"""Blocks between places; the builders of whole mixtures; batch norms folded and recalibrated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from merkhet.cnmm import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.blocks import KINDS, Place, block
from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.nodes import full_nodes, shortest_nodes
from merkhet.cnmm.recalibration import batch_norms, kept_statistics, recalibrated
from merkhet.core.errors import InputError
from merkhet.models import Spec

PLACES = [(Place(3), Place(3)), (Place(3), Place(5, 2)), (Place(4, 4), Place(3, 2))]


def settled(module: nn.Module) -> nn.Module:
    """Return a module whose batch norms have statistics and shifts of their own."""
    for norm in batch_norms(module):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return module.double().eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("source", "target"), PLACES)
def test_a_block_leads_from_place_to_place_and_folds(
    kind: str, norm: str, source: Place, target: Place
) -> None:
    made = settled(block(kind, source, target, norm))
    x = torch.rand(2, source.channels, 8 // source.scale, 8 // source.scale).double()
    result = made(x)
    assert result.shape == (2, target.channels, 8 // target.scale, 8 // target.scale)
    plain = folded(made)
    torch.testing.assert_close(plain(x), result, rtol=1e-12, atol=1e-12)
    assert not batch_norms(plain)
    own = {tensor.data_ptr() for tensor in made.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in plain.state_dict().values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plane", Place(3), Place(3)), "Did you mean 'plain'"),
        (("plain", Place(3, 2), Place(3, 3)), "divide"),
        (("plain", Place(3, 3), Place(3, 2)), "divide"),
        (("plain", Place(3), Place(3), "none"), "norm"),
        (("plain", Place(3), Place(3), "batch", "tanh"), "activation"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        block(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_builders_make_mixtures_that_a_spec_rebuilds(kind: str, norm: str) -> None:
    given = {"channels": (4, 6), "num_nodes": 3, "kind": kind, "norm": norm, "classes": 5}
    model = Spec.from_json(Spec("cnmm_classifier", given).to_json()).build()
    assert model(torch.rand(2, 1, 9, 7)).shape == (2, 5)
    masks = Spec("cnmm_segmenter", {"channels": (4, 6), "nodes": (1, 1, 0), "kind": kind}).build()
    for gates in (None, masks.sample(), masks.path(((0, 3),))):
        assert masks(torch.rand(2, 3, 12, 8), gates).shape == (2, 11, 12, 8)


def test_a_seed_gives_the_weights_and_nothing_else_is_drawn() -> None:
    before = torch.get_rng_state()
    one, same, other = (cnmm_classifier(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))
    assert cnmm_classifier(open=0.8).logits()[0][0].sigmoid().item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cnmm_classifier(num_nodes=1), "one node"),
        (lambda: cnmm_classifier(channels=()), "channels"),
        (lambda: cnmm_classifier(channels=16), "channels = 16: give one number for each"),
        (lambda: cnmm_segmenter(nodes=2), "nodes = 2: give for each node"),
        (lambda: cnmm_classifier(channels=(4, 0)), "channels"),
        (lambda: cnmm_classifier(classes=0), "classes"),
        (lambda: cnmm_segmenter(nodes=(3,)), "resolution from 0 to 2"),
        (lambda: cnmm_segmenter(nodes=()), "resolution"),
        (lambda: cnmm_segmenter()(torch.rand(1, 3, 60, 90)), "multiples of 8"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_statistics_are_kept_in_training_mode() -> None:
    model = cnmm_classifier(1, 3, (3, 4), 3).train()
    before = copy.deepcopy(model.state_dict())
    with kept_statistics(model):
        model(torch.rand(4, 1, 8, 8))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    model(torch.rand(4, 1, 8, 8))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_recalibrated_statistics_are_those_of_the_path() -> None:
    model = cnmm_classifier(1, 3, (3, 4), 4).double().train()
    batches = list(torch.rand(3, 8, 1, 8, 8, dtype=torch.float64))
    path = ((0, 2, 3), (0, 3))
    gates = model.path(path)
    before = copy.deepcopy(model.state_dict())
    made = recalibrated(model, gates, batches)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    norm = made.parts()[0].block(0, 2)[1]
    states = [model.parts()[0].block(0, 2)[0](made.stem.train()(batch)) for batch in batches]
    means = torch.stack([one.mean((0, 2, 3)) for one in states]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    assert norm.momentum == 0.1
    assert made.training  # as the model was


def test_recalibration_makes_a_path_see_normed_states_where_the_mixture_does_not() -> None:
    torch.manual_seed(0)
    model = cnmm_classifier(1, 3, (4, 4), 5).train()
    x = torch.rand(64, 1, 8, 8)
    for _ in range(60):
        model(x)
    for path in (shortest_nodes(model.counts), full_nodes(model.counts)):
        gates = model.path(path)
        with torch.no_grad():
            wanted = copy.deepcopy(model)(x, gates)  # in training mode, by the batch itself
            made = recalibrated(model, gates, [x]).eval()(x, gates)
        # The running variance is the unbiased one, 64 * 16 / (64 * 16 - 1) at the least.
        torch.testing.assert_close(made, wanted, rtol=1e-2, atol=1e-2)
        wrong = copy.deepcopy(model).eval()(x, gates)
        assert (wrong - wanted).norm() > 5 * (made - wanted).norm()


@pytest.mark.parametrize(
    ("batches", "says"), [([], "one batch or more"), ([torch.rand(1, 1, 8, 8)], "two or more")]
)
def test_recalibration_needs_pictures(batches: list[torch.Tensor], says: str) -> None:
    model = cnmm_classifier(1, 3, (3,), 3)
    with pytest.raises(InputError, match=says):
        recalibrated(model, model.path(((0, 2),)), batches)
    grouped = cnmm_classifier(1, 3, (3,), 3, norm="group")
    recalibrated(grouped, grouped.path(((0, 2),)), [])  # has none to measure
