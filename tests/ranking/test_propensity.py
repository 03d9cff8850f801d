"""Examination by position, recovered from logs whose curve is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from longtail.events import Log
from longtail.ranking.propensity import examination, inverse_propensity, self_normalised
from longtail.schema import EVENT_CODE
from tests.tiny import log_of

CURVE = np.array([1.0, 0.7, 0.5, 0.35, 0.25])


def lists(n: int, attraction: np.ndarray, seed: int = 0, sorted_share: float = 0.5) -> Log:
    """`n` lists; a share of them puts the most attractive items first, as a policy in production does."""
    rng = np.random.default_rng(seed)
    shown = np.stack([rng.permutation(len(attraction))[: len(CURVE)] for _ in range(n)])
    by_taste = np.take_along_axis(shown, np.argsort(-attraction[shown], axis=1), 1)
    shown = np.where(rng.random((n, 1)) < sorted_share, by_taste, shown)
    clicked = rng.random(shown.shape) < CURVE * attraction[shown]
    request, position = np.indices(shown.shape)
    rows = [(0, item, 0.0) for item in np.concatenate([shown.ravel(), shown[clicked]])]
    log = log_of(rows, 1, len(attraction))
    kind = np.concatenate([np.full(shown.size, EVENT_CODE["impression"]), np.full(clicked.sum(), EVENT_CODE["click"])])
    return replace(
        log, kind=kind.astype(np.int8), strength=(kind == EVENT_CODE["click"]).astype(np.float32),
        request=np.concatenate([request.ravel(), request[clicked]]).astype(np.int32),
        position=np.concatenate([position.ravel(), position[clicked]]).astype(np.int16),
    )  # fmt: skip


def test_recovers_the_curve_though_better_items_stand_higher() -> None:
    attraction = np.linspace(0.05, 0.9, 12)
    log = lists(20_000, attraction)
    found = examination(log)
    assert np.allclose(found, CURVE, atol=0.05)
    impressions = np.bincount(log.position[log.strength == 0])
    naive = np.bincount(log.position[log.strength > 0]) / impressions
    assert naive[-1] / naive[0] < 0.7 * found[-1], "click rates alone take taste for place"


def drawn_places(n: int, seed: int = 0, epsilon: float = 0.5) -> Log:
    """Lists in each person's own order of taste; from the second place on one in two is drawn evenly of the pool."""
    rng = np.random.default_rng(seed)
    items, places = 12, len(CURVE)
    taste = 1 / (1 + np.exp(-rng.normal(-1.5, 1.2, (n, items))))
    left = np.argsort(-taste, axis=1)
    shown, chance = np.empty((n, places), int), np.ones((n, places), np.float32)
    for place in range(places):
        pool = left.shape[1]
        pick = np.where((place > 0) & (rng.random(n) < epsilon), rng.integers(0, pool, n), 0)
        shown[:, place] = left[np.arange(n), pick]
        if place > 0:
            chance[:, place] = epsilon / pool + (1 - epsilon) * (pick == 0)
        left = np.stack([np.delete(row, at) for row, at in zip(left, pick, strict=True)])
    clicked = rng.random(shown.shape) < CURVE * np.take_along_axis(taste, shown, 1)
    request, position = np.indices(shown.shape)
    log = log_of([(0, item, 0.0) for item in np.concatenate([shown.ravel(), shown[clicked]])], 1, items)
    kind = np.concatenate([np.full(shown.size, EVENT_CODE["impression"]), np.full(clicked.sum(), EVENT_CODE["click"])])
    return replace(
        log, kind=kind.astype(np.int8), strength=(kind == EVENT_CODE["click"]).astype(np.float32),
        request=np.concatenate([request.ravel(), request[clicked]]).astype(np.int32),
        position=np.concatenate([position.ravel(), position[clicked]]).astype(np.int16),
        propensity=np.concatenate([chance.ravel(), np.full(clicked.sum(), np.nan, np.float32)]),
    )  # fmt: skip


def test_places_that_explore_tell_place_from_each_persons_taste() -> None:
    """All impressions alone take personal taste for place; weighed by their chances the drawn ones do not."""
    log = drawn_places(20_000)
    with_chances = examination(log)
    without = examination(replace(log, propensity=np.full(len(log), np.nan, np.float32)))
    explored = slice(1, None)
    true = CURVE[explored] / CURVE[1]
    error = [np.abs(found[explored] / found[1] - true).max() for found in (with_chances, without)]
    assert error[0] < 0.06 < error[1]
    assert with_chances.max() == 1


def test_few_drawn_clicks_decide_nothing() -> None:
    log = drawn_places(60)
    bare = replace(log, propensity=np.full(len(log), np.nan, np.float32))
    assert np.array_equal(examination(log), examination(bare))


def test_without_impressions_nothing_is_known() -> None:
    assert len(examination(log_of([(0, 0, 1), (0, 1, 2)], 1, 2))) == 0


def test_impressions_that_nobody_clicked() -> None:
    log = lists(20, np.full(6, 1e-9))
    found = examination(log)
    assert np.isfinite(found).all() and found.max() == 1


def test_weights_are_inverse_clipped_and_one_where_unknown() -> None:
    theta = np.array([1.0, 0.5, 0.01])
    assert inverse_propensity(np.array([0, 1, 2, -1, 7]), theta, clip=10).tolist() == [1, 2, 10, 1, 1]
    assert inverse_propensity(np.array([0, 3]), np.empty(0)).tolist() == [1, 1]


def test_list_events_weigh_one_on_average_and_others_stay() -> None:
    scaled = self_normalised(np.array([1, 3, 1, 8], np.float32), np.array([0, 4, -1, 7]))
    np.testing.assert_allclose(scaled, [0.25, 0.75, 1, 2])
    nowhere = np.full(3, -1)
    np.testing.assert_array_equal(self_normalised(np.ones(3, np.float32), nowhere), np.ones(3))
