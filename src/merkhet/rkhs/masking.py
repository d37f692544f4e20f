"""Signs that an attack fails because gradients mislead it, not because the network is robust.

Source: Athalye, Carlini & Wagner, ICML 2018 (arXiv 1802.00420), section 3.1; Carlini et al.,
"On Evaluating Adversarial Robustness" (arXiv 1902.06705).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.rkhs.attacked import Attacked, Loss, margin
from merkhet.rkhs.attacks import PGD, Attack
from merkhet.rkhs.threat import Examples, Threat

LOOKED_AT = 128  # examples that the checks which attack again look at
FEW = 0.01  # a share of examples that tells nothing yet
LEFT = 0.05  # share that may stand however far an attack may go
SATURATED = 0.1  # share whose softmax is so sure that plain attacks see no gradient
DOUBLINGS = 16
SCALES = (1e-3, 1e3)


@dataclass(frozen=True)
class MaskingWarning:
    """A sign that robust accuracy is overrated.

    Attributes:
        name: "zero_gradient", "saturated", "gradient_free", "unbounded", "scale" or "random".
        sentence: What was seen, and what to do.
        value: The share of examples that show it.
    """

    name: str
    sentence: str
    value: float


def masking_warnings(
    network: Attacked,
    examples: Examples,
    threat: Threat,
    radii: Sequence[float],
    stands: Mapping[Attack, Tensor],
) -> tuple[MaskingWarning, ...]:
    """Return the signs of masked gradients that a network shows.

    Args:
        network: Under attack.
        examples: Those that it judges rightly, (n, ...), at least one.
        threat: The norm and the valid inputs.
        radii: Of the balls, increasing.
        stands: For each attack which of the examples stand at each radius, (radii, n).
    """
    some = examples.take(torch.arange(min(len(examples), LOOKED_AT)))
    checks = (
        _random(network, some),
        *_gradients(network, some),
        *_gradient_free(stands, radii),
        _unbounded(network, some, threat, radii[-1]),
        _scale(network, some, threat, radii[-1], _standing(stands, len(some))),
    )
    return tuple(found for found in checks if found)


def _random(network: Attacked, examples: Examples) -> MaskingWarning | None:
    """Look whether the network answers the same question twice alike."""
    first, second = network.scores(examples.x), network.scores(examples.x)
    share = _share((first != second).any(1))
    if not share:
        return None
    return MaskingWarning(
        "random",
        f"Two passes over the same inputs gave other scores for {share:.0%} of them: the network "
        "is random when evaluated; attack the average of many passes instead.",
        share,
    )


def _gradients(network: Attacked, examples: Examples) -> Iterator[MaskingWarning]:
    """Look whether attacks have a gradient to follow, with our loss and with the plain one."""
    none = _dead(network, examples, margin)
    if (share := _share(none)) > FEW:
        yield MaskingWarning(
            "zero_gradient",
            f"The margin's gradient in the input is zero or not finite for {share:.0%} of the "
            "examples: attacks by gradients stand still there; attack through a smooth stand-in "
            "for what stops the gradient, or without gradients (square).",
            share,
        )
    saturated = _dead(network, examples, _cross_entropy) & ~none
    if (share := _share(saturated)) > SATURATED:
        yield MaskingWarning(
            "saturated",
            f"The cross-entropy's gradient is zero for {share:.0%} of the examples because the "
            "scores saturate the softmax: attacks on the plain loss, as apgd-ce is, are blind "
            "there; trust pgd and pgd-margin, or divide the scores.",
            share,
        )


def _gradient_free(
    stands: Mapping[Attack, Tensor], radii: Sequence[float]
) -> Iterator[MaskingWarning]:
    """Look whether an attack without gradients flips what those with gradients leave."""
    guided = [stood for attack, stood in stands.items() if attack.by_gradients]
    if not guided:
        return
    left = torch.stack(guided).all(0)
    for attack, stood in stands.items():
        missed = (left & ~stood).double().mean(1)
        at = int(missed.argmax())
        if not attack.by_gradients and float(missed[at]) > FEW:
            yield MaskingWarning(
                "gradient_free",
                f"{attack.name} flips {float(missed[at]):.0%} of the examples within {radii[at]:g} "
                "that no attack by gradients flips: the gradients mislead; give more steps and "
                "restarts, and do not trust the attacks by gradients alone.",
                float(missed[at]),
            )


def _unbounded(
    network: Attacked, examples: Examples, threat: Threat, radius: float
) -> MaskingWarning | None:
    """Look whether accuracy falls to zero as the ball grows over all inputs."""
    attack, left = PGD(loss="margin"), examples
    for reach in _growing(examples.x, threat, radius):
        _, wrong = attack.find(network, left, threat, reach)
        left = left.take(~wrong)
        if len(left) <= LEFT * len(examples):
            return None
    share = len(left) / len(examples)
    return MaskingWarning(
        "unbounded",
        f"{share:.0%} of the examples stand however far the attack may go (up to {reach:.3g}): "
        "the attack does not find what must be there, unless the network hardly ever answers "
        "anything else.",
        share,
    )


def _standing(stands: Mapping[Attack, Tensor], count: int) -> Tensor:
    """Return which of the first examples stand under all attacks at the last radius, (count,)."""
    return torch.stack([stood[-1, :count] for stood in stands.values()]).all(0)


def _scale(
    network: Attacked, examples: Examples, threat: Threat, radius: float, standing: Tensor
) -> MaskingWarning | None:
    """Look whether PGD flips what stands when the scores are multiplied by a number."""
    if not radius:
        return None
    plain = PGD().find(network, examples, threat, radius)[1]
    scaled = [PGD(scale=scale).find(network, examples, threat, radius)[1] for scale in SCALES]
    shares = [_share(wrong & ~plain & standing) for wrong in scaled]
    if max(shares) <= max(2 * FEW, 1 / len(examples)):  # one example says nothing
        return None
    scale = SCALES[shares.index(max(shares))]
    return MaskingWarning(
        "scale",
        f"With scores times {scale:g} PGD flips {max(shares):.0%} of the examples within "
        f"{radius:g} that stood all attacks: the loss's scale hides directions; add pgd-margin or "
        "apgd-dlr, or more steps and restarts.",
        max(shares),
    )


def _dead(network: Attacked, examples: Examples, loss: Loss) -> Tensor:
    """Return where a loss's gradient in the input is zero or not finite, (n,)."""
    found = []
    for batch in examples.split(network.batch_size):
        some = batch.to(network.device)
        gradients = network.gradient(some.x, some.y, loss)[2].flatten(1)
        found.append(~gradients.isfinite().all(1) | (gradients == 0).all(1))
    return torch.cat(found)


def _cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Return the loss (n,) that attacks usually climb, in the network's own precision."""
    return F.cross_entropy(scores, y, reduction="none")


def _growing(x: Tensor, threat: Threat, radius: float) -> list[float]:
    """Return growing radii, from the one given (or a small one) to a ball of all valid inputs."""
    largest = threat.whole(x)
    start = max(radius, largest / 2**DOUBLINGS)
    growing = [start * 2**k for k in range(DOUBLINGS) if start * 2**k < largest]
    return [*growing, max(largest, radius)]


def _share(which: Tensor) -> float:
    """Return the share of true entries of bools (n,)."""
    return float(which.double().mean())
