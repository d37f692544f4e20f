"""Seconds of a tail analysis of a million values; how often the intervals hold theta.

    python benchmarks/unit_prior_tails.py

A million values in rows of 1 and of 10 units: the whole analysis (four estimators with intervals,
the stability curve, kurtosis, quantiles) and each part of it, in turns. Then samples of an
exponential law, theta = 1, with independent values and with units of a row that go together
(Gaussian scores of a correlation): the share of 95 % intervals that hold theta, with Wilson's
interval, and the stated standard error over the spread of the estimates. Last, the fit of an exact
curve. Writes benchmarks/results/unit_prior_tails.json.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from merkhet.core.intervals import wilson
from merkhet.core.timing import interleaved
from merkhet.report import Figure, Goal, Record
from merkhet.unit_prior.tails.bias_reduced import bias_reduced
from merkhet.unit_prior.tails.curve_fit import fit_curve, fit_levels
from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.hill import hill_weibull, weibull_qq
from merkhet.unit_prior.tails.stretched import stretched_fit
from merkhet.unit_prior.tails.tail_analysis import tail_analysis
from merkhet.unit_prior.tails.tail_stability import tail_stability

VALUES, SECONDS = 1_000_000, 1.0
ESTIMATORS: Mapping[str, Callable[[Tensor], TailEstimate]] = {
    "Hill type": hill_weibull,
    "Weibull QQ": weibull_qq,
    "bias-reduced": bias_reduced,
    "stretched": stretched_fit,
}
SAMPLES = {  # rows, units, correlation of their scores
    "10,000 values": (10_000, 1, 0.0),
    "2,000 rows of 10, correlation 0.3": (2_000, 10, 0.3),
    "2,000 rows of 10, correlation 0.8": (2_000, 10, 0.8),
}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--folder", default=Path(__file__).parent / "results", type=Path)
    given = parser.parse_args()
    start, command = time.perf_counter(), "python benchmarks/unit_prior_tails.py"
    record = Record("unit_prior", "tails", "small", seeds=list(range(given.seeds)), command=command)
    record.settings = {"values": VALUES, "threads": torch.get_num_threads()}
    record.settings |= {"repeats": given.repeats, "law of coverage": "exponential"}
    seconds(record, given.repeats)
    coverage(record, given.seeds)
    record.notes = "Times are medians of runs in turns, with quartiles, after some that warm up."
    record.seconds = time.perf_counter() - start
    path = record.write(given.folder, "unit_prior_tails.json")
    print(path.read_text(encoding="utf-8"))


def seconds(record: Record, repeats: int) -> None:
    """Time the analysis and its parts."""
    one = torch.randn(VALUES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ten, levels = one.reshape(-1, 10), fit_levels()
    runs: dict[str, Callable[[], object]] = {
        "analysis": functools.partial(tail_analysis, one),
        "analysis, 10 units a row": functools.partial(tail_analysis, ten),
        "stability curve": functools.partial(tail_stability, one),
        "fit of an exact curve, 100 points": functools.partial(
            fit_curve, (-levels.log()) ** 1.5, levels.log()
        ),
    }
    runs |= {name: functools.partial(run, one) for name, run in ESTIMATORS.items()}
    times = interleaved(runs, repeats)
    for name, (median, quartiles) in times.items():
        record.figures[f"seconds, {name}"] = Figure(round(median, 4), "s", quartiles)
    for name in ("analysis", "analysis, 10 units a row"):
        median = round(times[name][0], 3)
        record.goals.append(
            Goal(f"{name}, {VALUES:,} values", f"under {SECONDS:g} s", median, median < SECONDS)
        )


def coverage(record: Record, seeds: int) -> None:
    """Count how often intervals hold theta, for each kind of sample and each estimator."""
    for kind, (rows, units, correlation) in SAMPLES.items():
        drawn = [exponential(rows, units, correlation, seed) for seed in range(seeds)]
        for name, estimator in ESTIMATORS.items():
            found = [estimator(sample) for sample in drawn]
            hits = sum(one.interval[0] <= 1 <= one.interval[1] for one in found if one.interval)
            share, interval = hits / seeds, wilson(hits, seeds)
            stated = statistics.fmean(one.standard_error for one in found)
            ratio = stated / statistics.stdev(one.theta for one in found)
            effective = statistics.fmean(one.effective_size for one in found)
            record.figures |= {
                f"coverage, {name}, {kind}": Figure(share, "", interval),
                f"stated error over spread, {name}, {kind}": Figure(round(ratio, 3)),
                f"effective size, {name}, {kind}": Figure(round(effective)),
            }
            if not correlation:
                holds = interval[0] <= 0.95 <= interval[1]
                goal = f"coverage of 95 % intervals, {name}, {kind}"
                record.goals.append(Goal(goal, "0.95 within Wilson's interval", share, holds))


def exponential(rows: int, units: int, correlation: float, seed: int) -> Tensor:
    """Return values with exponential laws (rows, units), whose Gaussian scores correlate in a row.

    Args:
        rows: Independent of each other.
        units: In a row.
        correlation: Of the scores of two units of a row.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    own = torch.randn(rows, units, generator=generator, dtype=torch.float64)
    scores = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
    return -torch.special.log_ndtr(-scores)


if __name__ == "__main__":
    main()
