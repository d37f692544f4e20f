from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from merkhet.audit import audit
from merkhet.core.errors import InputError
from merkhet.memory import ProductKeyMemory, Usage, attach, checks, usage
from merkhet.models import Transformer

SMALL = {"num_subkeys": 8, "num_heads": 2, "top_k": 4, "key_dim": 6}


def test_numbers_by_hand() -> None:
    found = Usage(torch.tensor([0.5, 0.25, 0.25, 0.0]).double(), torch.tensor([2, 1, 1, 0]))
    assert found.used == 0.75
    assert found.kl == pytest.approx(math.log(4) + 0.5 * math.log(0.5) + 0.5 * math.log(0.25))
    # Gini: sum of |x_i - x_j| over all pairs / (2 n^2 mean) = (4 * 0.25 + 2 * 0.5 + 4 * 0.25) / 8
    assert found.gini == pytest.approx((4 * 0.25 + 2 * 0.5 + 4 * 0.25) / (2 * 16 * 0.25))
    assert found.share_of_slots(0.5) == 0.25
    assert found.share_of_slots(0.9) == 0.75


@pytest.mark.parametrize(
    ("mass", "gini", "kl"), [([0.25] * 4, 0.0, 0.0), ([1.0, 0, 0, 0], 0.75, math.log(4))]
)
def test_the_ends_of_the_scale(mass: list[float], gini: float, kl: float) -> None:
    found = Usage(torch.tensor(mass).double(), torch.ones(4, dtype=torch.int64))
    assert found.gini == pytest.approx(gini)
    assert found.kl == pytest.approx(kl)


def test_masses_are_those_of_the_reads_batch_by_batch() -> None:
    memory = ProductKeyMemory(10, **SMALL)
    x = torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0))
    found = usage(memory, list(x))["values"]
    indices, weights = memory.eval().retrieve(x)
    wanted = torch.zeros(64).double().index_add_(0, indices.flatten(), weights.double().flatten())
    assert torch.allclose(found.mass, wanted / wanted.sum())
    assert torch.equal(found.counts, indices.flatten().bincount(minlength=64))
    assert int(found.counts.sum()) == 3 * 20 * 2 * 4
    assert not memory.values._forward_pre_hooks


def test_a_network_without_memory_or_data_is_refused() -> None:
    with pytest.raises(InputError, match="has no memory: attach one first"):
        usage(nn.Linear(2, 2), [torch.ones(1, 2)])
    with pytest.raises(InputError, match="at least one batch"):
        usage(ProductKeyMemory(10, **SMALL), [])


def language_model(width: int = 16) -> Transformer:
    return Transformer(11, dim=width, layers=2, heads=2)


TOKENS = torch.randint(11, (40, 12), generator=torch.Generator().manual_seed(0))


def test_the_audit_finds_slots_that_are_never_used(tmp_path) -> None:
    model = language_model()
    (memory,) = attach(model, ["layers.1.feed_forward"], "replace", num_subkeys=32, top_k=2)
    with torch.no_grad():  # every query is the same: the bias of a projection that is zero
        memory.to_query.weight.zero_()
    report = audit(model, TOKENS, checks=["memory"])
    finding = next(found for found in report.findings if found.name.startswith("memory(used,"))
    assert finding.value == report.sections["memory"].figures[finding.name] <= 8 / 1024
    assert "would reach" in finding.sentence
    report.write(tmp_path / "r.html")


def test_an_even_memory_is_no_finding() -> None:
    model = language_model()
    attach(model, ["layers.1.feed_forward"], "replace", **SMALL)
    model(TOKENS)  # the batch norm sees the data
    assert not audit(model, TOKENS, checks=["memory"]).findings


def test_the_audit_says_what_a_memory_would_save() -> None:
    model = language_model(256)
    report = audit(model, TOKENS, checks=["feed_forward"])
    figures = report.sections["feed_forward"].figures
    hidden = model.layers[0].feed_forward.up.out_features
    dense = 3 * 256 * hidden
    rest = 4 * 256 * 256 + 2 * 12 * 256  # projections, and attention over 12 positions
    whole = 2 * (dense + rest) + 11 * 256
    assert figures["memory(feed_forward_share)"] == pytest.approx(2 * dense / whole)
    saved = (dense - checks.memory_cost(256)) / whole
    assert figures["memory(saved)"] == pytest.approx(saved)
    assert bool(report.findings) == (saved >= checks.WORTH)


def test_pictures_have_no_feed_forward_layers_to_replace() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    report = audit(network, torch.rand(4, 1, 8, 8), checks=["feed_forward", "memory"])
    assert "pictures" in report.skipped["feed_forward"]
    assert "no product-key memory" in report.skipped["memory"]
