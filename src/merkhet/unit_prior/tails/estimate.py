"""An estimate of a tail parameter from a sample, with what stands behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from merkhet.core.intervals import Z95
from merkhet.unit_prior.tails.sample import LEAST, Largest

FEW_ROWS = "no interval: the values above the threshold come from {} rows, {} are needed"


@dataclass(frozen=True)
class TailEstimate:
    """What a sample says of theta, where -log P(|X| > x) is near (x / scale)^(1 / theta).

    Hill's method and the QQ slope estimate the *effective* parameter around the probability
    k / sample_size, the slope of log x over log(-log P): compare them with
    `UnitPrior.effective_tail` there. The other two step on towards P = 0. The asymptotic
    parameter, `UnitPrior.tail_parameter`, is another number at usual widths and depths.

    Attributes:
        theta: The estimate; inf where a power law fits better than any stretched exponential.
        interval: At 95 %, (low, high): of the sampling error alone, so it holds the estimator's
            mean, which the tail's slow convergence keeps off the asymptotic theta. Where few
            rows stand behind it and their units go strongly together it is too short. None where
            fewer than 20 rows have a value above the threshold, or theta is inf.
        method: "Hill type", "bias-reduced", "Weibull QQ" or "stretched exponential".
        k: How many of the largest values it uses.
        threshold: |x| of the next one, which they are above.
        sample_size: Values in all, zeros and units of one row among them.
        effective_size: Independent values that would say as much: sample_size where each row
            holds one unit, fewer where units of a row go together; nan without an interval.
        standard_error: Of theta, from the estimator's influence values summed by row.
        scale: In units of x, of the stretched exponential; None for the other methods.
        scale_error: Its standard error.
        notes: What else must be known, in words.
    """

    theta: float
    interval: tuple[float, float] | None
    method: str
    k: int
    threshold: float
    sample_size: int
    effective_size: float
    standard_error: float = math.nan
    scale: float | None = None
    scale_error: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def probability(self) -> float:
        """The share of values above the threshold, k / sample_size."""
        return self.k / self.sample_size

    def __str__(self) -> str:
        spread = "no interval"
        if self.interval is not None:
            spread = "{:.4g} to {:.4g}".format(*self.interval)
        where = f"{self.k} of {self.sample_size} values above {self.threshold:.4g}"
        line = f"theta {self.theta:.4g} ({spread}), {self.method}, {where}"
        return "\n".join([line, *self.notes])


def with_interval(
    largest: Largest,
    k: int,
    method: str,
    theta: float,
    error: float,
    effect: float,
    scale: tuple[float, float] | None = None,
) -> TailEstimate:
    """Return the estimate with the interval theta +- 1.96 errors.

    Args:
        largest: The sample.
        k: How many values were used.
        method: In words.
        theta: The estimate.
        error: Its standard error if all values were independent.
        effect: The design effect: variance by rows over variance of independent values, 1 or more.
        scale: Scale and its standard error, where the method has them.
    """
    rows, notes = largest.rows_above(k), largest.tied(k)
    known = rows >= LEAST
    if not known:
        notes += (FEW_ROWS.format(rows, LEAST),)
    error = error * math.sqrt(effect) if known else math.nan
    return TailEstimate(
        theta=theta,
        interval=(theta - Z95 * error, theta + Z95 * error) if known else None,
        method=method,
        k=k,
        threshold=math.exp(largest.logs[k]),
        sample_size=largest.size,
        effective_size=largest.size / effect if known else math.nan,
        standard_error=error,
        scale=scale[0] if scale else None,
        scale_error=scale[1] if scale else None,
        notes=notes,
    )
