"""What the reading of tails carries from operation to operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

ROUNDING = 1e-9  # relative, of sums of thetas such as 1/3 + 1/3
Rows = frozenset[tuple[int, int]] | None  # (axis, place) of rows of a weight; None for all of it
Weights = Mapping[str, Rows]  # parameters under the prior, and which of their rows


@dataclass(frozen=True, eq=False)
class Own:
    """The layer of weights that a result came out of last, and what it has been through since.

    Attributes:
        names: The weight and, under the prior, its bias. Changing the sign of a row of both
            changes the sign of a unit and leaves the prior as it is.
        rows: Which row made each entry, of the result's shape; None where that is not known.
        base: The state that the weights were applied to.
        kind: "weights" of weights themselves, in any order and shape; "odd" where the result
            changes sign with its row, up to constants; "gate" after an activation that is above
            a constant where the unit is positive, as sigmoid is; "even" after one that grows to
            the same sign on both sides, as |u| does; "other" after others.
        layout: Moves of positions since then.
        power: How it grows with its units: as their size to this power; 0 for bounded functions.
        along: The axis of the weight that its rows are counted along.
    """

    names: tuple[str, ...]
    rows: Tensor | None
    base: State
    kind: str = "odd"
    layout: tuple[str, ...] = ()
    power: float = 1.0
    along: int = 0

    def used(self) -> Rows:
        """Return the rows that its entries come from."""
        if self.rows is None:
            return None
        return frozenset((self.along, row) for row in self.rows.unique().tolist())


@dataclass(frozen=True, eq=False)
class State:
    """The tails of a result's entries, and what proofs about what follows need to know.

    Attributes:
        theta: Tail parameter of the heaviest entries, or a bound from above.
        index: Index of a power tail, or None.
        attained: Whether theta is proved to be optimal for some entry (with theta = 0: whether
            some entry is not always 0).
        uniform: Whether it is for every entry.
        where: For which entries it is, of the result's shape; None where it is for every one, for
            none, or where that is not known.
        random: Whether it depends on weights under the prior.
        up: Whether the tail towards + infinity attains theta.
        down: Whether the tail towards - infinity does.
        low: Whether entries are bounded from below.
        high: Whether they are bounded from above.
        nonneg: Whether no entry is negative.
        away: Whether all are above a positive constant.
        pools: Whether sums of entries with factors that are not negative attain theta as well.
        centred: Axes along which entries may sum to 0, for a norm took their mean away.
        copies: Axes along which all entries are the same one.
        holes: Whether entries may be -infinity by construction, as masked scores are.
        own: The last layer of weights, where at most one activation came since.
        weights: Parameters under the prior that it depends on.
        name: The node that first had these values.
        rising: A node of which this is an odd, increasing function, "" for none.
        floor: A node such that this is above a positive constant where that is positive.
        norm: ("square" | "energy" | "root" | "inverse", node): its squared entries, their sum or
            mean, the root of that, or one over the root; ("weights", node): of a softmax.
        reason: Why, in words.
    """

    theta: float = 0.0
    index: float | None = None
    attained: bool = True
    uniform: bool = True
    where: Tensor | None = None
    random: bool = False
    up: bool = True
    down: bool = True
    low: bool = False
    high: bool = False
    nonneg: bool = False
    away: bool = False
    pools: bool = True
    centred: frozenset[int] = frozenset()
    copies: frozenset[int] = frozenset()
    holes: bool = False
    own: Own | None = None
    weights: Weights = field(default_factory=dict)
    name: str = ""
    rising: str = ""
    floor: str = ""
    norm: tuple[str, str] | None = None
    reason: str = ""

    @property
    def odd(self) -> bool:
        """Whether signs of its last weights are signs of its entries."""
        return self.own is not None and self.own.kind in ("odd", "weights")

    @property
    def parameter(self) -> bool:
        """Whether its entries are weights themselves, each once."""
        return self.own is not None and self.own.kind == "weights"

    def heavier(self, other: State) -> bool:
        """Tell whether its tails are heavier than those of another, for certain."""
        if math.isfinite(self.theta) or math.isfinite(other.theta):
            return self.theta > other.theta * (1 + ROUNDING)
        if self.index is None or other.index is None:
            return False
        return self.index < other.index


def constant(name: str = "", reason: str = "it does not depend on the weights") -> State:
    """Return the state of what does not depend on the weights."""
    return State(name=name, rising=name, low=True, high=True, reason=reason)


def bounded(weights: Weights, name: str, reason: str, *, attained: bool = True) -> State:
    """Return the state of a bounded result, by default of both signs."""
    return State(
        attained=attained,
        uniform=attained,
        random=bool(weights),
        low=True,
        high=True,
        weights=weights,
        name=name,
        rising=name,
        reason=reason,
    )


def one_sign(state: State) -> State:
    """Return a state that is known not to be negative."""
    return replace(state, low=True, nonneg=True, down=False)


def together(states: Iterable[State]) -> dict[str, Rows]:
    """Return the parameters that any of some states depends on."""
    found: dict[str, Rows] = {}
    for state in states:
        for name, rows in state.weights.items():
            before = found.get(name, frozenset())
            found[name] = None if rows is None or before is None else before | rows
    return found


def apart(one: State, other: State) -> bool:
    """Tell whether two states depend on different weights: they are independent."""
    return all(_unused(rows, other.weights, name) for name, rows in one.weights.items())


def fresh(own: Own, *others: State) -> bool:
    """Tell whether the rows of a layer occur in none of some states."""
    used = own.used()
    return all(_unused(used, other.weights, name) for other in others for name in own.names)


def _unused(rows: Rows, weights: Weights, name: str) -> bool:
    """Tell whether rows of a parameter are none of those that weights have."""
    return name not in weights or disjoint(rows, weights[name])


def disjoint(rows: Rows, others: Rows) -> bool:
    """Tell whether rows of one weight have no entry in common."""
    if rows is None or others is None or len({axis for axis, _ in rows | others}) > 1:
        return False  # rows along one axis cross those along another
    return not rows & others


def least_index(*states: State) -> float | None:
    """Return the index of a sum or product: the least of the indices, None if one is unknown."""
    infinite = [state.index for state in states if math.isinf(state.theta)]
    known = [index for index in infinite if index is not None]
    return min(known) if known and len(known) == len(infinite) else None
