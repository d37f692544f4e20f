"""The experiments' own parts: flat keys find what product keys find, and models differ as said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merkhet.memory import ProductKeyMemory
from merkhet.memory import experiments as evidence
from merkhet.memory.experiments import flat, layers, norms, places, reads
from merkhet.memory.experiments.flat import FlatKeyMemory
from merkhet.memory.experiments.language import LANGUAGES, Language
from merkhet.report.trial import Experiment, reproduce

SMALL = Language(16, 3, 1, {"key_dim": 8}, 300, 16, 4, steps=3, held_out=4, seeds=2)


def test_flat_keys_made_of_all_pairs_find_what_product_keys_find() -> None:
    options = {"num_subkeys": 8, "num_heads": 2, "top_k": 5, "key_dim": 6}
    product, all_pairs = ProductKeyMemory(12, **options), FlatKeyMemory(12, **options)
    all_pairs.load_state_dict({**product.state_dict(), "keys": all_pairs.keys}, strict=False)
    with torch.no_grad():
        first, second = product.subkeys[:, 0], product.subkeys[:, 1]
        pairs = [first.repeat_interleave(8, 1), second.repeat(1, 8, 1)]
        all_pairs.keys.copy_(torch.cat(pairs, -1))
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(all_pairs(x), product(x), rtol=1e-5, atol=1e-6)
    assert bool((all_pairs.retrieve(x)[0] == product.retrieve(x)[0]).all())


@pytest.mark.parametrize("name", evidence.__all__)
def test_every_experiment_runs_and_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LANGUAGES, "small", SMALL)
    monkeypatch.setattr(layers, "SMALL", SMALL)
    monkeypatch.setattr(layers, "TIMED", 2)
    monkeypatch.setitem(norms.SUBKEYS, "small", (32, 33))
    monkeypatch.setattr(reads, "SUBKEYS", 64)
    monkeypatch.setattr(reads, "REPEATS", 2)
    monkeypatch.setattr(flat, "REPEATS", 2)
    for sizes in (flat.TRAINED, flat.TIMED):
        monkeypatch.setitem(sizes, "small", (16, 17))
    monkeypatch.setitem(places.LAYERS, "small", 3)
    monkeypatch.setitem(places.SUBKEYS, "small", 32)
    chosen = getattr(evidence, name)
    assert isinstance(chosen, Experiment)
    path = reproduce(chosen, "small", tmp_path)
    assert path.exists()
    assert (tmp_path / "memory" / f"{name}.png").stat().st_size > 10_000
