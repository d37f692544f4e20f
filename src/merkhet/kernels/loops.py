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
PER_PI = F(1 / math.pi)
RELU, EXPONENTIAL = 0, 1


def _polynomial(of: Callable[[Any], Any], degree: int) -> tuple[Any, ...]:
    """Return the coefficients of a function on [0, 1], nearly the best of their degree."""
    fit = np.polynomial.Chebyshev.interpolate(of, degree, domain=[0, 1])
    found = fit.convert(kind=np.polynomial.Polynomial).coef
    return tuple(found)


def _arccos_by_root(a: Any) -> Any:
    """Return arccos(a) / sqrt(1 - a), which is smooth up to 1."""
    inside = np.minimum(a, 1 - 1e-12)
    return np.arccos(inside) / np.sqrt(1 - inside)


# arccos(a) = sqrt(1 - a) A(a) and sqrt(1 - a^2) = sqrt(1 - a) B(a); within 3e-8.
A0, A1, A2, A3, A4, A5, A6, A7 = map(F, _polynomial(_arccos_by_root, 7))
B0, B1, B2, B3, B4, B5, B6, B7 = map(F, _polynomial(lambda a: np.sqrt(1 + a), 7))


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
    leak, bend = F(negative), F((1 - negative) ** 2 / 2)
    for m in range(u.shape[0]):
        size = abs(u[m])
        a, root = F(size), math.sqrt(F(max(1.0 - size, 0.0)))
        arccos = A0 + a * (A1 + a * (A2 + a * (A3 + a * (A4 + a * (A5 + a * (A6 + a * A7))))))
        sine = B0 + a * (B1 + a * (B2 + a * (B3 + a * (B4 + a * (B5 + a * (B6 + a * B7))))))
        angle = root * arccos * PER_PI
        k0 = F(1) - angle if u[m] > 0 else angle
        cosine = a if u[m] > 0 else -a
        dual[m] = leak * cosine + bend * (cosine * k0 + root * sine * PER_PI)
        slope[m] = leak + bend * k0


@vectorised
def _exponentiate(u: Any, sigma: float, dual: Any, slope: Any) -> None:
    """Set dual and slope (M,) of the exponential kernel at cosines u (M,)."""
    sharpness, half = F(1 / sigma**2), F(0.5)
    for m in range(u.shape[0]):
        value = half * exponential(F(u[m] - 1) * sharpness)
        dual[m] = value
        slope[m] = value * sharpness


@vectorised
def _activate(kind: int, parameter: float, u: Any, dual: Any, slope: Any) -> None:
    """Set dual and slope (M,) of an activation at cosines u (M,)."""
    if kind == EXPONENTIAL:
        _exponentiate(u, parameter, dual, slope)
    else:
        _rectify(u, parameter, dual, slope)


@vectorised
def _first_row(x: Any, y: Any, act: Any, u: Any, dual: Any, slope: Any) -> None:
    """Set dual and slope (W, M) to covariance and tangent kernel after the first layer.

    x patches (W, K) and norms (W,) of a row; y patches (K, M) and norms (M,); room u (M,).
    All are contiguous: slices that are not would not be vectorised.
    """
    (patch, norm), (patches, norms), (kind, parameter) = x, y, act
    for j in range(patch.shape[0]):
        _products(patch[j], patches, u)
        _activate(kind, parameter, u, dual[j], slope[j])
        n, s, t = F(norm[j]), dual[j], slope[j]
        for m in range(u.shape[0]):
            both = n * norms[m]
            s[m] = both * s[m]
            t[m] = both * F(u[m]) * t[m]


@vectorised
def activate_rows(
    shift: int, st: Any, x: Any, y: Any, kind: int, parameter: float, own: bool, room: Any
) -> None:
    """Put an activation on rows (i, i + shift) of st (2, H, W, M), in place.

    x (2, H, W), y (2, H, M): norms, and inverses of norms or 0. `own` where x and y are the same:
    the cosines of a position with itself are 1 then.
    """
    u, dual, slope = room[0], room[1], room[2]
    height, width = st.shape[1], st.shape[2]
    for i in range(max(0, -shift), min(height, height - shift)):
        norms, inverses = y[0, i + shift], y[1, i + shift]
        for j in range(width):
            n, inverse = x[0, i, j], x[1, i, j]
            s, t = st[0, i, j], st[1, i, j]
            for m in range(s.shape[0]):
                u[m] = s[m] * (inverse * inverses[m])
            if own and shift == 0 and inverse > 0:
                u[j] = 1.0
            _activate(kind, parameter, u, dual, slope)
            for m in range(s.shape[0]):
                s[m] = n * norms[m] * dual[m]
                t[m] = t[m] * slope[m]


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
def pool_rows(
    shift: int,
    st: Any,
    lanes: int,
    rows: Any,
    columns: Any,
    narrow: Any,
    small: Any,
    half: Any,
) -> None:
    """Add the rows (i, i + shift) of st (kinds, H, W, M) to half (H, H_out, kinds, W_out, M_out).

    rows (H_out, H) are weights; columns their (starts, weights); narrow (W_out, M) and small
    (kinds, W_out, M_out) are room.
    """
    starts, weights = columns
    height, flat = st.shape[1], small.reshape(-1)
    for i in range(max(0, -shift), min(height, height - shift)):
        for kind in range(small.shape[0]):
            _pool_rows(st[kind, i], starts, weights, narrow)
            _pool_columns(narrow, lanes, starts, weights, small[kind])
        for k in range(rows.shape[0]):
            if rows[k, i + shift] != 0:
                _add(rows[k, i + shift], flat, half[i, k].reshape(-1))


@vectorised
def pool_rest(half: Any, rows: Any, out: Any) -> None:
    """Set out (H_out, H_out, kinds, W_out, M_out) to weighted sums of half over its rows."""
    out[:] = 0
    for i in range(half.shape[0]):
        for k in range(rows.shape[0]):
            if rows[k, i] != 0:
                _add(rows[k, i], half[i].reshape(-1), out[k].reshape(-1))


@vectorised
def first_block(
    x: Any, norm: Any, y: Any, norms: Any, lanes: int, act: Any, rows: Any, columns: Any, room: Any
) -> None:
    """Set out to the pooled covariances and tangent kernels of the first layer.

    x (H, W, K), norm (H, W), y (H, K, M), norms (H, M); act (kind, parameter); room (u (3, M),
    st (2, 1, W, M), narrow, small, half (1, H_out, ...), out), as `pool_rows` has them.
    """
    u, st, narrow, small, half, out = room
    (starts, weights), flat = columns, small.reshape(-1)
    out[:] = 0
    for i in range(x.shape[0]):
        half[:] = 0
        for k in range(y.shape[0]):
            _first_row((x[i], norm[i]), (y[k], norms[k]), act, u[0], st[0, 0], st[1, 0])
            for kind in range(small.shape[0]):
                _pool_rows(st[kind, 0], starts, weights, narrow)
                _pool_columns(narrow, lanes, starts, weights, small[kind])
            for to in range(rows.shape[0]):
                if rows[to, k] != 0:
                    _add(rows[to, k], flat, half[0, to].reshape(-1))
        for to in range(rows.shape[0]):
            if rows[to, i] != 0:
                _add(rows[to, i], half.reshape(-1), out[to].reshape(-1))


@vectorised
def first_rows(
    shift: int, x: Any, norm: Any, y: Any, norms: Any, act: Any, room: Any, st: Any
) -> None:
    """Set the rows (i, i + shift) of st (2, H, W, M) to what the first layer gives."""
    height = x.shape[0]
    for i in range(max(0, -shift), min(height, height - shift)):
        k = i + shift
        _first_row((x[i], norm[i]), (y[k], norms[k]), act, room[0], st[0, i], st[1, i])


@vectorised
def read_rows(shift: int, pooled: Any, st: Any) -> None:
    """Set the rows (i, i + shift) of st (2, H, W, M) to those of pooled (H, H, kinds, W, M)."""
    height = pooled.shape[0]
    for i in range(max(0, -shift), min(height, height - shift)):
        for kind in range(pooled.shape[2]):
            st[kind, i] = pooled[i, i + shift, kind]


@vectorised
def patch_rows(
    shift: int, k: Any, lanes: int, patch: Any, low: Any, scale: Any, room: Any, out: Any
) -> None:
    """Set the rows (i, i + shift) of out (2, H_out, W_out, M_out) to those of patches of k.

    Sums over shared offsets of k (2, H, W, M) and, with scale = (weight, bias), the weights'
    rule: covariances are weight times them plus bias, the tangent kernel gains the covariances.
    patch (height, width), low: zeros before the first row and column; room (2, H, W_out, M_out).
    """
    height, high = k.shape[1], out.shape[1]
    for kind in range(2):
        for i in range(max(0, -shift), min(height, height - shift)):
            _patch_columns(k[kind, i], lanes, patch[1], low[1], room[kind, i])
        for i in range(max(0, -shift), min(high, high - shift)):
            to = out[kind, i].reshape(-1)
            to[:] = 0
            for offset in range(patch[0]):
                a = i + offset - low[0]
                if 0 <= a < height and 0 <= a + shift < height:
                    _add(1.0, room[kind, a].reshape(-1), to)
    weight, bias = scale
    for i in range(max(0, -shift), min(high, high - shift)):
        s, t = out[0, i].reshape(-1), out[1, i].reshape(-1)
        for m in range(s.shape[0]):
            s[m] = weight * s[m] + bias
            t[m] = s[m] + weight * t[m]


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
def first_plane(x: Any, norm: Any, y: Any, norms: Any, act: Any, u: Any, st: Any) -> None:
    """Set st (2, H, W, L) to what the first layer gives at equal positions of x and y.

    x (H, W, K), norm (H, W), y (H, W, K, L), norms (H, W, L); room u (L,).
    """
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            s, t, n, other = st[0, i, j], st[1, i, j], F(norm[i, j]), norms[i, j]
            _products(x[i, j], y[i, j], u)
            _activate(act[0], act[1], u, s, t)
            for m in range(u.shape[0]):
                both = n * other[m]
                s[m] = both * s[m]
                t[m] = both * F(u[m]) * t[m]


@vectorised
def activate_plane(
    st: Any, x: Any, y: Any, kind: int, parameter: float, own: bool, room: Any
) -> None:
    """Put an activation on st (2, H, W, L), in place; x (2, H, W), y (2, H, W L) as for rows."""
    u, dual, slope = room[0], room[1], room[2]
    for i in range(st.shape[1]):
        for j in range(st.shape[2]):
            s, t, n, inverse = st[0, i, j], st[1, i, j], x[0, i, j], x[1, i, j]
            low, high = j * s.shape[0], (j + 1) * s.shape[0]
            norms, inverses = y[0, i, low:high], y[1, i, low:high]
            for m in range(s.shape[0]):
                u[m] = s[m] * (inverse * inverses[m])
            if own and inverse > 0:
                u[:] = 1.0
            _activate(kind, parameter, u, dual, slope)
            for m in range(s.shape[0]):
                s[m] = n * norms[m] * dual[m]
                t[m] = t[m] * slope[m]


@vectorised
def patch_plane(k: Any, patch: Any, low: Any, scale: Any, room: Any, out: Any) -> None:
    """Set out (2, H_out, W_out, L) to what a layer of patches makes of k (2, H, W, L).

    As `patch_rows`, at equal positions of x and y; room (2, H, W_out, L).
    """
    height, width = k.shape[1], k.shape[2]
    room[:] = 0
    out[:] = 0
    for kind in range(2):
        for i in range(height):
            for offset in range(patch[1]):
                first = max(0, low[1] - offset)
                last = min(out.shape[2], width + low[1] - offset)
                at = first + offset - low[1]
                given = k[kind, i, at : at + last - first].reshape(-1)
                _add(F(1), given, room[kind, i, first:last].reshape(-1))
        for i in range(out.shape[1]):
            for offset in range(patch[0]):
                a = i + offset - low[0]
                if 0 <= a < height:
                    _add(F(1), room[kind, a].reshape(-1), out[kind, i].reshape(-1))
    weight, bias = F(scale[0]), F(scale[1])
    s, t = out[0].reshape(-1), out[1].reshape(-1)
    for m in range(s.shape[0]):
        s[m] = weight * s[m] + bias
        t[m] = s[m] + weight * t[m]
