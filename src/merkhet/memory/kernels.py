"""Compiled loops of `cpu`. Import this where it is used: numba is slow to load.

Tables are float32, or uint16 that hold the bits of bfloat16; `get` and `put` tell them apart when
a loop is compiled. Each loop goes over `range(low, high)` of whatever it is split by.

All are in one file on purpose: numba keeps compiled code until the file of a function changes, and
does not look at the files of the functions that it calls (`core.compiled` does not change).
In order: bits, search, read, step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from merkhet.core.compiled import bits_of, exact, exponential, float_of, summing

BISECTIONS = 8
COLUMNS = 4  # times k, into which scores are folded to find a threshold
SLACK = 4  # candidates beyond k that are as quick to rank as to exclude
CACHE_LINE = 64  # bytes
READ, SECOND_LEVEL, DATA = 0, 2, 1  # of llvm.prefetch


@intrinsic
def _fetch(_context: Any, row: Any, _place: Any) -> Any:
    """Ask for the cache line of an entry, to be in the second-level cache when it is read."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, given[0]).data
        address = builder.bitcast(builder.gep(data, [given[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(fetch, [address, number(READ), number(SECOND_LEVEL), number(DATA)])
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


def get(row: Any, place: Any) -> Any:
    """Return an entry of a table's row as float32."""
    value = row[place]
    return (np.uint32(value) << np.uint32(16)).view(np.float32) if _is_half(row) else value


def put(row: Any, place: Any, value: Any, noise: Any) -> None:
    """Store a float32, rounded up to bfloat16 where 16 bits of noise carry over."""
    half = _is_half(row)
    row[place] = (np.float32(value).view(np.uint32) + noise) >> np.uint32(16) if half else value


def _is_half(row: np.ndarray) -> bool:
    """Tell whether a row holds the bits of bfloat16."""
    return row.dtype == np.uint16


@overload(get, inline="always")
def _get(row: Any, place: Any) -> Any:
    if row.dtype == types.uint16:

        def widened(row: Any, place: Any) -> Any:
            return float_of(np.uint32(row[place]) << np.uint32(16))

        return widened

    def plainly(row: Any, place: Any) -> Any:
        return row[place]

    return plainly


@overload(put, inline="always")
def _put(row: Any, place: Any, value: Any, noise: Any) -> Any:
    if row.dtype == types.uint16:

        def store(row: Any, place: Any, value: Any, noise: Any) -> None:
            row[place] = np.uint16((bits_of(np.float32(value)) + noise) >> np.uint32(16))

        return store

    def keep(row: Any, place: Any, value: Any, noise: Any) -> None:
        row[place] = value

    return keep


@exact
def nearest(value: np.float32) -> np.uint32:
    """Return the noise that rounds a float32 to the nearest bfloat16, ties to even."""
    return np.uint32(0x7FFF) + ((bits_of(value) >> np.uint32(16)) & np.uint32(1))


@exact
def scramble(number: np.uint32) -> np.uint32:
    """Return a number whose bits are as good as random (Wellons' lowbias32)."""
    number = np.uint32(number ^ (number >> np.uint32(16)))
    number = np.uint32(number * np.uint32(0x7FEB352D))  # a product of two is 64 bits wide here
    number = np.uint32(number ^ (number >> np.uint32(15)))
    number = np.uint32(number * np.uint32(0x846CA68B))
    return np.uint32(number ^ (number >> np.uint32(16)))


@exact
def _count(values: Any, threshold: np.float32) -> np.int32:
    """Return how many values are at least a threshold."""
    found = np.int32(0)
    for place in range(values.shape[0]):
        found += np.int32(values[place] >= threshold)
    return found


@exact
def _threshold(values: Any, k: int, low: np.float32, high: np.float32) -> np.float32:
    """Return a value that at least k values reach, few more where bisection can tell.

    Args:
        values: Those to choose from.
        k: How many.
        low: A value that at least k reach.
        high: A value that about one in k reaches.
    """
    for _ in range(BISECTIONS):
        middle = np.float32(0.5) * (low + high)
        found = _count(values, middle)
        if found < k:
            high = middle
            continue
        low = middle
        if found <= k + SLACK:
            break
    return low


@exact
def _rank(values: Any, places: Any, count: int, ranks: Any) -> None:
    """Find the rank of each value from the largest; of equal ones the smaller place is first."""
    whole = 0
    for one in range(count):
        value, rank = values[one], np.int32(0)
        for other in range(np.int32(count)):
            rank += np.int32(values[other] > value)
        ranks[one] = rank
        whole += rank
    if whole != count * (count - 1) // 2:  # some are equal, or NaN
        _rank_ties(values, places, count, ranks)


@exact
def _rank_ties(values: Any, places: Any, count: int, ranks: Any) -> None:
    """Find ranks where some values are equal."""
    for one in range(count):
        value, place, rank = values[one], places[one], np.int32(0)
        for other in range(np.int32(count)):
            greater = values[other] > value
            first = (values[other] == value) & (places[other] < place)
            rank += np.int32(greater | first)
        ranks[one] = rank


@exact
def _sort_out(room: Any, count: int, k: int, values: Any, places: Any) -> None:
    """Write the k largest of the values kept, in order; what is missing (NaN) stays so."""
    _, _, kept, where, ranks = room
    for j in range(k):
        values[j], places[j] = np.nan, j
    _rank(kept, where, count, ranks)
    for found in range(count):
        if ranks[found] < k:
            values[ranks[found]] = kept[found]
            places[ranks[found]] = where[found]


@exact
def _best_scores(scores: Any, k: int, room: Any, values: Any, places: Any) -> None:
    """Find the k largest scores, in order, and where they are.

    The scores are columns, of which a k-th largest maximum is reached by at least k scores, and
    only columns whose maximum reaches it have any. Nothing here branches on a score.
    """
    maxima, columns, kept, where, _ = room
    width, keys = maxima.shape[0], scores.shape[0]
    for j in range(width):
        maxima[j] = scores[j]
    for start in range(width, keys, width):
        row = scores[start : min(start + width, keys)]  # a sum as an index would not vectorise
        for j in range(row.shape[0]):
            maxima[j] = row[j] if row[j] > maxima[j] else maxima[j]
    low = high = maxima[0]
    for j in range(1, k):
        low, high = min(low, maxima[j]), max(high, maxima[j])
    threshold = _threshold(maxima, k, low, high)
    found = 0
    for j in range(width):
        columns[found] = j
        found += np.int64(maxima[j] >= threshold)
    count = 0
    for column in range(found):
        for place in range(columns[column], keys, width):
            kept[count], where[count] = scores[place], place
            count += np.int64(scores[place] >= threshold)
    _sort_out(room, count, k, values, places)


@exact
def _best_sums(sums: Any, k: int, room: Any, values: Any, places: Any) -> None:
    """Find the k largest sums, in order, and where they are; the first k are the first row's."""
    kept, where = room[2], room[3]
    threshold = _threshold(sums, k, sums[k - 1], sums[0])
    count = 0
    for place in range(sums.shape[0]):
        kept[count], where[count] = sums[place], place
        count += np.int64(sums[place] >= threshold)
    _sort_out(room, count, k, values, places)


@exact
def select(low: int, high: int, scores: Any, indices: Any, weights: Any) -> None:
    """Find slots and weights of the tokens from low to high.

    Args:
        low: First token.
        high: Last token, left out.
        scores: (H, 2, T, n) float32.
        indices: (T, H, k) int64, written.
        weights: (T, H, k) float32, written.
    """
    heads, k, keys = scores.shape[0], indices.shape[2], scores.shape[3]
    columns = min(keys, COLUMNS * k)
    size = max(keys, k * k) + 1  # one more than there are: what is not kept is written too
    room = (
        np.empty(columns, np.float32),
        np.empty(columns + 1, np.int32),
        np.empty(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
    )
    sums, pairs = np.empty(k * k, np.float32), np.empty(k * k, np.int64)
    left, lefts = np.empty(k, np.float32), np.empty(k, np.int32)
    right, rights = np.empty(k, np.float32), np.empty(k, np.int32)
    values, places = np.empty(k, np.float32), np.empty(k, np.int32)
    for token in range(low, high):
        for head in range(heads):
            _best_scores(scores[head, 0, token], k, room, left, lefts)
            _best_scores(scores[head, 1, token], k, room, right, rights)
            count = 0
            for a in range(k):
                for b in range(k // (a + 1)):
                    sums[count] = left[a] + right[b]
                    pairs[count] = np.int64(lefts[a]) * keys + rights[b]
                    count += 1
            _best_sums(sums[:count], k, room, values, places)
            best, shares, total = values[0], weights[token, head], np.float32(0)
            for place in range(k):
                shares[place] = exponential(values[place] - best)
            for place in range(k):
                indices[token, head, place] = pairs[places[place]]
                total += shares[place]
            for place in range(k):
                shares[place] /= total


@summing
def query_gradient(
    low: int, high: int, indices: Any, scores: Any, subkeys: Any, gradient: Any
) -> None:
    """Add to the gradient of the queries (T, H, 2, d) that of the scores (T, H, k)."""
    heads, k, keys, width = *scores.shape[1:], *subkeys.shape[2:]
    for token in range(low, high):
        for head in range(heads):
            left, right = gradient[token, head, 0], gradient[token, head, 1]
            for place in range(k):
                slot, share = indices[token, head, place], scores[token, head, place]
                one, other = subkeys[head, 0, slot // keys], subkeys[head, 1, slot % keys]
                for column in range(width):
                    left[column] += share * one[column]
                    right[column] += share * other[column]


@summing
def key_gradient(
    low: int, high: int, indices: Any, scores: Any, queries: Any, gradient: Any
) -> None:
    """Add to the gradient of the sub-keys (H, 2, n, d) that of the scores, by head and half."""
    tokens, _, k = scores.shape
    keys, width = gradient.shape[2:]
    for part in range(low, high):
        head, half = part // 2, part % 2
        for token in range(tokens):
            query = queries[token, head, half]
            for place in range(k):
                slot, share = indices[token, head, place], scores[token, head, place]
                row = gradient[head, half, slot % keys if half else slot // keys]
                for column in range(width):
                    row[column] += share * query[column]


@summing
def read(low: int, high: int, values: Any, indices: Any, weights: Any, sums: Any) -> None:
    """Write the weighted sums of rows for the tokens from low to high, four rows at a time.

    The next four rows are asked for before these are summed: rows lie anywhere in the table, and
    the processor alone would wait for each.
    """
    reads, width = indices.shape[1], values.shape[1]
    fours, line = reads // 4 * 4, CACHE_LINE // values.itemsize
    for token in range(low, high):
        total, slots, shares = sums[token], indices[token], weights[token]
        for column in range(width):
            total[column] = 0
        for place in range(0, fours, 4):
            one, two = values[slots[place]], values[slots[place + 1]]
            three, four = values[slots[place + 2]], values[slots[place + 3]]
            if place + 8 <= reads:
                after = slots[place + 4 : place + 8]
            else:
                after = indices[min(token + 1, high - 1), : min(4, reads)]
            for column in range(0, width, line):
                for slot in after:
                    _fetch(values[slot], column)
            a, b, c, d = shares[place], shares[place + 1], shares[place + 2], shares[place + 3]
            for column in range(width):
                total[column] += (
                    a * get(one, column)
                    + b * get(two, column)
                    + c * get(three, column)
                    + d * get(four, column)
                )
        for place in range(fours, reads):
            one, a = values[slots[place]], shares[place]
            for column in range(width):
                total[column] += a * get(one, column)


@exact
def find_rows(ordered: Any, starts: Any) -> int:
    """Write where each run of equal numbers starts, and the end; return how many runs."""
    count = 0
    for place in range(ordered.shape[0]):
        if place == 0 or ordered[place] != ordered[place - 1]:
            starts[count] = place
            count += 1
    starts[count] = ordered.shape[0]
    return count


@summing
def read_gradients(
    low: int,
    high: int,
    cuts: Any,
    values: Any,
    ordered: Any,
    order: Any,
    starts: Any,
    weights: Any,
    gradient: Any,
    by_row: Any,
    partial: Any,
    by_weight: Any,
) -> None:
    """Write the gradients by row and by weight for some pieces of the sorted hits.

    A row whose hits lie in several pieces is left to `join`: `partial` holds what belongs to a
    row that began in an earlier piece, then what belongs to one that goes on in the next.
    """
    reads, width = weights.shape[1], values.shape[1]
    total = np.empty(width, np.float32)
    for piece in range(low, high):
        start, stop = cuts[piece], cuts[piece + 1]
        run = np.searchsorted(starts, start, side="right") - 1
        while start < stop:
            row, end = values[ordered[start]], min(starts[run + 1], stop)
            total[:] = 0
            for hit in range(start, end):
                token = order[hit] // reads
                place = order[hit] - token * reads
                given, share, inner = gradient[token], weights[token, place], np.float32(0)
                for column in range(width):
                    total[column] += share * given[column]
                    inner += given[column] * get(row, column)
                by_weight[token, place] = inner
            if starts[run] < start:
                partial[piece, 0] = total
            elif starts[run + 1] > stop:
                partial[piece, 1] = total
            else:
                target = by_row[run]
                for column in range(width):
                    put(target, column, total[column], nearest(total[column]))
            start, run = end, run + 1


@exact
def join(cuts: Any, starts: Any, partial: Any, by_row: Any) -> None:
    """Write the gradients of the rows whose hits lie in several pieces, summed in order."""
    for piece in range(cuts.shape[0] - 2):
        start, stop = cuts[piece], cuts[piece + 1]
        run = np.searchsorted(starts, stop, side="right") - 1
        if starts[run] == stop or starts[run] < start or start == stop:
            continue  # no row goes on after this piece, or it began before
        total, after = partial[piece, 1], piece + 1
        while True:
            total += partial[after, 0]
            if starts[run + 1] <= cuts[after + 1]:
                break
            after += 1
        target = by_row[run]
        for column in range(total.shape[0]):
            put(target, column, total[column], nearest(total[column]))


@summing
def update_rows(
    low: int,
    high: int,
    rows: Any,
    gradient: Any,
    table: Any,
    momentum: Any,
    second: Any,
    last: Any,
    settings: Any,
    step: int,
    seed: int,
) -> None:
    """Take one step of Adam on the rows from low to high; settings are rate, beta1, beta2, eps."""
    width = table.shape[1]
    rate, beta1, beta2, eps = settings
    keep, take = np.float32(beta1), np.float32(1 - beta1)
    for place in range(low, high):
        number, given = rows[place], gradient[place]
        row, moment, squares = table[number], momentum[number], np.float32(0)
        for column in range(width):
            squares += get(given, column) * get(given, column)
        spread = beta2 * second[number] + (1 - beta2) * (squares / width)
        second[number], last[number] = spread, step
        factor = np.float32(rate / (np.sqrt(spread) + eps))
        noise = _seed(seed, step, number)
        for column in range(width):
            moved = keep * get(moment, column) + take * get(given, column)
            drawn = scramble(np.uint32(noise + np.uint32(column)))
            put(moment, column, moved, drawn >> np.uint32(16))
            put(row, column, get(row, column) - factor * moved, drawn & np.uint32(0xFFFF))


@summing
def catch_up_rows(
    part: int,
    parts: int,
    rows: Any,
    table: Any,
    momentum: Any,
    second: Any,
    last: Any,
    settings: Any,
    step: int,
    seed: int,
    rates: Any,
    start: int,
    horizon: int,
) -> None:
    """Do to one part of the rows the steps that they missed; settings are beta1, beta2, eps."""
    width = table.shape[1]
    beta1, beta2, eps = settings
    for place in range(rows.shape[0]):
        number = rows[place]
        if number % parts != part or last[number] >= step:
            continue
        before = np.int64(last[number])
        last[number] = step
        if second[number] == 0:
            continue
        idle, root, decay, factor = step - before, np.sqrt(np.float64(second[number])), 1.0, 0.0
        for missed in range(min(idle, horizon)):
            decay *= beta1
            root *= np.sqrt(beta2)
            factor += rates[before - start + missed] * decay / (root + eps)
        second[number] *= beta2**idle
        total, left = np.float32(factor), np.float32(beta1**idle)
        row, moment, noise = table[number], momentum[number], _seed(seed, -step, number)
        for column in range(width):
            kept = get(moment, column)
            drawn = scramble(np.uint32(noise + np.uint32(column)))
            put(moment, column, left * kept, drawn >> np.uint32(16))
            put(row, column, get(row, column) - total * kept, drawn & np.uint32(0xFFFF))


@exact
def _seed(seed: int, step: int, row: int) -> np.uint32:
    """Return where the random bits of a row in a step begin."""
    mixed = scramble(np.uint32(np.uint32(seed) ^ scramble(np.uint32(step))))
    mixed = scramble(np.uint32(mixed ^ np.uint32(row)))
    return scramble(np.uint32(mixed ^ np.uint32(row >> 32)))
