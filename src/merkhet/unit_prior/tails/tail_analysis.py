"""What a sample says of a unit's tail: all estimates side by side, kurtosis and quantiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from merkhet.core.errors import InputError
from merkhet.unit_prior.tails import hill, stretched
from merkhet.unit_prior.tails.bias_reduced import POWER as BIAS_REDUCED_POWER
from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.sample import Samples, absolute, largest_of
from merkhet.unit_prior.tails.spread import WithInterval, kurtosis, quantiles
from merkhet.unit_prior.tails.tail_stability import METHODS, StabilityCurve, curve_of, even_counts

POWERS = {
    "hill": hill.POWER,
    "qq": hill.POWER,
    "bias_reduced": BIAS_REDUCED_POWER,
    "stretched": stretched.POWER,
}

TARGET = (
    "Hill's and the QQ slope are of the effective theta near P = k / n, the other two step on "
    "towards P = 0; none is the asymptotic theta"
)


@dataclass(frozen=True)
class TailAnalysis:
    """What a sample says of a tail; the table is in `str()`.

    Attributes:
        estimates: By "hill", "qq", "bias_reduced", "stretched"; one that refused is not in it.
        refused: Why, by name; under "curve" that of the curve.
        curve: theta by threshold, of Hill's estimator; None where it is refused.
        kurtosis: E x^4 / (E x^2)^2 with its 95 % interval; too small for heavy tails.
        quantiles: By p, t with P(|x| > t) = p and its 95 % interval.
        zeros: Share of values that are 0.
        rows: Independent rows.
        units: Values in a row.
    """

    estimates: Mapping[str, TailEstimate]
    refused: Mapping[str, str]
    curve: StabilityCurve | None
    kurtosis: WithInterval
    quantiles: Mapping[float, WithInterval]
    zeros: float
    rows: int
    units: int

    @property
    def bias(self) -> float | None:
        """Hill's estimate less the bias-reduced one: how far off the asymptotic theta it may be.

        An indicator, not a bound: both converge slowly. None where one of them refused.
        """
        if not {"hill", "bias_reduced"} <= self.estimates.keys():
            return None
        return self.estimates["hill"].theta - self.estimates["bias_reduced"].theta

    def __str__(self) -> str:
        head = f"{self.rows} rows of {self.units}, {self.zeros:.3g} of the values 0"
        titles = f"{'method':<24}{'theta':>8}  {'95 % interval':<20}{'k':>8}{'above':>11}"
        lines = [head, titles + f"{'effective n':>13}"]
        lines += [_row(one) for one in self.estimates.values()]
        lines += [f"{name}: {why}" for name, why in self.refused.items()]
        if self.bias is not None:
            lines.append(f"Hill's less the bias-reduced, a sign of bias: {self.bias:.3g}")
        lines.append(TARGET)
        lines.append(f"kurtosis {_told(self.kurtosis)}")
        lines += [f"P(|x| > t) = {p:g} at t = {_told(t)}" for p, t in self.quantiles.items()]
        return "\n".join(lines)


def tail_analysis(samples: Samples, k: int | None = None) -> TailAnalysis:
    """Return all estimates of theta, the stability curve, kurtosis and quantiles of a sample.

    Args:
        samples: As in `hill_weibull`.
        k: How many of the largest values every method uses; by default each its own, n^0.6
            (Hill, QQ) and n^0.8 (bias-reduced, stretched) of n values.

    Raises:
        InputError: The samples or k are none that `hill_weibull` takes, or all values are 0.
    """
    values = absolute(samples)
    largest = largest_of(values)
    if k is not None:
        largest.check_range(k)
    if largest.zeros == largest.size:
        raise InputError(f"all {largest.size} values are 0: a unit that is dead has no tail")
    estimates: dict[str, TailEstimate] = {}
    refused: dict[str, str] = {}
    curve = None
    for name, power in POWERS.items():
        with _noted(refused, name):
            estimates[name] = METHODS[name](largest, largest.chosen(k, power))
    with _noted(refused, "curve"):
        curve = curve_of(largest, "hill", even_counts(largest))
    return TailAnalysis(
        estimates=estimates,
        refused=refused,
        curve=curve,
        kurtosis=kurtosis(values),
        quantiles=quantiles(largest),
        zeros=largest.zeros / largest.size,
        rows=largest.count,
        units=largest.units,
    )


@contextmanager
def _noted(refused: dict[str, str], name: str) -> Iterator[None]:
    """Note under a name why a sample is refused."""
    try:
        yield
    except InputError as error:
        refused[name] = str(error)


def _row(one: TailEstimate) -> str:
    """Return the table's row of an estimate, with its notes below."""
    spread = "none" if one.interval is None else "{:.4g} to {:.4g}".format(*one.interval)
    line = f"{one.method:<24}{one.theta:>8.4g}  {spread:<20}{one.k:>8}{one.threshold:>11.4g}"
    return "\n".join([line + f"{one.effective_size:>13.4g}", *(f"  {note}" for note in one.notes)])


def _told(found: WithInterval) -> str:
    """Return a number with its interval."""
    value, (low, high) = found
    return f"{value:.4g} ({low:.4g} to {high:.4g})"
