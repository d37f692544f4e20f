"""Which absolute moments of a unit are finite."""

from __future__ import annotations

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.unit_laws import Number, UnitLaw

LARGEST = 1e300  # of an order


def checked_log_moment(unit: UnitLaw, order: float) -> Number:
    """Return log E|u|^order and its error.

    Args:
        unit: The law of u.
        order: Any number above -1; from 0 on where u may be 0.

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
    if order < 0 and not unit.smooth:
        raise InputError(
            f"E|u|^{order:g} after an activation that bends: moments are computed from order 0 on; "
            "ask before the activation"
        )
    if order <= -1:
        raise InputError(
            f"E|u|^{order:g} is infinite, as u has a density at 0: give an order above -1"
        )
    return unit.log_moment(float(order))
