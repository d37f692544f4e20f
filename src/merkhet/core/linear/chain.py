"""Linear operations one after another, as one operator between two spaces."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from merkhet.core.linear.steps import Sizes, Step


@dataclass(frozen=True, eq=False)
class Chain:
    """Linear operations one after another on examples of one shape.

    Attributes:
        steps: The operations, first to last; none is the identity.
        input_shape: Of one example, without the batch.
        output_shape: Of one answer.

    Raises:
        InputError: A step does not take what the one before it answers.
    """

    steps: tuple[Step, ...]
    input_shape: Sizes
    output_shape: Sizes = field(init=False)

    def __post_init__(self) -> None:
        shape = tuple(self.input_shape)
        object.__setattr__(self, "input_shape", shape)
        for step in self.steps:
            shape = step.output_shape(shape)
        object.__setattr__(self, "output_shape", shape)

    def apply(self, x: Tensor) -> Tensor:
        """Return A x, (b, *out), for x (b, *in)."""
        for step in self.steps:
            x = step.apply(x)
        return x

    def transpose(self, y: Tensor) -> Tensor:
        """Return A^T y, (b, *in), for y (b, *out): the product with the Jacobian; detached."""
        return self.apply_both(torch.zeros(len(y), *self.input_shape).to(y), y)[1]

    def apply_both(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return A x and A^T y, detached, from one graph; y None stands for A x.

        Args:
            x: (b, *in).
            y: (b, *out).
        """
        with torch.enable_grad():
            start = x.detach().clone().requires_grad_()
            answer = self.apply(start)
        given = answer.detach() if y is None else y
        (back,) = torch.autograd.grad(answer, start, given)
        return answer.detach(), back
