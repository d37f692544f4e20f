"""For which entries of a result a tail is proved, carried from operation to operation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from merkhet.unit_prior.rules.state import State

Shape = tuple[int, ...]


def entries(state: State, shape: Shape) -> Tensor | None:
    """Return for which entries a tail is proved, (*shape) of truths; None where not known.

    Args:
        state: Of the result.
        shape: Of the result.
    """
    if state.uniform or not state.attained:
        return torch.tensor(state.attained).expand(shape)
    return state.where


def at(where: Tensor | None, *, attained: bool) -> dict[str, Any]:
    """Return the fields of a state whose tail is proved at some entries.

    Args:
        where: For which entries it is; None where that is not known.
        attained: Whether it is for any, where that is not known.
    """
    if where is None:
        return {"attained": attained, "uniform": False, "where": None}
    some, every = bool(where.any()), bool(where.all())
    kept = where if some and not every else None
    return {"attained": some, "uniform": some and every, "where": kept}


EVERY: dict[str, Any] = {"attained": True, "uniform": True, "where": None}
NOWHERE: dict[str, Any] = {"attained": False, "uniform": False, "where": None}


def as_of(state: State) -> dict[str, Any]:
    """Return the fields that say for which entries the tail of a state is proved."""
    return {"attained": state.attained, "uniform": state.uniform, "where": state.where}


def both(a: State, b: State) -> dict[str, Any]:
    """Return for which entries of an entrywise result the tails of both operands are proved."""
    if not (a.attained and b.attained):
        return dict(NOWHERE)
    if a.uniform or b.uniform:
        return as_of(b if a.uniform else a)
    if a.where is None or b.where is None:
        return dict(NOWHERE)  # heavy entries of one may meet light ones of the other
    return _joint(a.where, b.where, torch.logical_and)


def either(a: State, b: State) -> dict[str, Any]:
    """Return for which entries of an entrywise result the tail of any operand is proved."""
    proved = [one for one in (a, b) if one.attained]
    if len(proved) < 2:
        return as_of(proved[0]) if proved else dict(NOWHERE)
    if a.uniform and b.uniform:
        return dict(EVERY)
    if (a.up, a.down) != (b.up, b.down):  # the sides of both are claimed, but not everywhere
        return at(None, attained=True)
    if a.uniform or b.uniform:
        return dict(EVERY)
    if a.where is None or b.where is None:
        return at(None, attained=True)
    return _joint(a.where, b.where, torch.logical_or)


def _joint(one: Tensor, other: Tensor, how: Any) -> dict[str, Any]:
    """Return the fields of entries of two results, put together."""
    try:
        return at(how(one, other), attained=False)
    except RuntimeError:  # the two do not meet entry by entry
        return dict(NOWHERE)


def nonzero(state: State, value: Tensor | None, factor: State | None = None) -> dict[str, Any]:
    """Return for which entries a tail is proved once they are multiplied by a constant.

    Args:
        state: Of the entries.
        value: The constant; None where it is not known: some of its entries may be 0, not all.
        factor: Its state, where it has one.
    """
    if value is None and factor is not None and not factor.uniform:
        return both(state, factor)
    if value is None:
        return at(None, attained=state.attained and state.uniform)
    if bool(value.ne(0).all()):
        return as_of(state)
    return both(state, State(**at(value.ne(0), attained=False)))


def fitted(found: State, shape: Shape) -> State:
    """Return a state whose entries have the shape of the result, if they stretch to it."""
    changes: dict[str, Any] = {}
    if found.where is not None and found.where.shape != shape:
        where = _stretched(found.where, shape)
        changes = at(where, attained=False)
    own = found.own
    if own is not None and own.rows is not None and own.rows.shape != shape:
        changes["own"] = replace(own, rows=_stretched(own.rows, shape))
    return replace(found, **changes) if changes else found


def _stretched(one: Tensor, shape: Shape) -> Tensor | None:
    """Return a tensor repeated to a shape, None where it does not go."""
    try:
        return one.expand(shape)
    except RuntimeError:
        return None
