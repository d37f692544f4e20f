"""The adversarial penalty: how much the logits rise in small balls about the inputs.

n examples, K classes; a row is one example attacked for one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError, choose
from merkhet.rkhs.balls import directions, in_l2_ball
from merkhet.rkhs.gradient import REDUCTIONS
from merkhet.rkhs.input_gradients import class_gradient_norms, input_gradient
from merkhet.rkhs.passes import Pass
from merkhet.rkhs.penalty import Logs, Penalty

SELECTIONS = ("all", "gradient")

Look = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialPenalty(Penalty):
    """|f_k|_delta^2, summed over the classes: the square of how much a logit rises in a ball.

    |f_k|_delta = max f_k(x + delta) - f_k(x) over inputs x and |delta|_2 <= radius. It is signed,
    as in the paper; divided by the radius it is a lower bound on the Lipschitz constant of f_k
    (see `adversarial_ratio`), as a penalty it stands as it is. delta comes from projected
    gradient ascent from zero, steps of 1.5 radius / steps along the gradient's direction; it is
    detached, and parameters get no gradient from the search.

    Args:
        radius: Of the l2 balls, in the units of the inputs.
        steps: Of the ascent.
        select: "gradient" attacks for each class only the example with the largest gradient
            |grad f_k(x)|: a heuristic for the supremum, at a fraction of the cost.
            "all" attacks every example for every class.
        reduction: "sup" takes of each class the largest rise in the batch, "mean" the batch's
            mean of the squared rises, which needs "all".
        chunk: Rows attacked at a time with "all"; bounds the memory.

    Logs:
        adversarial: The value. adversarial_batch_sup: the largest rise in the batch ("sup").

    Raises:
        InputError: A radius or number is not above 0, an unknown choice, or "mean" without
            "all".

    Reference:
        Bietti et al., ICML 2019, section 3.1, the lower bound |f|_delta; the attack is that of
        Madry et al., ICLR 2018, on logits.
    """

    radius: float
    steps: int = 5
    select: str = "gradient"
    reduction: str = "sup"
    chunk: int = 256

    through_inputs = True

    def __post_init__(self) -> None:
        check_positive(radius=self.radius)
        check_counts(steps=self.steps, chunk=self.chunk)
        choose("select", self.select, SELECTIONS)
        if choose("reduction", self.reduction, REDUCTIONS) == "mean" and self.select != "all":
            raise InputError('reduction="mean" is over all examples: give select="all" with it')

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and the logs."""
        if self.reduction == "mean":
            value = torch.cat([_rises(seen, *found) for found in self._attacked(seen)])
            value = value.square().sum(0).mean()
            return value, {"adversarial": value.detach()}
        chosen, worst = self._by_gradient(seen) if self.select == "gradient" else self._best(seen)
        # The clean logits are those of the shared pass.
        rises = seen.look(worst).diagonal() - seen.logits[chosen].diagonal()
        value = rises.square().sum()
        logs = {"adversarial": value.detach(), "adversarial_batch_sup": rises.detach().max()}
        return value, logs

    def _by_gradient(self, seen: Pass) -> tuple[Tensor, Tensor]:
        """Return of each class the example with the largest gradient, (K,), and it attacked."""
        chosen = class_gradient_norms(seen.logits, seen.x).argmax(0)
        classes = torch.arange(len(chosen), device=chosen.device)
        x = seen.x.detach()[chosen]
        return chosen, x + ascend(seen.look, x, classes, self.radius, self.steps)

    def _best(self, seen: Pass) -> tuple[Tensor, Tensor]:
        """Return of each class the example that rises most, (K,), and it attacked."""
        chosen, worst = [], []
        for classes, attacked in self._attacked(seen):
            with torch.no_grad():
                best = _rises(seen, classes, attacked).argmax(1)
            chosen.append(best)
            worst.append(attacked[torch.arange(len(best), device=best.device), best])
        return torch.cat(chosen), torch.cat(worst)

    def _attacked(self, seen: Pass) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield groups of classes (c,) with all examples attacked for each, (c, n, *in)."""
        x = seen.x.detach()
        columns = seen.logits.unbind(1)
        for classes in torch.arange(len(columns), device=x.device).split(
            max(1, self.chunk // len(x))
        ):
            # At zero the gradients of all classes come from the shared pass.
            first = [input_gradient(columns[place].sum(), seen.x) for place in classes.tolist()]
            rows = x.repeat(len(classes), *(1,) * (x.dim() - 1))
            targets = classes.repeat_interleave(len(x))
            delta = ascend(
                seen.look, rows, targets, self.radius, self.steps, first=torch.cat(first)
            )
            yield classes, (rows + delta).unflatten(0, (len(classes), len(x)))


def ascend(
    look: Look,
    x: Tensor,
    classes: Tensor,
    radius: float,
    steps: int,
    *,
    first: Tensor | None = None,
) -> Tensor:
    """Return delta (m, *in), |delta_i|_2 <= radius, at which f_(k_i)(x_i + delta_i) is large.

    Args:
        look: Gives logits (m, K) of inputs (m, *in), each example's from its own.
        x: (m, *in), without a graph.
        classes: int64 (m,), k_i.
        radius: Of the l2 ball.
        steps: Of projected gradient ascent from zero, of 1.5 radius / steps each.
        first: The gradients at zero, (m, *in), where they are known.
    """
    delta = torch.zeros_like(x)
    for step in range(steps):
        gradient = first if step == 0 and first is not None else None
        if gradient is None:
            at = (x + delta).requires_grad_()
            with torch.enable_grad():
                own = look(at).gather(1, classes[:, None]).sum()
            gradient = input_gradient(own, at)
        delta = in_l2_ball(delta + 1.5 * radius / steps * directions(gradient), radius)
    return delta


def _rises(seen: Pass, classes: Tensor, attacked: Tensor) -> Tensor:
    """Return f_k(attacked) - f_k(x), (c, n), for classes (c,) and (c, n, *in)."""
    logits = seen.look(attacked.flatten(0, 1)).unflatten(0, attacked.shape[:2])
    own: Tensor = logits[torch.arange(len(classes), device=classes.device), :, classes]
    return own - seen.logits[:, classes].T
