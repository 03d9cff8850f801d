"""The impression log of a serving bundle, read as lists whose chances are known under it and under a challenger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from longtail.engine.impressions import Impression, each_impression
from longtail.errors import InvalidInput
from longtail.events import Log
from longtail.offpolicy import slates
from longtail.offpolicy.policy import Policy, comparable, past_of, why_not
from longtail.offpolicy.rewards import Outcomes, worth_of_clicks
from longtail.offpolicy.shelf import Shelf
from longtail.ranking.propensity import examination
from longtail.schema import EVENT_CODE

NOT_REPRODUCED = "that the bundle's own ranker and rules would have made otherwise"


@dataclass(frozen=True)
class Replayed:
    """N lists of at most K places; what a list lacks is 0.

    `user` int [N]; `shown` bool, `reward` and `weight` float64 [N, K]: clicks, counted by what they are worth where
    `by_worth`, and weights by `slates.position_based`, with the `looked` float64 [K] that the log teaches.
    `unsupported` float64 [N]: the share of the looks at the challenger's list that go to what the champion could not
    have shown. `skipped`: lists that say nothing, by reason.
    """

    user: np.ndarray
    shown: np.ndarray
    reward: np.ndarray
    weight: np.ndarray
    looked: np.ndarray
    unsupported: np.ndarray
    skipped: dict[str, int]
    by_worth: bool = False


def replay(
    impressions: Path, shop: Path, champion: Policy, challenger: Policy, lists: int = 5000, paths: int = 32,
    seed: int = 0, objective: str | Mapping[Any, float] = "clicks",
) -> Replayed:  # fmt: skip
    """Re-rank what was logged, for at most `lists` lists of `champion`, drawn evenly; the shop holds what came of them.

    A click counts what `worth_of_clicks` says under the `objective` of the training, by the champion's catalogue.

    A list counts only when the champion's own ranker and rules give every place of it the chance that was logged: else
    something that the log does not hold decided (an age that the request named, rules that were changed since), and no
    chance worked out here could be trusted.

    Raises:
        InvalidInput: the bundles cannot be compared, the shop has no events, or no list can be judged; the message says
            why.
    """
    comparable(champion, challenger)
    rng = np.random.default_rng(seed)
    chosen, people = _draw(impressions, champion.bundle.version, lists, rng)
    outcomes = Outcomes.load(shop, chosen, people)
    skipped: Counter[str] = Counter()
    rows: list[Impression] = []
    chances: list[tuple[np.ndarray, np.ndarray]] = []
    totals: list[tuple[np.ndarray, np.ndarray]] = []
    rewards: list[np.ndarray] = []
    worth = {
        name: worth_of_clicks(champion.surfaces[name], objective, champion.bundle.catalogue)
        for name in champion.surfaces
    }
    for row, features in each_impression(impressions):
        if row.request_id not in chosen and row.model_version == champion.bundle.version:
            continue
        reason = why_not(row, features, champion)
        found = None if reason else _chances(row, features, champion, challenger, outcomes, paths, rng)
        if found is None:
            skipped[reason or NOT_REPRODUCED] += 1
            continue
        rows.append(row)
        chances.append(found[:2])
        totals.append(found[2:])
        rewards.append(_earned(row, outcomes, worth[row.surface], champion))
    if not rows:
        why = "; ".join(f"{count} {reason}" for reason, count in skipped.items()) or "the log is empty"
        raise InvalidInput(
            f"no list in {impressions} can be judged: {why}. Serve with `--impression-features candidates` "
            "and `exploration` above 0"
        )
    by_worth = any(worth[row.surface] is not None for row in rows)
    return _joined(rows, chances, totals, rewards, skipped, by_worth)


def _earned(row: Impression, outcomes: Outcomes, worth: np.ndarray | None, champion: Policy) -> np.ndarray:
    """float64 [k]: what each item of a list of the champion earned."""
    hit = outcomes.of(row)
    return hit if worth is None else hit * worth[champion.bundle.codes.find(row.items)]


def _draw(impressions: Path, version: str, lists: int, rng: np.random.Generator) -> tuple[set[str], set[str]]:
    """Request ids, and people, of at most `lists` lists of the version."""
    found: list[tuple[str, str | None]] = []
    for path in sorted(Path(impressions).glob("date=*/part-*.parquet")):
        table = pq.ParquetFile(path).read(columns=["request_id", "user_id", "model_version"]).to_pydict()
        rows = zip(table["request_id"], table["user_id"], table["model_version"], strict=True)
        found += [(request, user) for request, user, made_by in rows if made_by == version]
    if len(found) > lists:
        found = [found[n] for n in rng.choice(len(found), lists, replace=False)]
    return {request for request, _ in found}, {user for _, user in found if user is not None}


def _chances(
    row: Impression, features: np.ndarray, champion: Policy, challenger: Policy, outcomes: Outcomes, paths: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:  # fmt: skip
    """Of one list: both policies' chances [k, K] of the shown items at every place, and [2, K] chances in all.

    The last two are the challenger's chances of the places, of everything, and of what the champion may show, too.
    """
    items = champion.bundle.catalogue.ids_of(row.candidates)
    past = past_of(row, champion, outcomes)
    old, new = (policy.shelf(row, items, features, past) for policy in (champion, challenger))
    shown = champion.bundle.codes.find(row.items)
    made = min(old.k, len(row.items))  # popular items fill up a list that re-ranking left short
    if made == 0 or not np.allclose(old.given(shown[:made]), row.propensity[:made], rtol=1e-3, atol=1e-9):
        return None
    # Both draw alike, so that where they agree the draws cancel.
    draws = int(rng.integers(2**62))
    ours, theirs = (shelf.marginal(paths, np.random.default_rng(draws)) for shelf in (old, new))
    mine, yours = ours[old.positions(shown[:made])], _rows(theirs, new, challenger, row.items[:made])
    ids = challenger.bundle.catalogue.ids_of(new.items)
    could = _rows(ours, old, champion, ids).sum(1) > 0
    return mine, yours, theirs.sum(0), theirs[could].sum(0)


def _rows(marginal: np.ndarray, shelf: Shelf, policy: Policy, ids: list[str]) -> np.ndarray:
    """float64 [len(ids), K]: chances of items by id; 0 for those that the policy's shelf lacks."""
    at = shelf.positions(policy.bundle.codes.find(ids))
    return np.where((at >= 0)[:, None], marginal[np.maximum(at, 0)], 0.0)


def _joined(
    rows: list[Impression], chances: list[tuple[np.ndarray, np.ndarray]], totals: list[tuple[np.ndarray, np.ndarray]],
    rewards: list[np.ndarray], skipped: Counter[str], by_worth: bool,
) -> Replayed:  # fmt: skip
    n, places = len(rows), max(max(ours.shape) for ours, _ in chances)
    shown = np.zeros((n, places), bool)
    reward = np.zeros((n, places))
    logged, target = np.zeros((n, places, places)), np.zeros((n, places, places))
    everything = np.zeros((2, n, places))
    lists = zip(rewards, chances, totals, strict=True)
    for b, (earned, (ours, theirs), (all_of_it, possible)) in enumerate(lists):
        made = len(ours)
        shown[b, :made] = True
        reward[b, :made] = earned[:made]
        logged[b, :made, : ours.shape[1]] = ours
        target[b, :made, : theirs.shape[1]] = theirs
        everything[0, b, : len(all_of_it)], everything[1, b, : len(possible)] = all_of_it, possible
    looked = _looked(rows, shown, reward)
    looks, possible = everything @ looked
    people = [row.user_id or row.session_id or row.request_id for row in rows]
    weight = slates.position_based(target, logged, shown, looked)
    return Replayed(
        np.unique(people, return_inverse=True)[1], shown, reward, weight, looked,
        1 - np.divide(possible, looks, out=np.zeros(n), where=looks > 0), dict(skipped), by_worth,
    )  # fmt: skip


def _looked(rows: list[Impression], shown: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """The examination of each place that these lists and what came of them teach, float64 [K]."""
    b, place = np.nonzero(shown)
    names, item = np.unique([rows[n].items[p] for n, p in zip(b, place, strict=True)], return_inverse=True)
    hit = reward[b, place] > 0
    kind = np.concatenate([np.full(len(b), EVENT_CODE["impression"]), np.full(hit.sum(), EVENT_CODE["click"])])
    item, request = np.append(item, item[hit]), np.append(b, b[hit])
    place = np.append(place, place[hit])
    nothing, empty = np.zeros(len(item)), np.zeros(len(item), np.int32)
    log = Log(
        empty, item.astype(np.int32), empty.astype(np.int64), kind.astype(np.int8),
        (kind == EVENT_CODE["click"]).astype(np.float32), nothing, nothing, empty, request.astype(np.int32),
        place.astype(np.int16), nothing, 1, len(names),
    )  # fmt: skip
    return np.maximum(examination(log), 1e-3)
