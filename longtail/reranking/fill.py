"""Filling a list place by place: pins, promotions, exploration, maximal marginal relevance and caps in one loop.

*Caps*: at most so many of a group in the first `within` places. *Diversity* is maximal marginal relevance (Carbonell
and Goldstein, 1998): each place weighs relevance against likeness to what stands above. *Exploration* is
epsilon-greedy: with probability epsilon a place shows one sampled from the pool, the best candidates that could stand
there, which holds the greedy choice too. The propensity is the probability, given the places above, that the shown item
came to stand there; a pin or a promotion leaves nothing to chance and has 1. *Long tail*: the last places go to
those good candidates that were shown least; given the counts there is no chance in it.
"""

from __future__ import annotations

import numpy as np

from longtail.compiled import compiled

Array = np.ndarray

# What may happen to a candidate: it is free to be shown, shown or kept for a pin, or there for promotions alone.
FREE, TAKEN, STAND_IN = 0, 1, 2
# What decided a place, as bits.
PIN, PROMOTION, CAPS_RELAXED, EXPLORED, DIVERSITY, CAPS, LONG_TAIL = 1, 2, 4, 8, 16, 32, 64


@compiled
def fill_places(
    k: int, state: Array, codes: Array, limits: Array, within: int, relax: bool, gain: Array, unlikeness: np.float32,
    groups: Array, shares: Array, vectors: Array, log_odds: Array, coins: Array, epsilon: float, skip_first: int,
    pool: int, pin_at: Array, due: Array, every: Array, belongs: Array, stands_in: Array, shown: Array, tail_at: int,
    tail_pool: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Positions int64 [k'], their propensities float32 and what decided them (bits), from candidates best first.

    Args:
        state: int8 [n] FREE, TAKEN or STAND_IN; changed in place.
        codes, limits: int32 [C, n] groups (-1 free) and int64 [C] how many of one group the first `within` places take.
        gain, unlikeness: lambda x relevance float32 [n] and 1 - lambda, 0 for an order by relevance alone.
        groups, shares: int32 [G, n] attributes and float32 [G] what it adds to the likeness to have one in common.
        vectors: float32 [d, n] of unit length; when d > 0 the likeness is their cosine instead.
        log_odds, coins: float64 [n] of the sampling, uniform float64 [k, 2] draws.
        pin_at: int64 [k] the position pinned to each place, or -1.
        due, every: int64 [k] the promotion due at each place or -1, and int64 [P] the places that hold one of it.
        belongs, stands_in: bool [P, n] members of each promotion's target, and what stands in for them.
        shown, tail_at, tail_pool: float32 [n] how often each was shown lately; from place `tail_at` on the least shown
            of the best `tail_pool` that are left is taken. Empty: the rule is off.
    """
    n = len(state)
    chosen = np.empty(k, np.int64)
    chance = np.ones(k, np.float32)
    why = np.zeros(k, np.int64)
    full = np.zeros(n, np.bool_)
    nearest = np.zeros(n, np.float32)
    for place in range(k):
        if place == within:
            full[:] = False
        pick = pin_at[place]
        if pick >= 0:
            why[place] = PIN
        else:
            left = _first(state, full, False)
            allowed = _first(state, full, True)
            relaxed = allowed < 0
            greedy = -1
            if not relaxed or (relax and left >= 0):
                first = left if relaxed else allowed
                greedy = _most_relevant(state, full, relaxed, gain, unlikeness, nearest) if unlikeness > 0 else first
            promoted = -1
            if due[place] >= 0:
                p = due[place]
                start = place // every[p] * every[p]
                if not belongs[p][chosen[start:place]].any():
                    promoted = _promoted(state, full, belongs[p], stands_in[p])
            if promoted >= 0:
                pick = promoted
                if pick != greedy:
                    why[place] = PROMOTION
            elif greedy >= 0:
                pick = greedy
                why[place] = CAPS_RELAXED if relaxed else 0
                if len(shown) > 0 and place >= tail_at:
                    pick = _least_shown(state, full, relaxed, tail_pool, shown)
                    if pick != greedy:
                        why[place] |= LONG_TAIL
                elif epsilon > 0 and place >= skip_first:
                    explored = coins[place, 0] < epsilon
                    pick, likely = _sampled(state, full, relaxed, pool, log_odds, coins[place, 1], greedy, explored)
                    chance[place] = epsilon * likely + (1 - epsilon) * (pick == greedy)
                    if explored:
                        why[place] |= EXPLORED
                if pick == greedy and greedy != first:
                    why[place] |= DIVERSITY
                if pick == greedy and not relaxed and first != left:
                    why[place] |= CAPS
            else:
                return chosen[:place], chance[:place], why[:place]
        chosen[place] = pick
        state[pick] = TAKEN
        if place < within:
            for c in range(len(limits)):
                code = codes[c, pick]
                if code >= 0 and (codes[c][chosen[: place + 1]] == code).sum() == limits[c]:
                    full |= codes[c] == code
        if unlikeness > 0:
            _move_nearer(nearest, pick, groups, shares, vectors)
    return chosen, chance, why


@compiled
def _first(state: Array, full: Array, capped: bool) -> int:
    """The best candidate that is free, and with `capped` breaks no cap; -1 for none."""
    for j in range(len(state)):
        if state[j] == FREE and not (capped and full[j]):
            return j
    return -1


@compiled
def _most_relevant(
    state: Array, full: Array, relaxed: bool, gain: Array, unlikeness: np.float32, nearest: Array
) -> int:
    """The candidate of the greatest marginal relevance, ties to the better one."""
    best, value = -1, -np.inf
    for j in range(len(state)):
        if state[j] == FREE and (relaxed or not full[j]):
            here = gain[j] - unlikeness * nearest[j]
            if here > value:
                best, value = j, here
    return best


@compiled
def _least_shown(state: Array, full: Array, relaxed: bool, pool: int, shown: Array) -> int:
    """Of the best `pool` candidates that are left the one with the fewest showings, ties to the better one."""
    best, size = -1, 0
    for j in range(len(state)):
        if size < pool and state[j] == FREE and (relaxed or not full[j]):
            size += 1
            if best < 0 or shown[j] < shown[best]:
                best = j
    return best


@compiled
def _move_nearer(nearest: Array, pick: int, groups: Array, shares: Array, vectors: Array) -> None:
    """`pick` is shown: the likeness of every candidate to the most alike item shown."""
    alike = np.zeros(len(nearest), np.float32)
    if len(vectors):
        for d in range(len(vectors)):
            value = vectors[d, pick]
            for j in range(len(alike)):
                alike[j] += value * vectors[d, j]
    else:
        for g in range(len(groups)):
            code = groups[g, pick]
            if code >= 0:
                for j in range(len(alike)):
                    if groups[g, j] == code:
                        alike[j] += shares[g]
    for j in range(len(nearest)):
        nearest[j] = max(nearest[j], alike[j])


@compiled
def _sampled(
    state: Array, full: Array, relaxed: bool, pool: int, log_odds: Array, coin: float, greedy: int, explored: bool
) -> tuple[int, float]:
    """(what is shown, the chance that sampling alone shows it): a pool member in proportion to exp(log odds)."""
    members = np.empty(min(pool, len(state)), np.int64)
    size = 0
    for j in range(len(state)):
        if size < len(members) and state[j] == FREE and (relaxed or not full[j]):
            members[size] = j
            size += 1
    inside = log_odds[members[:size]]
    weights = np.exp(inside - inside.max())
    total = weights.sum()
    pick = greedy
    if explored:
        reached, wanted = 0.0, coin * total
        for m in range(size):
            if weights[m] > 0:
                pick = members[m]
                reached += weights[m]
                if reached > wanted:
                    break
    likely = 0.0
    for m in range(size):
        if members[m] == pick:
            likely = weights[m] / total
    return pick, likely


@compiled
def _promoted(state: Array, full: Array, belongs: Array, stands_in: Array) -> int:
    """The best candidate of a promotion: one that breaks no cap, else any, else what stands in; -1 for none."""
    found = -1
    for j in range(len(state)):
        if state[j] == FREE and belongs[j]:
            if not full[j]:
                return j
            if found < 0:
                found = j
    if found < 0:
        for j in range(len(state)):
            if state[j] != TAKEN and stands_in[j]:
                return j
    return found
