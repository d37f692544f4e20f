"""Which absolute moments of a unit are finite."""

from __future__ import annotations

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.central import Number
from merkhet.unit_prior.laws.unit_laws import UnitLaw

LARGEST = 1e300  # of an order
BORDER = 1e-9  # relative to the least order, within which rounding decides


def checked_log_moment(unit: UnitLaw, order: float) -> Number:
    """Return log E|u|^order and its error.

    Args:
        unit: The law of u.
        order: Any number above the least one that is finite; from 0 on where u may be 0.

    Raises:
        InputError: The moment is infinite, or the order no finite number.
    """
    if isinstance(order, bool) or not isinstance(order, int | float) or not abs(order) < LARGEST:
        raise InputError(f"order = {order!r}: give a finite number under {LARGEST:g}")
    if order == 0:
        return 0.0, 0.0
    if order < 0 and unit.zero_mass > 0:
        raise InputError(
            f"E|u|^{order:g} is infinite, as P(u = 0) = {unit.zero_mass:g}: give an order from 0 on"
        )
    if order < 0:
        _check_finite(unit, order)
    return unit.log_moment(float(order))


def _check_finite(unit: UnitLaw, order: float) -> None:
    """Refuse an order below 0 whose moment is infinite, or on the border."""
    least = unit.least_order()
    if order > least * (1 - BORDER):
        return
    if least == 0:
        raise InputError(
            f"E|u|^{order:g} is infinite, as P(|u| < t) falls slower than any power of t, if at "
            "all: give an order from 0 on"
        )
    raise InputError(
        f"E|u|^{order:g} is infinite, or on the border, as P(|u| < t) falls as t^{-least:g}, but "
        f"for logs: give an order above {least:g}"
    )
