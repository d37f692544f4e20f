"""Laws of units in many digits, by the definitions: slow, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import mpmath as mp

DIGITS = 25


def transform(s: mp.mpc, widths: Sequence[int], slopes: tuple[float, float], units: int = 1):
    """Return E[x^s; x not 0], x = |z_m| R_1 ... R_L, as a product of sums over active units."""
    total = chi(units, s)
    for width in widths:
        total *= radius(width, s, slopes)
    return total


def chi(k: int, s: mp.mpc):
    """Return E chi_k^s."""
    return mp.mpf(2) ** (s / 2) * mp.gamma((k + s) / 2) / mp.gamma(mp.mpf(k) / 2)


def radius(width: int, s: mp.mpc, slopes: tuple[float, float]):
    """Return E|phi(z)|^s off 0, over the number of units above 0, one slope at most 1 being 1."""
    below, above = map(abs, slopes)
    assert above == 1
    if below == 1:
        return chi(width, s)
    total = mp.mpf(0)
    for k in range(width + 1):
        share = mp.binomial(width, k) / mp.mpf(2) ** width
        if below == 0:
            total += share * chi(k, s) if k else 0
        else:
            part = mp.hyp2f1(
                -s / 2, mp.mpf(width - k) / 2, mp.mpf(width) / 2, 1 - mp.mpf(below) ** 2
            )
            total += share * part * chi(width, s)
    return total


def log_survival(t, widths: Sequence[int], slopes: tuple[float, float], c: float):
    """Return log P(x > t) for c > 0, log P(0 < x <= t) for c < 0, by sums along the line at c.

    The step is so fine that the nearest alias is under exp(-45) of the integrand at tau = 0.
    """
    with mp.workdps(DIGITS):
        t, c = mp.mpf(t), mp.mpf(c)
        step = 2 * mp.pi * min(abs(c), 1 + c, mp.mpf(1)) / 45
        total, place = mp.mpf(0), 0
        while True:
            s = mp.mpc(c, place * step)
            term = transform(s, widths, slopes) * t**-s / s
            total += term.real / 2 if place == 0 else term.real
            if place and abs(term) < mp.mpf(10) ** -22 * abs(total):
                return mp.log(abs(total) * step / mp.pi)
            place += 1


def mixed_log_survival(t, width: int):
    """Return log P(|g_2| > t) for one ReLU layer, s = 1: an integral over each chi variable."""
    with mp.workdps(25):
        t, total = mp.mpf(t), mp.mpf(0)
        for k in range(1, width + 1):
            share = mp.binomial(width, k) / mp.mpf(2) ** width
            share /= mp.gamma(mp.mpf(k) / 2) * mp.mpf(2) ** (mp.mpf(k) / 2 - 1)

            def integrand(r, k=k):
                size = r ** (k - 1) * mp.exp(t - r * r / 2)  # quad's tolerance is absolute
                return size * mp.erfc(t / r / mp.sqrt(2))

            peak = mp.sqrt(t) + mp.sqrt(k)
            ends = (0, 0.5, 0.8, 1, 1.3, 2, 10)
            total += share * mp.quad(integrand, [peak * end for end in ends])
        return mp.log(total) - t
