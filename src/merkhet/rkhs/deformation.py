"""Penalties on how far the logits move under small deformations, and along their tangents.

n examples, K classes, S sampled deformations, J (K, *in) the Jacobian of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from merkhet.core.building import check_counts, check_positive
from merkhet.core.deformations import PADDINGS, deform
from merkhet.core.errors import choose
from merkhet.rkhs.fields import check_fields, random_fields, tangents
from merkhet.rkhs.forward_mode import weighted_squares
from merkhet.rkhs.gradient import REDUCTIONS
from merkhet.rkhs.looks import check_inputs, refuse_coupled
from merkhet.rkhs.passes import Pass
from merkhet.rkhs.penalty import Logs, Penalty


@dataclass(frozen=True)
class DeformationPenalty(Penalty):
    """|f_k|_tau^2, summed over the classes: the square of how much a logit rises when deformed.

    |f_k|_tau = max f_k(L_tau x) - f_k(x) over inputs x and a few random smooth deformations of
    each, of given norms, by their own field for every example; signed, as in the paper. With
    "sup" the search has no graph, and only the K deformed examples that rise most are looked at
    again. The differences stand as they are: to compare them with a Lipschitz constant, divide
    by |L_tau x - x| (see `deformation_ratio`).

    Args:
        max_displacement: |tau|_inf of every field, in pixels.
        max_gradient: |grad tau|_inf of every field; at most 1/2 in the theory of stability.
        samples: Deformations of each example, S.
        reduction: "sup" takes of each class the largest rise in the batch, "mean" the batch's
            mean of the squares of each example's largest.
        padding: What lies outside a picture, as in `merkhet.core.deformations.deform`.
        seed: Of the pool of fields; see `random_fields`.
        generator: Of what is drawn from the pool, on the CPU; None is PyTorch's global one.

    Logs:
        deformation: The value. deformation_batch_sup: the largest rise in the batch ("sup").

    Raises:
        InputError: A number or a choice is not such; when it is called, inputs that are neither
            pictures nor signals, or norms that no field has.

    Reference:
        Bietti et al., ICML 2019, section 3.1, the lower bound |f|_tau.
    """

    max_displacement: float = 1.0
    max_gradient: float = 0.25
    samples: int = 4
    reduction: str = "sup"
    padding: str = "zeros"
    seed: int = 0
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive(max_displacement=self.max_displacement)
        check_fields(self.max_gradient, self.seed)
        check_counts(samples=self.samples)
        choose("reduction", self.reduction, REDUCTIONS)
        choose("padding", self.padding, PADDINGS)

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and the logs."""
        check_inputs(seen.x)
        refuse_coupled(seen.model)
        clean = seen.logits
        deformed = [self._deformed(seen.x.detach()) for _ in range(self.samples)]
        if self.reduction == "mean":
            rises = torch.stack([seen.look(x) - clean for x in deformed])
            value = rises.amax(0).square().sum(1).mean()
            return value, {"deformation": value.detach()}
        with torch.no_grad():
            found = torch.cat([seen.look(x) - clean for x in deformed])
        best = found.argmax(0)
        rises = seen.look(torch.cat(deformed)[best]).diagonal()
        rises = rises - clean[best % len(clean)].diagonal()
        value = rises.square().sum()
        return value, {
            "deformation": value.detach(),
            "deformation_batch_sup": rises.detach().max(),
        }

    def _deformed(self, x: Tensor) -> Tensor:
        """Return each example deformed by a field of its own, like `x`."""
        fields = random_fields(
            x, self.max_displacement, self.max_gradient, seed=self.seed, generator=self.generator
        )
        return deform(x, fields, padding=self.padding)


@dataclass(frozen=True)
class TangentPenalty(Penalty):
    """|D_tau f_k|^2, summed over the classes: derivatives along tangents of deformations.

    D_tau f_k(x) = <grad f_k(x), t> with t = d/ds L_(s tau) x at s = 0 for a random smooth field
    of |tau|_inf = 1 pixel, one an example. All K come from the shared pass, in forward mode;
    where an operation has no forward mode, from two gradients, and a warning says so once.
    Divided by |t| they are lower bounds on Lipschitz constants (see `tangent_ratio`).

    Args:
        max_gradient: |grad tau|_inf of every field; small makes the tangents smooth, 0 makes
            them translations.
        reduction: "mean" takes the batch's mean of the squares, "sup" of each class the largest.
        padding: What lies outside a picture, as in `merkhet.core.deformations.deform`.
        seed: Of the pool of fields; see `random_fields`.
        generator: Of what is drawn from the pool, on the CPU; None is PyTorch's global one.

    Logs:
        tangent: The value. tangent_batch_sup: the largest |D_tau f_k| in the batch ("sup").

    Raises:
        InputError: A choice is not such; when it is called, inputs that are neither pictures nor
            signals, or a gradient that no field has.

    Reference:
        Bietti et al., ICML 2019, section 3.1, the lower bound |D_tau f|; tangent propagation is
        Simard, LeCun, Denker & Victorri (1998).
    """

    max_gradient: float = 0.25
    reduction: str = "mean"
    padding: str = "zeros"
    seed: int = 0
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    through_inputs = True
    leads = True

    def __post_init__(self) -> None:
        check_fields(self.max_gradient, self.seed)
        choose("reduction", self.reduction, REDUCTIONS)
        choose("padding", self.padding, PADDINGS)

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the value, shape (), and the logs."""
        x = seen.x.detach()
        fields = random_fields(x, 1.0, self.max_gradient, seed=self.seed, generator=self.generator)
        along = tangents(x, fields, self.padding)
        slopes = seen.along(along)
        weights = _weights(slopes.detach().abs(), self.reduction)
        value = weighted_squares(weights, slopes, seen.logits, seen.x, along)
        logs = {"tangent": value.detach()}
        if self.reduction == "sup":
            logs["tangent_batch_sup"] = slopes.detach().abs().max()
        return value, logs


def _weights(sizes: Tensor, reduction: str) -> Tensor:
    """Return what squares (n, K) are summed with: 1/n, or 1 at each class's largest."""
    if reduction == "mean":
        return torch.full_like(sizes, 1 / len(sizes))
    return torch.zeros_like(sizes).scatter_(0, sizes.argmax(0, keepdim=True), 1.0)
