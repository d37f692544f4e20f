"""Penalties on the loss: its gradient by the inputs, and the loss at its worst in a ball."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError, choose
from merkhet.rkhs.balls import directions, in_box, in_l2_ball, squared_norms
from merkhet.rkhs.input_gradients import input_gradient
from merkhet.rkhs.looks import widened
from merkhet.rkhs.passes import Pass
from merkhet.rkhs.penalty import Logs, Penalty

NORMS = ("l2", "linf")


@dataclass(frozen=True)
class LossGradientPenalty(Penalty):
    """The mean over examples of |grad_x loss(f(x_i), y_i)|_2^2 ("grad-l2") or |.|_1 ("grad-l1").

    The gradient is that of each example's own loss, whatever the size of the batch. The loss is
    that of the training step, cross-entropy where there is none; it must be the plain mean of the
    examples' losses.

    Args:
        p: 2 for the squared l2 norm, 1 for the l1 norm.

    Logs:
        loss_gradient: The value.

    Raises:
        InputError: Another p.

    Reference:
        Bietti et al., ICML 2019, section 3.3; grad-l2 is Drucker & LeCun's double
        backpropagation (1991), grad-l1 the regulariser of Simon-Gabriel et al. (2018).
    """

    p: int = 2

    through_inputs = True

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise InputError(f"p = {self.p!r}: give 2 for the squared l2 norm or 1 for the l1 norm")

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and the logs."""
        total = seen.loss_of(seen.evaluated) * len(seen.x)
        gradient = input_gradient(total, seen.x, again=True)
        if self.p == 2:
            value = squared_norms(gradient).mean()
        else:
            value = widened(gradient).abs().flatten(1).sum(1).mean()
        return value, {"loss_gradient": value.detach()}


@dataclass(frozen=True)
class AdversarialLoss(Penalty):
    """The loss at its worst in a ball about each input: adversarial training by PGD.

    Its value is the loss itself, at x_i + delta_i: in `regularised_loss` it stands in the place of
    the clean loss, which is not computed. delta maximises the loss by projected gradient ascent
    from zero, steps of 1.5 radius / steps (along the gradient's direction in l2, its sign in
    linf), against the network as evaluated; the loss at the end is that of the network in its own
    mode in a training step, so that batch norm learns its statistics there.

    Args:
        radius: Of the balls, in the units of the inputs.
        norm: "l2" or "linf".
        steps: Of the ascent.
        clip: (low, high) that inputs are kept in, such as (0.0, 1.0) for pixels; or None.

    Logs:
        adversarial_loss: The value.

    Raises:
        InputError: A number is not above 0, an unknown norm, or no range; when it is called,
            inputs outside of the range.

    Reference:
        Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards deep learning models resistant to
        adversarial attacks", ICLR 2018; PGD-l2 in Bietti et al., ICML 2019, section 3.3.
    """

    radius: float
    norm: str = "l2"
    steps: int = 5
    clip: tuple[float, float] | None = None

    through_inputs = True
    replaces_loss = True

    def __post_init__(self) -> None:
        check_positive(radius=self.radius)
        check_counts(steps=self.steps)
        choose("norm", self.norm, NORMS)
        if self.clip is not None and not _is_range(self.clip):
            raise InputError(f"clip = {self.clip!r}: give (low, high), such as (0.0, 1.0), or None")

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the worst loss found, shape (), and the logs."""
        loss = seen.loss_of(seen.run(self._worst(seen)))
        return loss, {"adversarial_loss": loss.detach()}

    def _worst(self, seen: Pass) -> Tensor:
        """Return the inputs attacked, (n, *in)."""
        x = seen.x.detach()
        if not torch.equal(in_box(x, self.clip), x):
            raise InputError(
                f"inputs from {float(x.min()):g} to {float(x.max()):g} are outside of clip = "
                f"{self.clip}: give inputs in that range (scaled inside of the network), or clip "
                "in their own units"
            )
        worst = x
        for _ in range(self.steps):
            at = worst.detach().requires_grad_()
            gradient = input_gradient(seen.loss_of(seen.answer(at)), at)
            worst = in_box(x + self._step(worst - x, gradient), self.clip)
        return worst

    def _step(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """Return delta (n, *in) after one step, in the ball."""
        length = 1.5 * self.radius / self.steps
        if self.norm == "linf":
            return (delta + length * gradient.sign()).clamp(-self.radius, self.radius)
        return in_l2_ball(delta + length * directions(gradient), self.radius)


def _is_range(clip: object) -> bool:
    """Tell whether something is two numbers, the lower first."""
    if not isinstance(clip, tuple | list) or len(clip) != 2:
        return False
    low, high = clip
    return isinstance(low, Real) and isinstance(high, Real) and float(low) < float(high)
