"""Exact survivals of deep, wide networks: time of a first point and of a batch, and their error.

    python benchmarks/unit_prior_exact.py

First points are of a law made anew, a hundred layers deep; batches are a thousand points between
the quantiles at 1e-1 and at 1e-300. The reference is a sum along another vertical line in 30
digits (mpmath), its Gamma functions by recurrence; for two slopes, whose hypergeometric functions
take their time, of a hundred layers of width 10. Writes benchmarks/results/unit_prior_exact.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import mpmath as mp
import numpy as np
import torch

from merkhet.core.timing import interleaved
from merkhet.report import Figure, Goal, Record
from merkhet.unit_prior.laws.law import Law, law_of
from merkhet.unit_prior.mellin.transform import Transform
from merkhet.unit_prior.prior import UnitPrior

PAPER = tuple(range(1000, 9, -10))
NETWORKS = {
    "ReLU, widths 1000, 990, ... 10": (PAPER, "relu"),
    "ReLU, 100 x 1000": ((1000,) * 100, "relu"),
    "leaky ReLU, widths 1000, 990, ... 10": (PAPER, "leaky_relu"),
    "leaky ReLU, 100 x 1000": ((1000,) * 100, "leaky_relu"),
    "linear, widths 1000, 990, ... 10": (PAPER, "linear"),
}
COMPARED = {
    "ReLU, widths 1000, 990, ... 10": (PAPER, "relu"),
    "linear, widths 1000, 990, ... 10": (PAPER, "linear"),
    "leaky ReLU, 100 x 10": ((10,) * 100, "leaky_relu(0.2)"),
}
LEVELS = (1e-1, 1e-20, 1e-300)
POINTS, DIGITS = 1000, 30
FIRST, EACH, ERROR = 20.0, 1.0, 1e-6


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--folder", default=Path(__file__).parent / "results", type=Path)
    given = parser.parse_args()
    start, command = time.perf_counter(), "python benchmarks/unit_prior_exact.py"
    record = Record("unit_prior", "exact", "small", seeds=[], command=command)
    times(record, given.repeats)
    errors(record)
    record.settings = {"points": POINTS, "repeats": given.repeats, "digits": DIGITS}
    record.settings["threads"] = torch.get_num_threads()
    record.notes = "Intervals are quartiles of the runs. Times include everything but imports."
    record.seconds = time.perf_counter() - start
    path = record.write(given.folder, "unit_prior_exact.json")
    print(path.read_text(encoding="utf-8"))


def prior_of(widths: tuple[int, ...], activation: str) -> UnitPrior:
    """Return a prior whose units keep their variance."""
    stds = [1.0, *((2 if activation == "relu" else 1) ** 0.5 / width**0.5 for width in widths)]
    return UnitPrior(widths, activation, stds)


def times(record: Record, repeats: int) -> None:
    """Time first points and batches."""
    runs = {}
    for name, network in NETWORKS.items():
        prior = prior_of(*network)
        ends = prior.quantile([LEVELS[0], LEVELS[-1]], prior.spec.layers).value.numpy()
        first, batch = np.geomspace(*ends, 3)[1:2], np.geomspace(*ends, POINTS)
        runs[f"{name}: first point"] = lambda spec=prior.spec, t=first: fresh(spec, t)
        runs[f"{name}: {POINTS} points"] = lambda spec=prior.spec, t=batch: fresh(spec, t)
    for name, (median, (low, high)) in interleaved(runs, repeats).items():
        scale = 1000 if name.endswith("first point") else 1000 / POINTS
        unit, limit = ("ms", FIRST) if scale == 1000 else ("ms a point", EACH)
        values = [round(scale * seconds, 4) for seconds in (median, low, high)]
        record.figures[name] = Figure(values[0], unit, (values[1], values[2]))
        record.goals.append(Goal(name, f"{limit:g} {unit} or less", values[0], values[0] <= limit))


def fresh(spec, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log survivals of the last layer by a law made anew, and their errors."""
    return law_of(spec, spec.layers).log_survival(t)


def errors(record: Record) -> None:
    """Compare with many digits."""
    for name, network in COMPARED.items():
        prior = prior_of(*network)
        layer = prior.spec.layers
        points = prior.quantile(list(LEVELS), layer).value.numpy()
        value, bound = prior.law(layer).log_survival(points)
        exact = [reference(prior.law(layer), float(t)) for t in points]
        off = [abs(float(mp.mpf(float(v)) - e)) for v, e in zip(value, exact, strict=True)]
        worst = max(one / abs(float(e)) for one, e in zip(off, exact, strict=True))
        inside = all(one <= limit for one, limit in zip(off, bound, strict=True))
        record.figures[f"{name}: relative error of log S"] = Figure(worst)
        largest = float((bound / np.abs(value)).max())
        record.figures[f"{name}: its stated bound"] = Figure(largest)
        record.goals += [
            Goal(f"{name}: relative error of log S", f"under {ERROR:g}", worst, worst < ERROR),
            Goal(f"{name}: errors are within their bounds", "yes", str(inside), inside),
        ]


def reference(law: Law, t: float) -> mp.mpf:
    """Return log P(|g| > t) by a sum along a line near the saddlepoint, in many digits."""
    transform, c = Transform(law.widths, law.ratio), 1.0
    while transform.at(c).first - 1 / c < np.log(t) - law.log_scale:
        c *= 1.05
    with mp.workdps(DIGITS):
        y = mp.log(mp.mpf(t)) - mp.mpf(law.log_scale)
        c, step = mp.mpf(c), 2 * mp.pi * min(mp.mpf(c), mp.mpf(1)) / 45
        total, place = mp.mpf(0), 0
        while True:
            s = mp.mpc(c, place * step)
            term = mp.exp(log_transform(s, law) - s * y) / s
            total += term.real / 2 if place == 0 else term.real
            if place and abs(term) < mp.mpf(10) ** -18 * abs(total):
                return mp.log(total * step / mp.pi)
            place += 1


def log_transform(s: mp.mpc, law: Law) -> mp.mpc:
    """Return log M(s)."""
    chi = dict(enumerate(chis(s, max(law.widths)), 1))
    total, known = mp.log(chi[1]), {}
    for width in law.widths:
        if width not in known:
            known[width] = mp.log(radius(s, width, law.ratio, chi))
        total += known[width]
    return total


def chis(s: mp.mpc, largest: int) -> Iterator[mp.mpc]:
    """Yield E chi_k^s for k = 1, 2, ..."""
    ratios = [mp.gamma((k + s) / 2) / mp.gamma(mp.mpf(k) / 2) for k in (1, 2)]
    power = mp.mpf(2) ** (s / 2)
    for k in range(1, largest + 1):
        yield power * ratios[0]
        ratios = [ratios[1], ratios[0] * (k + s) / k]


def radius(s: mp.mpc, width: int, ratio: float, chi: dict[int, mp.mpc]) -> mp.mpc:
    """Return E|phi(z)|^s off 0."""
    if ratio == 1:
        return chi[width]
    share, total = mp.mpf(2) ** -width, mp.mpf(0)
    for k in range(width + 1):
        if ratio > 0:
            half = mp.mpf(width) / 2
            part = mp.hyp2f1(-s / 2, mp.mpf(width - k) / 2, half, 1 - mp.mpf(ratio) ** 2)
            total += share * part * chi[width]
        elif k:
            total += share * chi[k]
        share = share * (width - k) / (k + 1)
    return total


if __name__ == "__main__":
    main()
