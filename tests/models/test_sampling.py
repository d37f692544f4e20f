from __future__ import annotations

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.models.sampling import sample

LOGITS = torch.tensor([[0.0, 2.0, 1.0, -1.0]])


def shares(temperature: float, top_k: int | None, generator: torch.Generator) -> torch.Tensor:
    drawn = sample(LOGITS.expand(20_000, -1), temperature, top_k, generator)
    assert drawn.shape == (20_000, 1)
    return drawn.flatten().bincount(minlength=4) / 20_000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float, generator: torch.Generator) -> None:
    wanted = (LOGITS[0] / temperature).softmax(0)
    # The deviation of a share of 20,000 draws is at most 0.0036.
    assert (shares(temperature, None, generator) - wanted).abs().max() < 0.015


def test_top_k_keeps_the_largest_and_their_ratio(generator: torch.Generator) -> None:
    found = shares(1.0, 2, generator)
    assert found[0] == found[3] == 0
    assert (found[1:3] - LOGITS[0, 1:3].softmax(0)).abs().max() < 0.015


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    draws = [
        sample(LOGITS.expand(50, -1), 1.0, k, torch.Generator().manual_seed(1)) for k in (9, 4)
    ]
    assert torch.equal(*draws)


def test_zero_and_nearly_zero_temperature_take_the_likeliest(generator: torch.Generator) -> None:
    logits = torch.randn(30, 9, generator=generator)
    best = logits.argmax(1, keepdim=True)
    assert torch.equal(sample(logits, 0.0, None, generator), best)
    assert torch.equal(sample(logits, 1e-30, None, generator), best)
    assert torch.equal(sample(logits, 5.0, 1, generator), best)


def test_bad_settings_are_refused(generator: torch.Generator) -> None:
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"temperature = .*: give 0"):
            sample(LOGITS, temperature, None, generator)
    with pytest.raises(InputError, match="top_k = 0: give a whole number"):
        sample(LOGITS, 1.0, 0, generator)
