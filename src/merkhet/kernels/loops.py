"""Compiled loops of the fast paths. Import this where it is used: numba is slow to load.

One image x meets several images y at once, the lanes, so that every inner loop runs over
neighbouring numbers. All are in one file because numba does not look at the files of functions that
are called. In order: layers on a row, pooling, patches, whole blocks, planes, dense networks.

i, j position of x; k, q position of y (row, column); l lane; m = (q, l) as one axis;
K length of a patch; a prime, here _out, is a position after pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from merkhet.core.compiled import exponential, vectorised

F = np.float32
PER_PI = 1 / math.pi
RELU, EXPONENTIAL = 0, 1


def _polynomial(of: Callable[[Any], Any]) -> tuple[float, ...]:
    """Return the coefficients of a function on [0, 1], nearly the best of degree 7."""
    fit = np.polynomial.Chebyshev.interpolate(of, 7, domain=[0, 1])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


def _arccos_by_root(a: Any) -> Any:
    """Return arccos(a) / sqrt(1 - a), which is smooth up to 1."""
    inside = np.minimum(a, 1 - 1e-12)
    return np.arccos(inside) / np.sqrt(1 - inside)


# arccos(a) = sqrt(1 - a) A(a) and sqrt(1 - a^2) = sqrt(1 - a) B(a), within 3e-8 and smoothly: in
# float64 near inputs have nearly the same error, and their later cosines none that a root shows.
A0, A1, A2, A3, A4, A5, A6, A7 = _polynomial(_arccos_by_root)
B0, B1, B2, B3, B4, B5, B6, B7 = _polynomial(lambda a: np.sqrt(1 + a))


@vectorised
def _products(patch: Any, patches: Any, u: Any) -> None:
    """Set u (M,) to the products of a patch (K,) with patches (K, M); K is a multiple of 9."""
    for k in range(0, patch.shape[0], 9):
        a, b, c, d, e = patch[k], patch[k + 1], patch[k + 2], patch[k + 3], patch[k + 4]
        f, g, h, i = patch[k + 5], patch[k + 6], patch[k + 7], patch[k + 8]
        p, q, r, s, t = patches[k], patches[k + 1], patches[k + 2], patches[k + 3], patches[k + 4]
        v, w, x, y = patches[k + 5], patches[k + 6], patches[k + 7], patches[k + 8]
        if k == 0:
            for m in range(u.shape[0]):
                sums = a * p[m] + b * q[m] + c * r[m] + d * s[m] + e * t[m]
                u[m] = sums + f * v[m] + g * w[m] + h * x[m] + i * y[m]
        else:
            for m in range(u.shape[0]):
                sums = a * p[m] + b * q[m] + c * r[m] + d * s[m] + e * t[m]
                u[m] += sums + f * v[m] + g * w[m] + h * x[m] + i * y[m]


@vectorised
def _rectify(u: Any, negative: float, dual: Any, slope: Any) -> None:
    """Set dual and slope (M,) of a leaky ReLU at cosines u (M,), float64: 1 - u must be exact."""
    leak, bend = negative, (1 - negative) ** 2 / 2
    for m in range(u.shape[0]):
        a = min(abs(u[m]), 1.0)
        root = math.sqrt(1.0 - a)
        arccos = A0 + a * (A1 + a * (A2 + a * (A3 + a * (A4 + a * (A5 + a * (A6 + a * A7))))))
        sine = B0 + a * (B1 + a * (B2 + a * (B3 + a * (B4 + a * (B5 + a * (B6 + a * B7))))))
        angle = root * arccos * PER_PI
        k0 = 1.0 - angle if u[m] > 0 else angle
        cosine = a if u[m] > 0 else -a
        dual[m] = leak * cosine + bend * (cosine * k0 + root * sine * PER_PI)
        slope[m] = leak + bend * k0


@vectorised
def _exponentiate(u: Any, sigma: float, dual: Any, slope: Any) -> None:
    """Set dual and slope (M,) of the exponential kernel at cosines u (M,), in float32."""
    sharpness, half = F(1 / sigma**2), F(0.5)
    for m in range(u.shape[0]):
        value = half * exponential(F(u[m] - 1) * sharpness)
        dual[m] = value
        slope[m] = value * sharpness


@vectorised
def _exponentiate_exactly(u: Any, sigma: float, dual: Any, slope: Any) -> None:
    """Set dual and slope (M,) of the exponential kernel, for networks that have a ReLU too."""
    sharpness = 1 / sigma**2
    for m in range(u.shape[0]):
        dual[m] = math.exp((min(u[m], 1.0) - 1) * sharpness) / 2
        slope[m] = dual[m] * sharpness


@vectorised
def _activate(kind: int, parameter: float, u: Any, dual: Any, slope: Any) -> None:
    """Set dual and slope (M,) of an activation at cosines u (M,)."""
    if kind == RELU:
        _rectify(u, parameter, dual, slope)
    elif dual.itemsize == 4:
        _exponentiate(u, parameter, dual, slope)
    else:
        _exponentiate_exactly(u, parameter, dual, slope)


@vectorised
def _first_row(x: Any, y: Any, act: Any, u: Any, s: Any, t: Any) -> None:
    """Set s and t (W, M) to covariance and tangent kernel after the first layer.

    x patches (W, K) and norms (W,) of a row; y patches (K, M) and norms (M,); room u (M,).
    All are contiguous: slices that are not would not be vectorised.
    """
    (patch, norm), (patches, norms), (kind, parameter) = x, y, act
    for j in range(patch.shape[0]):
        _products(patch[j], patches, u)
        _activate(kind, parameter, u, s[j], t[j])
        _first_scaled(norm[j], norms, u, s[j], t[j])


@vectorised
def _first_scaled(norm: float, norms: Any, u: Any, s: Any, t: Any) -> None:
    """Multiply dual s and slope t (M,) of the first layer by what they stand for."""
    for m in range(u.shape[0]):
        both = norm * norms[m]
        s[m] = both * s[m]
        t[m] = F(both) * F(u[m]) * t[m]


@vectorised
def _cosines(s: Any, inverse: float, inverses: Any, u: Any) -> None:
    """Set u (M,) to covariances s (M,) over the norms."""
    for m in range(u.shape[0]):
        u[m] = s[m] * (inverse * inverses[m])


@vectorised
def _scaled(norm: float, norms: Any, dual: Any, slope: Any, s: Any, t: Any) -> None:
    """Set s and t (M,) to those after an activation, from its dual and slope."""
    for m in range(s.shape[0]):
        s[m] = norm * norms[m] * dual[m]
        t[m] = t[m] * slope[m]


@vectorised
def activate_rows(shift: int, st: Any, x: Any, y: Any, act: Any, own: bool, room: Any) -> None:
    """Put an activation on rows (i, i + shift) of st, covariances and tangents (H, W, M), in place.

    x (2, H, W), y (2, H, M): norms, and inverses of norms or 0. `own` where x and y are the same:
    the cosines of a position with itself are 1 then. Room u, dual, slope (M,).
    """
    (s, t), (u, dual, slope) = st, room
    height, width = s.shape[0], s.shape[1]
    for i in range(max(0, -shift), min(height, height - shift)):
        norms, inverses = y[0, i + shift], y[1, i + shift]
        for j in range(width):
            _cosines(s[i, j], x[1, i, j], inverses, u)
            if own and shift == 0 and x[1, i, j] > 0:
                u[j] = 1.0
            _activate(act[0], act[1], u, dual, slope)
            _scaled(x[0, i, j], norms, dual, slope, s[i, j], t[i, j])


@vectorised
def _add(weight: Any, x: Any, to: Any) -> None:
    """Add weight times x (M,) to another (M,)."""
    for m in range(x.shape[0]):
        to[m] += weight * x[m]


@vectorised
def _pool_rows(k: Any, starts: Any, weights: Any, out: Any) -> None:
    """Set out (W_out, M) to weighted sums of windows of k (W, M)."""
    taps = weights.shape[1]
    whole = taps - taps % 5
    for j in range(starts.shape[0]):
        to = out[j]
        if whole == 0:
            to[:] = 0
        for t in range(0, whole, 5):
            s, v = starts[j] + t, weights[j]
            v0, v1, v2, v3, v4 = v[t], v[t + 1], v[t + 2], v[t + 3], v[t + 4]
            a, b, c, d, e = k[s], k[s + 1], k[s + 2], k[s + 3], k[s + 4]
            if t == 0:
                for m in range(to.shape[0]):
                    to[m] = v0 * a[m] + v1 * b[m] + v2 * c[m] + v3 * d[m] + v4 * e[m]
            else:
                for m in range(to.shape[0]):
                    to[m] += v0 * a[m] + v1 * b[m] + v2 * c[m] + v3 * d[m] + v4 * e[m]
        for t in range(whole, taps):
            _add(weights[j, t], k[starts[j] + t], to)


@vectorised
def _pool_columns(k: Any, lanes: int, starts: Any, weights: Any, out: Any) -> None:
    """Set out (W_out, M_out) to weighted sums of windows over the columns of k (W_out, M)."""
    taps = weights.shape[1]
    whole = taps - taps % 5
    out[:] = 0
    for q in range(starts.shape[0]):
        low, high = q * lanes, (q + 1) * lanes
        for t in range(0, whole, 5):
            s, v = (starts[q] + t) * lanes, weights[q]
            v0, v1, v2, v3, v4 = v[t], v[t + 1], v[t + 2], v[t + 3], v[t + 4]
            s1, s2, s3, s4, s5 = (
                s + lanes,
                s + 2 * lanes,
                s + 3 * lanes,
                s + 4 * lanes,
                s + 5 * lanes,
            )
            for j in range(k.shape[0]):
                row, to = k[j], out[j, low:high]
                a, b, c, d, e = row[s:s1], row[s1:s2], row[s2:s3], row[s3:s4], row[s4:s5]
                for m in range(to.shape[0]):
                    to[m] += v0 * a[m] + v1 * b[m] + v2 * c[m] + v3 * d[m] + v4 * e[m]
        for t in range(whole, taps):
            s = (starts[q] + t) * lanes
            for j in range(k.shape[0]):
                _add(weights[q, t], k[j, s : s + lanes], out[j, low:high])


@vectorised
def pool_rows(shift: int, k: Any, lanes: int, rows: Any, columns: Any, room: Any) -> None:
    """Add the rows (i, i + shift) of k (H, W, M), pooled, to half (H, H_out, W_out, M_out).

    rows (H_out, H) are weights; columns their (starts, weights); room (narrow (W_out, M), small
    (W_out, M_out), half).
    """
    (starts, weights), (narrow, small, half) = columns, room
    height, flat = k.shape[0], small.reshape(-1)
    for i in range(max(0, -shift), min(height, height - shift)):
        _pool_rows(k[i], starts, weights, narrow)
        _pool_columns(narrow, lanes, starts, weights, small)
        for to in range(rows.shape[0]):
            if rows[to, i + shift] != 0:
                _add(rows[to, i + shift], flat, half[i, to].reshape(-1))


@vectorised
def pool_rest(half: Any, rows: Any, out: Any) -> None:
    """Set out (H_out, H_out, W_out, M_out) to weighted sums of half over its rows."""
    out[:] = 0
    for i in range(half.shape[0]):
        _spread(half[i].reshape(-1), rows[:, i], out)


@vectorised
def _spread(given: Any, weights: Any, out: Any) -> None:
    """Add something, of any shape, to each of out (H_out, ...) by its weight (H_out,)."""
    for to in range(weights.shape[0]):
        if weights[to] != 0:
            _add(weights[to], given, out[to].reshape(-1))


@vectorised
def first_block(
    x: Any, y: Any, lanes: int, act: Any, pools: Any, u: Any, st: Any, rooms: Any, outs: Any
) -> None:
    """Set outs to the pooled covariances and tangent kernels of the first layer.

    x patches (H, W, K) and norms (H, W), y patches (H, K, M) and norms (H, M); st covariances and
    tangents (1, W, M); for each of the two: pools (rows, columns), rooms (narrow, small, half
    (1, H_out, ...)) as `pool_rows` has them, and out. Room u (M,).
    """
    (patches, norm), (others, norms), (s, t) = x, y, st
    (pool_s, pool_t), (room_s, room_t), (out_s, out_t) = pools, rooms, outs
    out_s[:] = 0
    out_t[:] = 0
    tangent = out_t.shape[0] > 0
    for i in range(patches.shape[0]):
        room_s[2][:] = 0
        room_t[2][:] = 0
        for k in range(others.shape[0]):
            _first_row((patches[i], norm[i]), (others[k], norms[k]), act, u, s[0], t[0])
            _pool_one(s[0], lanes, pool_s[0][:, k], pool_s[1], room_s)
            if tangent:
                _pool_one(t[0], lanes, pool_t[0][:, k], pool_t[1], room_t)
        _spread(room_s[2].reshape(-1), pool_s[0][:, i], out_s)
        if tangent:
            _spread(room_t[2].reshape(-1), pool_t[0][:, i], out_t)


@vectorised
def _pool_one(row: Any, lanes: int, weights: Any, columns: Any, room: Any) -> None:
    """Add one pooled row (W, M) to half (1, H_out, W_out, M_out) by weights (H_out,)."""
    narrow, small, half = room
    _pool_rows(row, columns[0], columns[1], narrow)
    _pool_columns(narrow, lanes, columns[0], columns[1], small)
    _spread(small.reshape(-1), weights, half[0])


@vectorised
def first_rows(shift: int, x: Any, y: Any, act: Any, u: Any, st: Any) -> None:
    """Set the rows (i, i + shift) of st, two of (H, W, M), to what the first layer gives."""
    (patches, norm), (others, norms), (s, t) = x, y, st
    height = patches.shape[0]
    for i in range(max(0, -shift), min(height, height - shift)):
        k = i + shift
        _first_row((patches[i], norm[i]), (others[k], norms[k]), act, u, s[i], t[i])


@vectorised
def read_rows(shift: int, pooled: Any, k: Any) -> None:
    """Set the rows (i, i + shift) of k (H, W, M) to those of pooled (H, H, W, M)."""
    height = pooled.shape[0]
    for i in range(max(0, -shift), min(height, height - shift)):
        k[i] = pooled[i, i + shift]


@vectorised
def patch_rows(shift: int, k: Any, lanes: int, patch: Any, low: Any, room: Any, out: Any) -> None:
    """Set the rows (i, i + shift) of out (H_out, W_out, M_out) to sums over patches of k.

    The sums go over the shared offsets of k (H, W, M). patch (height, width), low: zeros before
    the first row and column; room (H, W_out, M_out).
    """
    height, high = k.shape[0], out.shape[0]
    for i in range(max(0, -shift), min(height, height - shift)):
        _patch_columns(k[i], lanes, patch[1], low[1], room[i])
    for i in range(max(0, -shift), min(high, high - shift)):
        to = out[i].reshape(-1)
        to[:] = 0
        for offset in range(patch[0]):
            a = i + offset - low[0]
            if 0 <= a < height and 0 <= a + shift < height:
                _add(1.0, room[a].reshape(-1), to)


@vectorised
def weigh(weight: float, bias: float, s: Any, t: Any) -> None:
    """Put weights and biases on sums s and t of any shape: t gains the new s."""
    flat, tangents = s.reshape(-1), t.reshape(-1)
    for m in range(flat.shape[0]):
        flat[m] = weight * flat[m] + bias
        tangents[m] = flat[m] + weight * tangents[m]


@vectorised
def _patch_columns(k: Any, lanes: int, width: int, low: int, out: Any) -> None:
    """Set out (W_out, M_out) to sums of k (W, M) over shared offsets of columns."""
    before, after = k.shape[0], out.shape[0]
    out[:] = 0
    for j in range(after):
        for offset in range(width):
            a = j + offset - low
            if 0 <= a < before:
                first, last = max(0, low - offset), min(after, before + low - offset)
                at = (first + offset - low) * lanes
                length = (last - first) * lanes
                to = out[j, first * lanes : last * lanes]
                _add(1.0, k[a, at : at + length], to)


@vectorised
def first_plane(x: Any, y: Any, act: Any, u: Any, st: Any) -> None:
    """Set st, two of (H, W, L), to what the first layer gives at equal positions of x and y.

    x patches (H, W, K) and norms (H, W); y patches (H, W, K, L) and norms (H, W, L); room u (L,).
    """
    (patches, norm), (others, norms), (s, t) = x, y, st
    for i in range(patches.shape[0]):
        for j in range(patches.shape[1]):
            _products(patches[i, j], others[i, j], u)
            _activate(act[0], act[1], u, s[i, j], t[i, j])
            _first_scaled(norm[i, j], norms[i, j], u, s[i, j], t[i, j])


@vectorised
def activate_plane(st: Any, x: Any, y: Any, act: Any, room: Any) -> None:
    """Put an activation on st, two of (H, W, L), in place; x (2, H, W), y (2, H, W L)."""
    (s, t), (u, dual, slope) = st, room
    for i in range(s.shape[0]):
        for j in range(s.shape[1]):
            low, high = j * s.shape[2], (j + 1) * s.shape[2]
            _cosines(s[i, j], x[1, i, j], y[1, i, low:high], u)
            _activate(act[0], act[1], u, dual, slope)
            _scaled(x[0, i, j], y[0, i, low:high], dual, slope, s[i, j], t[i, j])


@vectorised
def patch_plane(k: Any, patch: Any, low: Any, room: Any, out: Any) -> None:
    """Set out (H_out, W_out, L) to sums over patches of k (H, W, L), at equal positions.

    As `patch_rows`; room (H, W_out, L).
    """
    height, width = k.shape[0], k.shape[1]
    room[:] = 0
    out[:] = 0
    for i in range(height):
        for offset in range(patch[1]):
            first = max(0, low[1] - offset)
            last = min(out.shape[1], width + low[1] - offset)
            at = first + offset - low[1]
            if first < last:
                given = k[i, at : at + last - first].reshape(-1)
                _add(1.0, given, room[i, first:last].reshape(-1))
    for i in range(out.shape[0]):
        for offset in range(patch[0]):
            a = i + offset - low[0]
            if 0 <= a < height:
                _add(1.0, room[a].reshape(-1), out[i].reshape(-1))
