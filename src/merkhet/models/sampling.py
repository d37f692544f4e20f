"""Drawing the next token from its logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.building import check_counts
from merkhet.core.errors import InputError


def sample(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> Tensor:
    """Draw one token for each row of logits.

    The draw happens on the generator's device, so that a seed gives the same tokens
    wherever the network runs, up to rounding of the logits.

    Args:
        logits: (batch, vocab_size).
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Draw among this many likeliest tokens only; among all if None.
        generator: Generator of the draws.

    Returns:
        Tokens, (batch, 1).

    Raises:
        InputError: `temperature` is negative or not finite, or `top_k` is below 1.
    """
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature = {temperature}: give 0 (the likeliest) or more")
    if top_k is not None:
        check_counts(top_k=top_k)
        logits = _keep_largest(logits, top_k)
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    scaled = logits.float().sub(logits.float().amax(dim=-1, keepdim=True)).div(temperature)
    probabilities = scaled.softmax(dim=-1).to(generator.device)
    return torch.multinomial(probabilities, 1, generator=generator).to(logits.device)


def _keep_largest(logits: Tensor, count: int) -> Tensor:
    """Set all but the `count` largest logits of each row to minus infinity."""
    values, places = logits.topk(min(count, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, places, values)
