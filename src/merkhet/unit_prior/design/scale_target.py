"""What a unit is to be like: a number of its law, and the value wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merkhet.core.building import check_positive
from merkhet.core.errors import InputError, choose

if TYPE_CHECKING:
    from merkhet.unit_prior.answer import Answer
    from merkhet.unit_prior.prior import UnitPrior

WRITTEN = re.compile(r"(\w+)(?:\(([^()]+)\))?=(.+)")
WITH_PROBABILITY = ("quantile", "effective_tail")
SCALED = ("std", "median", "quantile")  # grow with the weights
SHAPED = ("kurtosis", "effective_tail")  # depend on widths
MEASURES = (*SCALED, *SHAPED)


@dataclass(frozen=True)
class Target:
    """A number of the law of a unit g, and the value that it is to have.

    Attributes:
        measure: "std"; "median" of |g|; "quantile", the t with P(|g| > t) = p; "kurtosis",
            E (g - E g)^4 / var^2, 3 for a normal unit; "effective_tail", the local tail
            parameter where |g| is exceeded with probability p.
        value: What it is to be.
        p: A probability, of "quantile" and "effective_tail".

    Raises:
        InputError: No such measure, a value that is not positive, or a p that is missing,
            superfluous or no probability.
    """

    measure: str
    value: float
    p: float | None = None

    def __post_init__(self) -> None:
        choose("target", self.measure, MEASURES)
        check_positive(**{self.measure: self.value})
        if self.measure not in WITH_PROBABILITY:
            if self.p is not None:
                raise InputError(f"{self.measure} takes no p: write '{self.measure}={self.value}'")
        elif self.p is None or not 0 < self.p < 1:
            raise InputError(
                f"{self.measure} at p = {self.p!r}: give a probability above 0 and below 1, as in "
                f"'{self.measure}(0.01)={self.value:g}'"
            )

    def of(self, prior: UnitPrior, layer: int, *, post: bool = False) -> Answer:
        """Return the measure of a unit under a prior.

        Args:
            prior: The prior on units.
            layer: Of the unit.
            post: Whether the unit is seen after the activation.
        """
        if self.measure in ("std", "kurtosis"):
            found: Answer = getattr(prior, self.measure)(layer, post=post)
            return found
        if self.measure == "effective_tail":
            assert self.p is not None
            return prior.effective_tail(self.p, layer, post=post)
        return prior.quantile(0.5 if self.p is None else self.p, layer, post=post)

    def __str__(self) -> str:
        p = "" if self.p is None else f"({self.p:g})"
        return f"{self.measure}{p}={self.value:g}"


def parse_target(given: str | Target) -> Target:
    """Return a target from text.

    Args:
        given: "std=1", "median=0.5", "quantile(0.01)=3", "kurtosis=4" or
            "effective_tail(1e-5)=0.6". A `Target` is handed back.

    Raises:
        InputError: It is written otherwise, or is no possible target.

    Example:
        >>> parse_target("quantile(0.01)=3")
        Target(measure='quantile', value=3.0, p=0.01)
    """
    if isinstance(given, Target):
        return given
    match = WRITTEN.fullmatch(given.replace(" ", "")) if isinstance(given, str) else None
    if match is None:
        raise InputError(
            f"target {given!r}: write MEASURE=VALUE, as in 'std=1', 'quantile(0.01)=3' or "
            "'kurtosis=4'"
        )
    measure, p, value = match.groups()
    return Target(measure, _number(value, given), None if p is None else _number(p, given))


def _number(text: str, given: str) -> float:
    """Return a number of a target."""
    try:
        return float(text)
    except ValueError:
        raise InputError(f"target {given!r}: {text!r} is no number") from None
