"""How a time budget is shared among checks: each its least, and an equal part of what is over."""

from __future__ import annotations

from collections.abc import Sequence

from merkhet.report import Check


def share(waiting: Sequence[Check], left: float) -> float | None:
    """Return the seconds that the first of the waiting checks may take, None if it comes too late.

    Checks come cheapest first. As many of them as have their least together within what is left
    are counted on; what is over beyond that is shared equally, and what a check does not use is
    there for the next.

    Args:
        waiting: Checks that are to run, the next one first.
        left: Seconds of the budget that are left.
    """
    if waiting[0].seconds > left:
        return None
    needed, counted = 0.0, 0
    for check in waiting:
        if needed + check.seconds > left:
            break
        needed, counted = needed + check.seconds, counted + 1
    return waiting[0].seconds + (left - needed) / counted


def too_late(check: Check, left: float) -> str:
    """Say that a check no longer fits the budget."""
    return f"needs about {check.seconds:.0f} s and {max(left, 0):.0f} s of the budget are left"
