"""The loops over candidates, compiled: each fills columns of the ranker's input from column `at` on.

Candidates of request b are the rows `bounds[b]:bounds[b + 1]` of `out`. Each row is computed from its own request and
item alone and in one fixed order, so that a value has the same bits in any batch. Constants stand here as literals:
Numba does not notice when those of another module change.
"""

from __future__ import annotations

import math

import numpy as np

from longtail.compiled import compiled

DAY = 86_400_000_000.0
NEVER = 9999.0  # days, where the event in question never happened
NAN = math.nan


@compiled
def days_since(now: int, then: int) -> float:
    """Days from one time to another (microseconds). A time after the request is not known at the request."""
    return (now - then) / DAY if 0 < then <= now else NEVER


@compiled
def place_of(sorted_codes: np.ndarray, n: int, code: int) -> int:
    """The place of a code in the first n of ascending codes, -1 where it is not there."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if sorted_codes[middle] < code:
            low = middle + 1
        else:
            high = middle
    return low if low < n and sorted_codes[low] == code else -1


@compiled
def warm(
    items: np.ndarray, matrix: np.ndarray, facts: np.ndarray, starts: np.ndarray, tokens: np.ndarray,
    weights: np.ndarray,
) -> float:  # fmt: skip
    """Touch what the other loops will read of the items, so that the memory is waited for once and not line by line.

    The sum means nothing: without it the compiler would leave the reading out.
    """
    total = 0.0
    for item in items:
        for column in range(0, matrix.shape[1], 16):  # 64 bytes come at a time
            total += matrix[item, column]
        total += facts[item, 0] + facts[item, 4] + starts[item]
    for item in items:
        if starts[item] < starts[item + 1]:
            total += tokens[starts[item]] + weights[starts[item]]
    return total


@compiled
def fill_items(
    out: np.ndarray, at: np.ndarray, items: np.ndarray, now: np.ndarray, bounds: np.ndarray, matrix: np.ndarray,
    facts: np.ndarray,
) -> None:  # fmt: skip
    """The group item: the stored columns, and days since three moments at `at[0]`, `at[1]`, `at[2]`."""
    n = matrix.shape[1]
    for b in range(len(bounds) - 1):
        for p in range(bounds[b], bounds[b + 1]):
            item = items[p]
            for column in range(n):
                out[p, column] = matrix[item, column]
            for moment in range(3):
                out[p, at[moment]] = days_since(now[b], facts[item, moment])


@compiled
def fill_requests(out: np.ndarray, at: int, bounds: np.ndarray, block: np.ndarray) -> None:
    """The columns of a block float32 [B, n] repeated for each candidate."""
    n = block.shape[1]
    for b in range(len(bounds) - 1):
        for p in range(bounds[b], bounds[b + 1]):
            for column in range(n):
                out[p, at + column] = block[b, column]


@compiled
def fill_pairs(
    out: np.ndarray, at: int, items: np.ndarray, now: np.ndarray, bounds: np.ndarray, indptr: np.ndarray,
    item: np.ndarray, time: np.ndarray, kind: np.ndarray, quantity: np.ndarray, purchase: int,
) -> None:  # fmt: skip
    """The group pair: what the person did with this very item.

    Count, purchases, days since last and first, usual interval, last over interval, usual quantity, events since.
    """
    for b in range(len(bounds) - 1):
        start, stop = indptr[b], indptr[b + 1]
        order = np.argsort(item[start:stop], kind="mergesort")  # stable: keeps time order within an item
        codes = np.empty(stop - start, np.int64)
        values = np.empty((stop - start, 8), np.float32)
        n = 0
        first = 0
        while first < len(order):
            code = item[start + order[first]]
            last, bought, total = first, 0, 0.0
            while last < len(order) and item[start + order[last]] == code:
                event = start + order[last]
                bought += kind[event] == purchase
                total += quantity[event]
                last += 1
            count = last - first
            newest, oldest = time[start + order[last - 1]], time[start + order[first]]
            since = (now[b] - newest) / DAY
            interval = (newest - oldest) / DAY / (count - 1) if count > 1 else NAN
            values[n, 0], values[n, 1], values[n, 2] = count, bought, since
            values[n, 3], values[n, 4] = (now[b] - oldest) / DAY, interval
            values[n, 5] = since / max(interval, 0.5) if count > 1 else NAN
            values[n, 6] = math.log1p(max(total / count, 0.0))
            values[n, 7] = len(order) - 1 - order[last - 1]
            codes[n] = code
            n, first = n + 1, last
        for p in range(bounds[b], bounds[b + 1]):
            place = place_of(codes, n, items[p])
            if place >= 0:
                for column in range(8):
                    out[p, at + column] = values[place, column]
            else:
                out[p, at], out[p, at + 1] = 0, 0
                out[p, at + 2], out[p, at + 3], out[p, at + 7] = NEVER, NEVER, NEVER
                out[p, at + 4], out[p, at + 5], out[p, at + 6] = NAN, NAN, NAN


@compiled
def fill_categories(
    out: np.ndarray, at: int, items: np.ndarray, now: np.ndarray, bounds: np.ndarray, code_of: np.ndarray,
    indptr: np.ndarray, category: np.ndarray, counts: np.ndarray, last: np.ndarray, n_all: np.ndarray,
) -> None:  # fmt: skip
    """The group category: what the person did in the item's category.

    `code_of` int64 [I], `counts` int64 [4, nnz] and `last` int64 [nnz] of the rows that `indptr` and the ascending
    `category` describe, of which the third count is that of all time; `n_all` int64 [B].
    """
    for b in range(len(bounds) - 1):
        start, n = indptr[b], indptr[b + 1] - indptr[b]
        rows = np.empty((n, 6), np.float32)
        for row in range(n):
            for column in range(4):
                rows[row, column] = math.log1p(float(counts[column, start + row]))
            rows[row, 4] = (counts[2, start + row] + 0.5) / (n_all[b] + 20)
            rows[row, 5] = days_since(now[b], last[start + row])
        unknown = 0.5 / (n_all[b] + 20)
        for p in range(bounds[b], bounds[b + 1]):
            code = code_of[items[p]]
            row = place_of(category[start : start + n], n, code) if code >= 0 else -1
            if row >= 0:
                for column in range(6):
                    out[p, at + column] = rows[row, column]
            else:
                for column in range(4):
                    out[p, at + column] = 0
                out[p, at + 4], out[p, at + 5] = unknown, NEVER


@compiled
def fill_matches(
    out: np.ndarray, at: np.ndarray, items: np.ndarray, bounds: np.ndarray, codes: np.ndarray, indptr: np.ndarray,
    item: np.ndarray, short: int, long: int,
) -> None:  # fmt: skip
    """Share of the person's `short` and `long` newest items whose code (int64 [I], -1 none) is the item's.

    The shares go to `at[0]` and `at[1]`; -1 leaves one out.
    """
    for b in range(len(bounds) - 1):
        length = indptr[b + 1] - indptr[b]
        few, many = min(length, short), min(length, long)
        recent = np.empty(many, np.int64)
        for age in range(many):
            recent[age] = codes[item[indptr[b + 1] - 1 - age]]
        for p in range(bounds[b], bounds[b + 1]):
            code = codes[items[p]]
            hits_few, hits_many = 0, 0
            if code >= 0:
                for age in range(many):
                    if recent[age] == code:
                        hits_many += 1
                        hits_few += age < few
            if at[0] >= 0:
                out[p, at[0]] = hits_few / max(few, 1)
            out[p, at[1]] = hits_many / max(many, 1)


@compiled
def fill_content(
    out: np.ndarray, at: np.ndarray, items: np.ndarray, bounds: np.ndarray, indptr: np.ndarray, item: np.ndarray,
    short: int, long: int, starts: np.ndarray, tokens: np.ndarray, weights: np.ndarray,
) -> None:  # fmt: skip
    """Dot products of the item's content with the sum over the `short` and `long` newest items, over their number.

    The person's words are kept in a small hash table: few of the candidates' words are among them.
    """
    for b in range(len(bounds) - 1):
        many = min(indptr[b + 1] - indptr[b], long)
        words = 0
        for age in range(many):
            past = item[indptr[b + 1] - 1 - age]
            words += starts[past + 1] - starts[past]
        size = 16
        while size < 2 * words:
            size *= 2
        key = np.full(size, -1, np.int32)
        profile = np.zeros((size, 2), np.float32)
        for age in range(many):
            past = item[indptr[b + 1] - 1 - age]
            for j in range(starts[past], starts[past + 1]):
                slot = slot_of(key, size, tokens[j])
                key[slot] = tokens[j]
                profile[slot, 1] += weights[j]
                if age < short:
                    profile[slot, 0] += weights[j]
        for p in range(bounds[b], bounds[b + 1]):
            few_dot, many_dot = 0.0, 0.0
            if words:
                for j in range(starts[items[p]], starts[items[p] + 1]):
                    slot = slot_of(key, size, tokens[j])
                    if key[slot] >= 0:
                        few_dot += weights[j] * profile[slot, 0]
                        many_dot += weights[j] * profile[slot, 1]
            out[p, at[0]], out[p, at[1]] = few_dot / short, many_dot / long


@compiled
def slot_of(key: np.ndarray, size: int, token: int) -> int:
    """Where a token is in the hash table, or the free slot where it belongs."""
    slot = (token * 2654435761 >> 7) & (size - 1)
    while key[slot] >= 0 and key[slot] != token:
        slot = (slot + 1) & (size - 1)
    return slot


@compiled
def fill_differences(
    out: np.ndarray, at: np.ndarray, items: np.ndarray, now: np.ndarray, bounds: np.ndarray, indptr: np.ndarray,
    item: np.ndarray, matrix: np.ndarray, columns: np.ndarray, created: np.ndarray, user: np.ndarray, last: int,
) -> None:  # fmt: skip
    """How the item differs from the person's taste in price, quantity, listing and popularity.

    `at` are the four columns to fill, `columns` those of price, quantity and popularity in `matrix`; `created` int64
    [I]; `user` float32 [B, 2] the usual price and quantity; the listing is compared with that of the `last` newest.
    """
    for b in range(len(bounds) - 1):
        start, stop = indptr[b], indptr[b + 1]
        popularity = 0.0
        for event in range(start, stop):
            popularity += matrix[item[event], columns[2]]
        popularity /= max(stop - start, 1)
        vintage, known = 0.0, 0
        for event in range(max(start, stop - last), stop):
            listed = created[item[event]]
            if listed > 0:
                vintage += listed / DAY
                known += 1
        vintage /= max(known, 1)
        for p in range(bounds[b], bounds[b + 1]):
            own = items[p]
            out[p, at[0]] = matrix[own, columns[0]] - user[b, 0]
            out[p, at[1]] = matrix[own, columns[1]] - user[b, 1]
            listed = created[own]
            out[p, at[2]] = listed / DAY - vintage if known > 0 and 0 < listed <= now[b] else NAN
            out[p, at[3]] = matrix[own, columns[2]] - popularity


@compiled
def fill_sources(out: np.ndarray, at: int, scores: np.ndarray, ranks: np.ndarray) -> None:
    """The score and the rank of each source, side by side."""
    for p in range(len(scores)):
        for source in range(scores.shape[1]):
            out[p, at + 2 * source] = scores[p, source]
            out[p, at + 2 * source + 1] = ranks[p, source]
