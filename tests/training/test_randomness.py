from __future__ import annotations

import random

import numpy as np
import torch

from merkhet.training.randomness import borrowed_generators, derive, seed_generators

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_a_seed_fixes_all_three_generators() -> None:
    with borrowed_generators(CPU):
        seed_generators(derive(0, "step", 1))
        first = draw()
        draw()
        seed_generators(derive(0, "step", 1))
        assert draw() == first
        seed_generators(derive(0, "step", 2))
        assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_generators_are_given_back_even_after_an_error() -> None:
    with borrowed_generators(CPU):
        seed_generators(5)
        expected = draw()
        seed_generators(5)
        try:
            with borrowed_generators(CPU):
                seed_generators(6)
                raise RuntimeError
        except RuntimeError:
            pass
        assert draw() == expected


def test_places_have_unrelated_seeds_of_63_bits() -> None:
    seeds = {derive(s, what, n) for s in range(5) for what in ("a", "b") for n in range(100)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) <= max(seeds) < 2**63
    assert max(seeds) > 2**62


def test_the_derivation_is_fixed() -> None:
    # Runs are resumed by later versions: this number must never change.
    assert derive(0, "step", 0) == 3788477821895462641
