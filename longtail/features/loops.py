"""The ranker's input, compiled: what requests bring along (`bring`), then the rows of candidates (`fill`).

Each row is computed from its own request and item alone and in one fixed order, so that a value has the same bits in
any batch. Constants stand here as literals: Numba does not notice when those of another module change.
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
def bring(
    now: np.ndarray, history: tuple, categories: tuple, table: tuple, popularity: int, purchase: int, short: int,
    long: int, vintage: int,
) -> tuple:  # fmt: skip
    """What B requests bring along, as the functions below make it and `fill` takes it.

    `now` int64 [B]; `history`: indptr int64 [B + 1], item, time, kind and quantity of the events; `categories`: indptr,
    ascending code, counts int64 [4, nnz] and newest time of what each person knows, and n_all int64 [B]; `table`: the
    arrays of `ItemArrays`, `popularity` a column of its matrix.
    """
    indptr, item, time, kind, quantity = history
    matrix, facts, starts, tokens, weights = table
    return (
        pair_rows(now, indptr, item, time, kind, quantity, purchase),
        category_rows(now, categories),
        recent_codes(indptr, item, facts, long),
        levels(indptr, item, matrix, facts, popularity, vintage),
        words(indptr, item, starts, tokens, weights, short, long),
    )


@compiled
def pair_rows(
    now: np.ndarray, indptr: np.ndarray, item: np.ndarray, time: np.ndarray, kind: np.ndarray, quantity: np.ndarray,
    purchase: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The group pair of the items of each history: what the person did with this very item.

    Count, purchases, days since last and first, usual interval, last over interval, usual quantity, events since. Those
    of request b are `indptr[b]:ends[b]` of ascending codes int64 and of float32 [_, 8].
    """
    codes, values = np.empty(len(item), np.int64), np.empty((len(item), 8), np.float32)
    ends = np.empty(len(now), np.int64)
    for b in range(len(now)):
        start, stop = indptr[b], indptr[b + 1]
        order = np.argsort(item[start:stop], kind="mergesort")  # stable: keeps time order within an item
        n, first = start, 0
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
        ends[b] = n
    return indptr, ends, codes, values


@compiled
def category_rows(now: np.ndarray, categories: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The group category of the categories that each person knows.

    Those of request b are `indptr[b]:indptr[b + 1]` of the ascending codes and of float32 [nnz, 6]; then the share of
    any other, float32 [B]. The third count is that of all time.
    """
    indptr, code, counts, last, n_all = categories
    values, other = np.empty((len(last), 6), np.float32), np.empty(len(now), np.float32)
    for b in range(len(now)):
        for row in range(indptr[b], indptr[b + 1]):
            for column in range(4):
                values[row, column] = math.log1p(float(counts[column, row]))
            values[row, 4] = (counts[2, row] + 0.5) / (n_all[b] + 20)
            values[row, 5] = days_since(now[b], last[row])
        other[b] = 0.5 / (n_all[b] + 20)
    return indptr, code, values, other


@compiled
def recent_codes(indptr: np.ndarray, item: np.ndarray, facts: np.ndarray, long: int) -> tuple[np.ndarray, np.ndarray]:
    """Categories and brands of each person's newest items, int64 [B, 2, long], newest first, and how many there are."""
    codes, many = np.empty((len(indptr) - 1, 2, long), np.int64), np.empty(len(indptr) - 1, np.int64)
    for b in range(len(many)):
        many[b] = min(indptr[b + 1] - indptr[b], long)
        for age in range(many[b]):
            past = item[indptr[b + 1] - 1 - age]
            codes[b, 0, age], codes[b, 1, age] = facts[past, 3], facts[past, 4]
    return codes, many


@compiled
def levels(
    indptr: np.ndarray, item: np.ndarray, matrix: np.ndarray, facts: np.ndarray, popularity: int, last: int
) -> np.ndarray:
    """Mean popularity of each history's items, mean listing of the `last` newest in days (NaN unknown), float64 [B, 2].

    `popularity` is its place in the matrix.
    """
    out = np.empty((len(indptr) - 1, 2), np.float64)
    for b in range(len(out)):
        start, stop = indptr[b], indptr[b + 1]
        total = 0.0
        for event in range(start, stop):
            total += matrix[item[event], popularity]
        out[b, 0] = total / max(stop - start, 1)
        vintage, known = 0.0, 0
        for event in range(max(start, stop - last), stop):
            listed = facts[item[event], 2]
            if listed > 0:
                vintage += listed / DAY
                known += 1
        out[b, 1] = vintage / known if known else NAN
    return out


@compiled
def words(
    indptr: np.ndarray, item: np.ndarray, starts: np.ndarray, tokens: np.ndarray, weights: np.ndarray, short: int,
    long: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Content of each person's `short` and `long` newest items, added up by token.

    Those of request b are a hash table, `bounds[b]:bounds[b + 1]` of `key` int32 (-1 free) and `profile` float32
    [_, 2]; it is empty where there are none. Few of the candidates' words are among them.
    """
    bounds = np.zeros(len(indptr), np.int64)
    for b in range(len(indptr) - 1):
        many = 0
        for age in range(min(indptr[b + 1] - indptr[b], long)):
            past = item[indptr[b + 1] - 1 - age]
            many += starts[past + 1] - starts[past]
        size = 16 if many else 0
        while size < 2 * many:
            size *= 2
        bounds[b + 1] = bounds[b] + size
    key, profile = np.full(bounds[-1], -1, np.int32), np.zeros((bounds[-1], 2), np.float32)
    for b in range(len(indptr) - 1):
        mine, sums = key[bounds[b] : bounds[b + 1]], profile[bounds[b] : bounds[b + 1]]
        for age in range(min(indptr[b + 1] - indptr[b], long)):
            past = item[indptr[b + 1] - 1 - age]
            for j in range(starts[past], starts[past + 1]):
                slot = slot_of(mine, tokens[j])
                mine[slot] = tokens[j]
                sums[slot, 1] += weights[j]
                if age < short:
                    sums[slot, 0] += weights[j]
    return bounds, key, profile


@compiled
def slot_of(key: np.ndarray, token: int) -> int:
    """Where a token is in the hash table, or the free slot where it belongs."""
    slot = (token * 2654435761 >> 7) & (len(key) - 1)
    while key[slot] >= 0 and key[slot] != token:
        slot = (slot + 1) & (len(key) - 1)
    return slot


@compiled
def fill(
    out: np.ndarray, at: np.ndarray, rows: np.ndarray, items: np.ndarray, sources: tuple, table: tuple,
    taste: np.ndarray, blocks: tuple, now: np.ndarray, brought: tuple, short: int, long: int,
) -> None:  # fmt: skip
    """The ranker's input float32 [N, F].

    Row p is the item `items[p]` for the request `rows[p]`; `sources` are scores and ranks float32 [N, S]; `table` the
    arrays of `ItemArrays`, in whose matrix `taste` says where price, quantity and popularity are; `blocks`: the groups
    user and context of each request, and usual price and quantity float32 [B, 2]; `brought` comes from `bring`. `at`
    are columns of `out`: `request.PLACES`.
    """
    matrix, facts, starts, tokens, weights = table
    pairs, categories, recent, means, profile = brought
    for a in range(0, len(out), 128):  # what so many items need is waited for at once, and their rows stay in the cache
        z = min(a + 128, len(out))
        warm(items[a:z], matrix, facts, starts, tokens, weights)
        fill_items(out, at[0:3], a, z, rows, items, now, matrix, facts)
        fill_requests(out, at[3], a, z, rows, blocks[0])
        fill_pairs(out, at[4], a, z, rows, items, pairs)
        fill_categories(out, at[5], a, z, rows, items, facts, categories)
        fill_differences(out, at[6:10], a, z, rows, items, now, matrix, facts, taste, blocks[2], means)
        fill_content(out, at[10:12], a, z, rows, items, starts, tokens, weights, profile, short, long)
        fill_matches(out, at[12:15], a, z, rows, items, facts, recent, short)
        fill_requests(out, at[15], a, z, rows, blocks[1])
        fill_sources(out, at[16], a, z, sources)


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
    out: np.ndarray, at: np.ndarray, first: int, stop: int, rows: np.ndarray, items: np.ndarray, now: np.ndarray,
    matrix: np.ndarray, facts: np.ndarray,
) -> None:  # fmt: skip
    """The group item: the stored columns, and days since three moments at `at[0]`, `at[1]`, `at[2]`."""
    for p in range(first, stop):
        item = items[p]
        for column in range(matrix.shape[1]):
            out[p, column] = matrix[item, column]
        for moment in range(3):
            out[p, at[moment]] = days_since(now[rows[p]], facts[item, moment])


@compiled
def fill_requests(out: np.ndarray, at: int, first: int, stop: int, rows: np.ndarray, block: np.ndarray) -> None:
    """The columns of a block float32 [B, n] repeated for each candidate."""
    for p in range(first, stop):
        for column in range(block.shape[1]):
            out[p, at + column] = block[rows[p], column]


@compiled
def fill_pairs(
    out: np.ndarray, at: int, first: int, stop: int, rows: np.ndarray, items: np.ndarray, pairs: tuple
) -> None:
    """The group pair, see `pair_rows`."""
    indptr, ends, codes, values = pairs
    for p in range(first, stop):
        start, n = indptr[rows[p]], ends[rows[p]] - indptr[rows[p]]
        place = place_of(codes[start:], n, items[p])
        if place >= 0:
            for column in range(8):
                out[p, at + column] = values[start + place, column]
        else:
            out[p, at], out[p, at + 1] = 0, 0
            out[p, at + 2], out[p, at + 3], out[p, at + 7] = NEVER, NEVER, NEVER
            out[p, at + 4], out[p, at + 5], out[p, at + 6] = NAN, NAN, NAN


@compiled
def fill_categories(
    out: np.ndarray, at: int, first: int, stop: int, rows: np.ndarray, items: np.ndarray, facts: np.ndarray,
    categories: tuple,
) -> None:  # fmt: skip
    """The group category, see `category_rows`."""
    indptr, codes, values, other = categories
    for p in range(first, stop):
        start, n = indptr[rows[p]], indptr[rows[p] + 1] - indptr[rows[p]]
        code = facts[items[p], 3]
        place = place_of(codes[start:], n, code) if code >= 0 else -1
        if place >= 0:
            for column in range(6):
                out[p, at + column] = values[start + place, column]
        else:
            for column in range(4):
                out[p, at + column] = 0
            out[p, at + 4], out[p, at + 5] = other[rows[p]], NEVER


@compiled
def fill_matches(
    out: np.ndarray, at: np.ndarray, first: int, stop: int, rows: np.ndarray, items: np.ndarray, facts: np.ndarray,
    recent: tuple, short: int,
) -> None:  # fmt: skip
    """Shares of the person's newest items that have the item's category (few of them, many) and brand (many)."""
    codes, lengths = recent
    for p in range(first, stop):
        many = lengths[rows[p]]
        few = min(many, short)
        for kind in range(2):
            code, mine = facts[items[p], 3 + kind], codes[rows[p], kind]
            hits_few, hits_many = 0, 0
            if code >= 0:
                for age in range(many):
                    if mine[age] == code:
                        hits_many += 1
                        hits_few += age < few
            if kind == 0:
                out[p, at[0]] = hits_few / max(few, 1)
            out[p, at[1 + kind]] = hits_many / max(many, 1)


@compiled
def fill_content(
    out: np.ndarray, at: np.ndarray, first: int, stop: int, rows: np.ndarray, items: np.ndarray, starts: np.ndarray,
    tokens: np.ndarray, weights: np.ndarray, profile: tuple, short: int, long: int,
) -> None:  # fmt: skip
    """Dot products of the item's content with what `words` added up, over the number of items."""
    bounds, key, sums = profile
    for p in range(first, stop):
        start, size = bounds[rows[p]], bounds[rows[p] + 1] - bounds[rows[p]]
        few, many = 0.0, 0.0
        if size:
            for j in range(starts[items[p]], starts[items[p] + 1]):
                slot = start + slot_of(key[start : start + size], tokens[j])
                if key[slot] >= 0:
                    few += weights[j] * sums[slot, 0]
                    many += weights[j] * sums[slot, 1]
        out[p, at[0]], out[p, at[1]] = few / short, many / long


@compiled
def fill_differences(
    out: np.ndarray, at: np.ndarray, first: int, stop: int, rows: np.ndarray, items: np.ndarray, now: np.ndarray,
    matrix: np.ndarray, facts: np.ndarray, taste: np.ndarray, usual: np.ndarray, means: np.ndarray,
) -> None:  # fmt: skip
    """How the item differs from the person's taste in price, quantity, listing and popularity."""
    for p in range(first, stop):
        b, item = rows[p], items[p]
        out[p, at[0]] = matrix[item, taste[0]] - usual[b, 0]
        out[p, at[1]] = matrix[item, taste[1]] - usual[b, 1]
        listed = facts[item, 2]
        out[p, at[2]] = listed / DAY - means[b, 1] if 0 < listed <= now[b] else NAN
        out[p, at[3]] = matrix[item, taste[2]] - means[b, 0]


@compiled
def fill_sources(out: np.ndarray, at: int, first: int, stop: int, sources: tuple) -> None:
    """The score and the rank of each source, side by side."""
    scores, ranks = sources
    for p in range(first, stop):
        for source in range(scores.shape[1]):
            out[p, at + 2 * source] = scores[p, source]
            out[p, at + 2 * source + 1] = ranks[p, source]


@compiled
def inside(items: np.ndarray, n: int) -> bool:
    """Whether all items lie in a catalogue of n."""
    good = True
    for item in items:
        good &= 0 <= item < n
    return good


@compiled
def ascending(rows: np.ndarray, n: int) -> bool:
    """Whether rows lie within n requests and never descend."""
    before, good = 0, True
    for row in rows:
        good &= before <= row < n
        before = row
    return good
