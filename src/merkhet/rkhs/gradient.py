"""The gradient penalty: the size of the gradients of a network's logits by its input.

n examples, K classes, J (K, *in) the Jacobian of the logits at one example.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from merkhet.core.errors import choose
from merkhet.rkhs.balls import squared_norms
from merkhet.rkhs.input_gradients import class_gradient_norms, class_gradients, input_gradient
from merkhet.rkhs.passes import Pass
from merkhet.rkhs.penalty import Logs, Penalty

REDUCTIONS = ("mean", "sup")


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """|grad f_k(x)|^2, summed over the classes: a lower bound on each |f_k|^2, as a penalty.

    "sup" takes of each class the largest gradient in the batch, as the paper does. All K
    gradients of the shared pass are measured without a second-order graph; only the K examples
    that are largest are looked at again, and differentiated twice. A batch's supremum is below
    that over all inputs; it is logged.

    "mean" takes the batch's mean of sum_k |grad f_k(x)|^2 = |J|^2 (Frobenius), by default
    estimated without bias: for random signs v, one an example and class, E |J^T v|^2 = |J|^2
    (Hutchinson, 1990). It costs a single gradient.

    Args:
        reduction: "sup" or "mean".
        exact: With "mean": all K gradients in place of the estimate. "sup" is always exact.
        generator: Of the signs, on the CPU; None is PyTorch's global one.

    Logs:
        gradient: The value. gradient_batch_sup: the largest |grad f_k| in the batch ("sup").

    Raises:
        InputError: No such reduction.

    Reference:
        Bietti et al., ICML 2019, section 3.1, the lower bound |grad f|.
    """

    reduction: str = "sup"
    exact: bool = False
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    through_inputs = True

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and the logs."""
        if self.reduction == "sup":
            return self._largest(seen)
        value = _exact_mean(seen) if self.exact else self._estimated_mean(seen)
        return value, {"gradient": value.detach()}

    def _largest(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the sum over classes of the batch's largest squared norm."""
        chosen = class_gradient_norms(seen.logits, seen.x).argmax(0)
        x = seen.x.detach()[chosen].requires_grad_()
        own = seen.look(x).diagonal().sum()
        squares = squared_norms(input_gradient(own, x, again=True))
        value = squares.sum()
        largest = squares.detach().max().sqrt()
        return value, {"gradient": value.detach(), "gradient_batch_sup": largest}

    def _estimated_mean(self, seen: Pass) -> Tensor:
        """Return the mean over examples of |J^T v|^2 for random signs v."""
        logits = seen.logits
        signs = torch.randint(2, logits.shape, generator=self.generator) * 2 - 1
        projected = (logits * signs.to(logits)).sum()
        return squared_norms(input_gradient(projected, seen.x, again=True)).mean()


def _exact_mean(seen: Pass) -> Tensor:
    """Return the mean over examples of the sum over classes of the squared norms."""
    columns = class_gradients(seen.logits, seen.x, again=True)
    return torch.stack([squared_norms(gradient) for gradient in columns]).sum(0).mean()
