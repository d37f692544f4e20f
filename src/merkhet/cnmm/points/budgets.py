"""Budgets: what is within one, how some are spread, and what is said of one that is too small."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from numbers import Real
from typing import Protocol, TypeVar, cast

import numpy as np

from merkhet.cnmm.nodes import Nodes, written
from merkhet.core.building import check_counts
from merkhet.core.errors import InputError

# Costs are sums of some dozens of numbers, each rounded to 1.1e-16 of it.
ROUNDING = 1e-12


class Choice(Protocol):
    """A choice of nodes, with what it costs and how likely it is."""

    @property
    def nodes(self) -> Nodes:
        """The nodes."""

    @property
    def cost(self) -> float:
        """What it costs."""

    @property
    def log_probability(self) -> float:
        """Natural log of how likely a network drawn from the mixture is it, or within it."""

    @property
    def rank(self) -> tuple[float, float, Nodes]:
        """What choices are sorted by, the likeliest first; of equals the cheapest."""


C = TypeVar("C", bound=Choice)


@dataclass(frozen=True)
class Minimum:
    """The least that any choice of nodes costs.

    Attributes:
        what: What is chosen, in words: "network" or "node set".
        nodes: The cheapest choice.
        cost: What it costs.
        unit: Of the cost, in words.
    """

    what: str
    nodes: Nodes
    cost: float
    unit: str

    def check(self, budget: object) -> float:
        """Return a budget, a number that is not below the minimum.

        Raises:
            InputError: It is something else; names the minimum, its nodes and the unit.
        """
        most = _number(budget)
        if math.isnan(most):
            raise InputError(f"budget {budget!r}: give a number of {self.unit}")
        if not fits(self.cost, most):
            least = f"{shown(self.cost)} {self.unit}"
            raise InputError(
                f"no {self.what} costs {most:.10g} {self.unit} or less: the cheapest, "
                f"{written(self.nodes)}, costs {least}; give a budget of {least} or more"
            )
        return most


def fits(cost: float, budget: float) -> bool:
    """Return whether a cost is within a budget, or above it by rounding alone."""
    return cost <= budget + ROUNDING * abs(budget)


def spread(buckets: int | Sequence[float], least: Minimum, most: float) -> list[float]:
    """Return the upper ends of buckets of cost, rising.

    Args:
        buckets: The ends themselves, in any order, in a list or an array; or how many, even in
            log cost from the least to the most, both among them (even in cost, where the least
            is 0).
        least: The least that a network costs.
        most: The most that one costs.

    Raises:
        InputError: No number, not a whole number from 1 on, no end at all, or one below the least.
    """
    given: object = buckets.tolist() if hasattr(buckets, "tolist") else buckets
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        ends = {least.check(budget) for budget in given}
        if not ends:
            raise InputError(f"no budgets: give numbers of {least.unit}, or how many are wanted")
        return sorted(ends)
    check_counts(budgets=buckets)
    count = cast("int", buckets)
    if count == 1 or fits(most, least.cost):
        return [most]
    between = np.geomspace if least.cost > 0 else np.linspace
    inner = between(least.cost, most, count)[1:-1]
    return [least.cost, *map(float, inner), most]


def bucket_of(cost: float, ends: Sequence[float]) -> int:
    """Return the number of the bucket that a cost lies in, `len(ends)` where it is above all."""
    place = bisect_left(ends, cost)
    return place - 1 if place and fits(cost, ends[place - 1]) else place


def best_of_each(found: Iterable[C], ends: Sequence[float], best: int) -> list[list[C]]:
    """Return the likeliest few choices of each bucket of cost.

    Args:
        found: The choices.
        ends: The upper ends of the buckets, rising; what is above the last is left out.
        best: How many of each.
    """
    buckets: list[list[C]] = [[] for _ in range(len(ends) + 1)]
    for one in found:
        buckets[bucket_of(one.cost, ends)].append(one)
    return [sorted(bucket, key=lambda one: one.rank)[:best] for bucket in buckets[:-1]]


def _number(given: object) -> float:
    """Return a real number as a float, infinite where it is too large; what is none as NaN."""
    if isinstance(given, bool) or not isinstance(given, Real):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.inf if cast("float", given) > 0 else -math.inf


def shown(cost: float) -> str:
    """Return a cost as text, 5 digits where it is no whole number, rounded up: that it fits."""
    if cost == int(cost):
        return f"{cost:.0f}"
    return f"{float(Context(prec=5, rounding=ROUND_CEILING).create_decimal(repr(cost))):g}"
