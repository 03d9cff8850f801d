"""One request's ranked candidates become the list that is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longtail.reranking.binding import BoundRules
from longtail.reranking.boosts import freshness_factor, log_worth
from longtail.reranking.caps import CapState
from longtail.reranking.diversity import Mmr, by_attributes, by_vectors, unit_range
from longtail.reranking.exploration import propensity, sample, sampling_log_odds
from longtail.reranking.filters import counts, eligibility
from longtail.reranking.rules import Rules
from longtail.reranking.views import ItemView, PersonView


@dataclass(frozen=True)
class Reranked:
    """The list, best first.

    `order` int64 [k'] positions in the candidates that were passed in; `items` int64 [k']; `scores` float32 [k'] after
    boosts, on the log scale; `propensity` float32 [k'] probability of the item at its place given those above it;
    `dropped`: candidates each reason removed; `rules_applied`: for each shown item the names of what moved it.
    """

    order: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    propensity: np.ndarray
    dropped: dict[str, int]
    rules_applied: list[tuple[str, ...]]


def rerank(
    scores: np.ndarray,
    items: np.ndarray,
    view: ItemView,
    person: PersonView,
    rules: BoundRules,
    rng: np.random.Generator,
    now: int,
    k: int,
    linear_scores: bool = False,
) -> Reranked:
    """Filter, boost, diversify, cap and explore. The result is safe (stock, region, age) whatever the rules say.

    Args:
        scores: float32 [n], higher is better: a ranker's margins, or with `linear_scores` counts or probabilities.
        items: int64 [n] item indices, in any order; repeats and -1 are dropped.
        now: microseconds since 1970, for freshness and for rules with dates.
        k: places to fill; fewer come back only when the candidates run out (or a strict cap ends the list).
    """
    items = np.asarray(items, np.int64)
    inside = np.clip(items, 0, max(len(view) - 1, 0))
    reason = eligibility(
        items, view, person, None if not len(view) else _blocked(inside, rules, now),
        rules.rules.filters.exclude_bought, rules.rules.filters.exclude_seen,
    )  # fmt: skip
    kept = np.flatnonzero(reason == 0)
    rows = view.take(items[kept])
    worth = log_worth(np.asarray(scores)[kept], linear_scores)
    touched = _boost(worth, items[kept], rows.created_us, rules, now)
    # Sorted once, so that the best remaining candidate is the first one that is left; ties go to the smaller index.
    best_first = np.lexsort((items[kept], -worth))
    kept, worth, rows = kept[best_first], worth[best_first], rows.take(best_first)
    chosen, chance, notes = fill(worth, rows, rules.rules, rng, k)
    applied = [
        tuple(name for name, mask in touched if mask[best_first[c]]) + note
        for c, note in zip(chosen, notes, strict=True)
    ]
    order = kept[chosen].astype(np.int64)
    return Reranked(order, items[order], worth[chosen], np.array(chance, np.float32), counts(reason), applied)


def fill(
    worth: np.ndarray, rows: ItemView, rules: Rules, rng: np.random.Generator, k: int
) -> tuple[list[int], list[float], list[tuple[str, ...]]]:
    """Fill k places from candidates sorted best first: (positions, propensities, names of what decided each place)."""
    n, explore, caps = len(worth), rules.exploration, rules.caps
    left = np.ones(n, bool)
    state = CapState(*caps.columns(rows), n)
    diverse = _diversity(worth, rows, rules)
    coins = rng.random(k) if explore.epsilon > 0 else None
    log_odds = sampling_log_odds(worth, explore.temperature)
    chosen: list[int] = []
    chance: list[float] = []
    notes: list[tuple[str, ...]] = []
    for place in range(min(k, n)):
        if place == caps.within:
            state.lift()
        allowed = left & ~state.full
        first = int(allowed.argmax())
        relaxed = not allowed[first]
        if relaxed:
            if not caps.relax:
                break
            allowed, first = left, int(left.argmax())
        greedy = first if diverse is None else diverse.best(allowed)
        pick, likely = greedy, 1.0
        note: tuple[str, ...] = ("caps_relaxed",) if relaxed else ()
        if coins is not None and place >= explore.skip_first:
            pool = _pool(allowed, explore.pool)
            explored = coins[place] < explore.epsilon
            pick = sample(log_odds, pool, rng) if explored else greedy
            likely = propensity(log_odds, pool, greedy, pick, explore.epsilon)
            note += ("explored",) if explored else ()
        if pick == greedy and greedy != first:
            note += ("diversity",)
        if pick == greedy and not relaxed and first != int(left.argmax()):
            note += ("caps",)
        chosen.append(pick)
        chance.append(likely)
        notes.append(note)
        left[pick] = False
        state.add(pick)
        if diverse is not None:
            diverse.add(pick)
    return chosen, chance, notes


def _pool(allowed: np.ndarray, size: int) -> np.ndarray:
    """The best `size` of the allowed candidates, bool [n]."""
    members = np.flatnonzero(allowed)
    if len(members) <= size:
        return allowed
    pool = np.zeros(len(allowed), bool)
    pool[members[:size]] = True
    return pool


def _diversity(worth: np.ndarray, rows: ItemView, rules: Rules) -> Mmr | None:
    if rules.diversity.weight >= 1:
        return None
    if rules.diversity.similarity == "vectors" and rows.vectors is not None:
        similarity = by_vectors(rows.vectors)
    else:
        similarity = by_attributes(rows.category, rows.top_category, rows.brand)
    return Mmr(unit_range(worth), similarity, rules.diversity.weight)


def _blocked(items: np.ndarray, rules: BoundRules, now: int) -> np.ndarray | None:
    """bool [n] over items inside the catalogue: the shop wants them shown nowhere now; None: it blocks nothing."""
    out = None
    for word, bits in rules.block_bits(now):
        hit = (rules.words[word][items] & bits) != 0
        out = hit if out is None else out | hit
    return out


def _boost(
    worth: np.ndarray, items: np.ndarray, created_us: np.ndarray, rules: BoundRules, now: int
) -> list[tuple[str, np.ndarray]]:
    """Apply objective, freshness and boosts to `worth` in place; (name, bool [n] of what it moved) of each."""
    touched = []
    if rules.tilt is not None:
        worth += rules.tilt[items]
    fresh = rules.rules.freshness
    if fresh.strength > 0:
        newness = freshness_factor(created_us, now, fresh.half_life_days, fresh.strength)
        worth += np.log(newness)
        touched.append(("freshness", newness > 1.01))
    for boost in rules.boosts:
        if boost.target.span.holds(now):
            mask = (rules.words[boost.target.word][items] & boost.target.bit) != 0
            worth[mask] += boost.log_factor
            touched.append((f"boost:{boost.name}", mask))
    return touched
