"""Two units of one layer: whether results are, and whether sums of their products keep a tail."""

from __future__ import annotations

from merkhet.unit_prior.rules.state import State, disjoint


def one_layer(a: State, b: State) -> bool:
    """Tell whether entries that meet are different units on the same input."""
    one, other = a.own, b.own
    if one is None or other is None or one.base.name != other.base.name or not one.base.name:
        return False
    if one.layout != other.layout or not one.base.attained:
        return False
    shared = one.names[0] == other.names[0]
    return (not shared or disjoint(one.used(), other.used())) and not _in_base(
        one.names, one.base, other.names
    )


def gated(a: State, b: State) -> bool:
    """Tell whether a is a unit u = w.h and b is phi(v.h) with phi(t) ~ t where it grows, or so.

    Then sums over positions are w.g of g = sum phi(v.h) h, and v.g is at least about the sum of
    (v.h)^2 over those where v.h is large and positive: g is no lighter than each of its terms.
    """
    return any(
        one.odd
        and one.own is not None
        and other.own is not None
        and one.own.power == other.own.power == 1
        and other.own.kind in ("odd", "other")
        and other.attained
        and (other.odd or other.up)
        for one, other in ((a, b), (b, a))
    )


def _in_base(names: tuple[str, ...], base: State, others: tuple[str, ...]) -> bool:
    """Tell whether weights of layers occur in what they are applied to."""
    return any(name in base.weights for name in (*names, *others))
