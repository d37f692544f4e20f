"""The penalty that a prior on weights puts on a unit: -log of its density, to train with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError, choose
from merkhet.unit_prior.design.penalty_curve import (
    Curve,
    exact_curve,
    known_from,
    power_curve,
    slope_at,
)
from merkhet.unit_prior.design.penalty_values import curve_at

if TYPE_CHECKING:
    from merkhet.unit_prior.prior import UnitPrior

FORMS = ("exact", "asymptotic")
REDUCTIONS = ("none", "sum", "mean")
FLOOR = 1e-3  # of the median of |g|
DEEP, DEEP_ON_A_GRID = 1e4, 600.0  # how far -log p rises over the knots
NEAREST = 1e-12  # of the median: a lower floor is where the density is not computed
MATCHED = 0.01  # the probability of |g| above the point where the asymptotic form is matched


class Regulariser(nn.Module):
    """A penalty on units, by `regulariser`: -log p(u) - offset, 0 at u = 0.

    Twice continuously differentiable. Below `floor` it is a polynomial in u^2, since the density
    itself may be infinite at 0; above, a spline of fifth degree in log |u| through exact values
    at its knots, which end where the density has fallen by exp(-10,000) (exp(-600) where it comes
    from a grid); beyond, A + B |u|^(1 / theta) + C log |u|, the form of the law's tail, that
    continues value and two derivatives. From the floor to the last knot it adds some
    1e-8 of itself to the law's error; beyond, the continuation has no bound of its error: on ReLU
    layers it was seen to be 0.4 to 0.6 % low.

    A penalty that the units' type cannot hold is inf, with a finite gradient that points
    inwards; infinite units have the penalty inf and the gradient 0, NaN stays NaN.

    Shapes: (...) -> (...), or () where the reduction is "sum" or "mean"; where it is of m units
    together, (..., m) -> (...). Floats of any width; half precision is computed in float32.

    Attributes:
        constants: (8,) float64: floor, the polynomial's two coefficients, the tail's four
            numbers, and the offset.
        pieces: (n, 6) float64, the spline.
        sides: (2,) float64: the slopes of the activation below and above 0; (1, 1) before it.

    Args:
        curve: The penalty of a length.
        sides: As the attribute. Where one is 0, units of that sign have an infinite penalty.
        units: Units in the last axis that are penalised together.
        reduction: "none", "sum" or "mean" over what is left.

    References:
        Vladimirova, Verbeek, Mesejo and Arbel, ICML 2019 (arXiv 1810.05193), for the reading of
        priors as penalties on units.
    """

    constants: Tensor
    pieces: Tensor
    sides: Tensor

    def __init__(
        self,
        curve: Curve,
        sides: tuple[float, float] = (1.0, 1.0),
        units: int = 1,
        reduction: str = "none",
    ) -> None:
        super().__init__()
        check_counts(units=units)
        self.units = units
        self.reduction = choose("reduction", reduction, REDUCTIONS)
        numbers = (curve.floor, *curve.core, *curve.tail, curve.offset)
        self.register_buffer("constants", torch.tensor(numbers, dtype=torch.float64))
        self.register_buffer("pieces", torch.from_numpy(curve.pieces).double())
        self.register_buffer("sides", torch.tensor(sides, dtype=torch.float64))

    @property
    def floor(self) -> float:
        """The |u| below which the penalty is smoothed."""
        return float(self.constants[0])

    @property
    def offset(self) -> float:
        """What was taken off: -log p(u) = penalty + offset above the floor.

        For the asymptotic form it makes up for the smoothing only: that form is no density.
        """
        return float(self.constants[-1])

    def forward(self, units: Tensor) -> Tensor:
        """Return the penalty of units.

        Raises:
            InputError: They are not floats, or the last axis has another number of units.
        """
        self._check(units)
        given = units.to(torch.promote_types(units.dtype, torch.float32))
        sides = self.sides.to(given)
        slope = torch.where(given < 0, sides[0], torch.where(given > 0, sides[1], sides.amax()))
        dead, slope = slope == 0, torch.where(slope > 0, slope, 1.0)
        scaled = given / slope
        barred = dead | scaled.isinf()
        held = self.constants[:-1], self.pieces
        penalty = curve_at(*held, torch.where(barred, 0.0, scaled), together=self.units > 1)
        if self.units == 1:  # a density by slope: that of u / slope, over slope
            penalty = penalty + slope.log()
        else:
            barred = barred.any(-1)
        penalty = penalty + torch.where(barred, torch.inf, 0.0).to(penalty)
        reduced = penalty if self.reduction == "none" else getattr(penalty, self.reduction)()
        return reduced.to(units.dtype)

    def _check(self, units: Tensor) -> None:
        """Refuse what is no tensor of so many units."""
        if not isinstance(units, Tensor) or not units.is_floating_point():
            what = units.dtype if isinstance(units, Tensor) else type(units).__name__
            raise InputError(f"units of {what}: give a tensor of floats")
        if self.units > 1 and (not units.dim() or units.shape[-1] != self.units):
            raise InputError(
                f"units of shape {tuple(units.shape)}: the penalty is of {self.units} units "
                f"together, give (..., {self.units})"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Regulariser:
        """Move the buffers, and keep them in float64: the penalty is computed in units' type."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"units={self.units}, floor={self.floor:.3g}, reduction={self.reduction!r}"


def regulariser(
    prior: UnitPrior,
    layer: int,
    *,
    form: str = "exact",
    post: bool = False,
    units: int = 1,
    floor: float | None = None,
    reduction: str = "none",
) -> Regulariser:
    """Return the penalty that a prior puts on the units of a layer, for training by MAP.

    Added to a loss in nats, -log p(u) of each unit makes the loss's minimum a maximum a
    posteriori of what the units of that layer are, their dependence left out; `units` takes it
    in for so many units of one input. One input is meant: an input of the norm of the prior's.

    The penalty of units together is least where all of them are 0, and may be steep there: behind
    ReLU layers the joint density has a spike at 0, from networks of which few units of a layer are
    on, and the sharper the more units are taken together. Up to some 9 units densities are known
    down to the default floor; of more, not between the spike and the bulk: the default floor is
    then raised beyond, a lower one is refused. Of many units penalise groups, or each alone.

    Args:
        prior: The prior on units.
        layer: From 1 to L + 1.
        form: "exact", or "asymptotic": B |u|^(1 / theta), theta = layer / 2 for activations with
            the envelope property, with B such that its slope is the exact penalty's at the |u|
            that is exceeded with probability 0.01.
        post: Whether the units are seen after the activation, which must be linear on both sides
            of 0 with slopes from 0 on. The penalty is of the density off 0: what the activation
            sets to 0 has the penalty 0, whose gradient is 0.
        units: Units in the last axis that are penalised together, by their joint density; as
            they share the layer before, it is not the product of their densities.
        floor: |u|, or the length of several units, below which the penalty is smoothed; by
            default a thousandth of the median of |u| off 0 (times sqrt(units)), or more where
            -log p is not known to 0.1 from there on. At most what |u| exceeds with probability
            0.01 off 0 (times sqrt(units)).
        reduction: "none", "sum" or "mean".

    Raises:
        InputError: No such layer or form, an activation of other kinds with post=True, units
            penalised together after the activation, a floor that is too low or high, or more
            units than have a density that is known.
    """
    spec = prior.spec
    choose("form", form, FORMS)
    spec.check_layer(layer, post=post)
    check_counts(units=units)
    sides = _sides(prior, post, units)
    law = prior.law(layer)
    median, far = (_length_at(prior, layer, p, units) for p in (0.5, MATCHED))
    low = FLOOR * median if floor is None else floor
    check_positive(floor=low)
    if not NEAREST * median <= low <= far:
        raise InputError(
            f"floor = {low:g}: give one from {NEAREST * median:.4g} to {far:.4g}, which units "
            "seldom exceed, or none for the default"
        )
    known = known_from(law, units, low, far)
    if known > (far if floor is None else floor):
        raise _unknown(units, known)
    rate = 1 / prior.tail_parameter(layer)
    curve = exact_curve(law, units, known, DEEP if spec.exact else DEEP_ON_A_GRID, rate)
    if form == "asymptotic":
        curve = power_curve(known, slope_at(curve, far) / (rate * far**rate), rate)
    return Regulariser(curve, sides, units, reduction)


def _unknown(units: int, known: float) -> InputError:
    """Return the error of a floor below which the density of units is not known."""
    instead = f"give floor = {known:.3g} or more, or " if known < math.inf else ""
    return InputError(
        f"the joint density of {units} units is not known well enough near 0 under this prior: "
        f"{instead}take fewer units together"
    )


def _length_at(prior: UnitPrior, layer: int, p: float, units: int) -> float:
    """Return the |u| exceeded with probability p off 0, times sqrt(units)."""
    alive = 1 - prior.law(layer).zero_mass
    return float(prior.quantile(p * alive, layer)) * math.sqrt(units)


def _sides(prior: UnitPrior, post: bool, units: int) -> tuple[float, float]:
    """Return the slopes that units went through, or refuse them."""
    if not post:
        return 1.0, 1.0
    slopes = prior.spec.activation.slopes
    if slopes is None or min(slopes) < 0 or max(slopes) == 0:
        raise InputError(
            f"post=True needs an activation with slopes from 0 on, such as relu; for "
            f"{prior.spec.activation.name} penalise the units before it"
        )
    if units > 1:
        raise InputError("units penalised together are seen before the activation: post=False")
    return slopes
