"""The chances with which re-ranking puts each candidate of a request at each place, without drawing a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from longtail.errors import InvalidInput
from longtail.reranking import BoundRules, ItemView, PersonView, rerank
from longtail.reranking.binding import BoundPin, Span
from longtail.reranking.exploration import log_odds
from longtail.reranking.fill import FREE, STAND_IN
from longtail.reranking.filters import member, screen
from longtail.reranking.pins import claims
from longtail.reranking.rules import Caps, Diversity, Exploration

ALWAYS = Span(np.iinfo(np.int64).min, np.iinfo(np.int64).max)


class _NeverExplores:
    """Draws that let every place take its greedy choice; the propensity says what else might have come."""

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape)


class Shelf:
    """One request's candidates under one policy's scores and rules, see `rerank` for the arguments.

    `items` int64 [n] are what may be shown, the best first, and behind them what only pins and promotions name.
    `rerank` itself says what a place's greedy choice is, given what is put above it; what exploration may put there
    instead follows from the pool.
    """

    def __init__(
        self, scores: np.ndarray, items: np.ndarray, view: ItemView, person: PersonView, rules: BoundRules, now: int,
        k: int, linear_scores: bool = False,
    ) -> None:  # fmt: skip
        bare = rules.rules.model_copy(
            update={
                "caps": Caps(),
                "diversity": Diversity(),
                "exploration": Exploration(),
                "pins": (),
                "promotions": (),
            }
        )
        calm = np.random.default_rng(0)
        found = rerank(
            scores, items, view, person, replace(rules, rules=bare, pins=(), promotions=()), calm, now, len(items),
            linear_scores,
        )  # fmt: skip
        pins = [pin for pin in rules.pins if pin.place < k and pin.span.holds(now)]
        promotions = [p for p in rules.promotions if p.every <= k and p.target.span.holds(now)]
        named = [pin.items for pin in pins] + [promotion.items for promotion in promotions]
        extras = np.array(list(dict.fromkeys(np.concatenate(named).tolist())), np.int64) if named else found.items[:0]
        extras = extras[~member(extras, found.items)]
        extras = extras[screen(extras, view, person, rules, now) == 0]
        self.items = np.concatenate([found.items, extras])
        self.worth = found.scores.astype(np.float64)
        self.k = min(k, len(self.items))
        self._asked = (scores, items, view, person, rules, now, linear_scores)
        self._settings = rules.rules
        self._state = np.full(len(self.items), STAND_IN, np.int8)
        self._state[: len(found.items)] = FREE
        claims(self.items, self._state, pins, promotions, rules, k)  # marks what is kept for a pin
        self._plain = self._settings.diversity.weight == 1 and not pins and not promotions
        self._caps = [(getattr(view, name)[self.items], most) for name, most in self._settings.caps.limits.items()]
        self._at = {int(item): place for place, item in enumerate(self.items)}
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def positions(self, shown: np.ndarray) -> np.ndarray:
        """int64 [m]: where items stand in `items`, -1 for those that may not be shown."""
        return np.array([self._at.get(int(item), -1) for item in shown], np.int64)

    def given(self, shown: np.ndarray) -> np.ndarray:
        """float64 [m]: the chance of each of the shown items int64 [m] at its place, given those above it.

        From the first place on at which the policy could not have gone along, it is 0.
        """
        at = self.positions(shown)
        out = np.zeros(len(at))
        for place in range(min(len(at), self.k)):
            if at[place] < 0:
                break
            out[place] = self.chances(at[:place])[at[place]]
            if out[place] == 0:
                break
        return out

    def marginal(self, paths: int, rng: np.random.Generator) -> np.ndarray:
        """float64 [n, k]: the chance of each item at each place, whatever stands above.

        The mean over `paths` drawn lists of the exact chances given what stands above: what is drawn is only which
        items stand above, so that even the rarest item has its chance (Rao-Blackwell).
        """
        out = np.zeros((len(self.items), self.k))
        if not self._settings.exploration.epsilon:
            paths = 1
        for _ in range(paths):
            above: list[int] = []
            for place in range(self.k):
                chance = self.chances(above)
                total = chance.sum()
                if total == 0:
                    break
                out[:, place] += chance
                if place + 1 < self.k:
                    drawn = np.searchsorted(np.cumsum(chance), rng.random() * total, side="right")
                    above.append(int(min(drawn, len(chance) - 1)))
        return out / paths

    def chances(self, above: Sequence[int] | np.ndarray) -> np.ndarray:
        """float64 [n]: the chance of each item at the place below the positions `above`; all 0 where a list ends."""
        key = tuple(int(position) for position in above)
        if key not in self._known:
            self._known[key] = self._chances(key)
        return self._known[key]

    def _chances(self, above: tuple[int, ...]) -> np.ndarray:
        out, place = np.zeros(len(self.items)), len(above)
        free = self._state == FREE
        free[list(above)] = False
        allowed = free & ~self._full(above)
        if not allowed.any() and self._settings.caps.relax:
            allowed = free
        pool = np.flatnonzero(allowed)[: self._settings.exploration.pool]
        explore = self._settings.exploration
        if self._plain:
            if not len(pool):
                return out
            greedy, certain = int(pool[0]), explore.epsilon == 0 or place < explore.skip_first
        else:
            greedy, certain = self._greedy(above)
            if greedy < 0:
                return out
        if certain:
            out[greedy] = 1.0
            return out
        heat = log_odds(self.worth[pool], self._unknown(pool), explore.temperature, explore.thompson)
        odds = np.exp(heat - heat.max())
        out[pool] = explore.epsilon * odds / odds.sum()
        out[greedy] += 1 - explore.epsilon
        return out

    def _unknown(self, pool: np.ndarray) -> np.ndarray | None:
        doubt = self._asked[2].doubt
        return None if doubt is None else doubt[self.items[pool]]

    def _full(self, above: tuple[int, ...]) -> np.ndarray:
        """bool [n]: one more of its group would break a cap."""
        full = np.zeros(len(self.items), bool)
        if len(above) < self._settings.caps.within:
            for codes, most in self._caps:
                groups, count = np.unique(codes[list(above)], return_counts=True)
                full |= np.isin(codes, groups[(count >= most) & (groups >= 0)])
        return full

    def _greedy(self, above: tuple[int, ...]) -> tuple[int, bool]:
        """The choice that `rerank` makes below what it is told to put above, -1 for none; whether it is certain."""
        scores, items, view, person, rules, now, linear = self._asked
        put = tuple(BoundPin("above", n, self.items[[position]], ALWAYS) for n, position in enumerate(above))
        place = len(above)
        greedily = cast(np.random.Generator, _NeverExplores())
        bound = replace(rules, pins=put + rules.pins)
        found = rerank(scores, items, view, person, bound, greedily, now, self.k, linear)
        if len(found.items) <= place:
            return -1, True
        if not np.array_equal(found.items[:place], self.items[list(above)]):
            raise InvalidInput("the list above this place cannot be shown")
        return self._at[int(found.items[place])], bool(found.propensity[place] == 1)
