"""The loop of days: a system shows lists, learns from what they left, and is judged by the truth."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import loop
from benchmarks.loop_shop import World, spread, worth
from longtail.datasets.simulator import SimulatorConfig
from longtail.schema import EVENT_CODE


def small(kind: str, seed: int, days: int) -> SimulatorConfig:
    total = loop.WARM + days
    return SimulatorConfig(
        users=200, items=120, days=total, events=800 * total, seed=seed, list_size=10, own_views=loop.SHOPS[kind]
    )


def test_a_world_under_another_policy_starts_from_the_same_past_and_logs_its_own_lists() -> None:
    world = World(small("feed", 1, 5))
    for _ in range(5):
        world.live()
    past, rows = world.log, len(world.log)

    def cheapest(day: int, users: np.ndarray, context: object) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(np.arange(10), (len(users), 1)), np.ones((len(users), 10))

    other = world.under(cheapest)
    shown = other.live()
    assert (shown.items == np.arange(10)).all() and world.log is past and len(past) == rows
    new = other.log.select(other.log.time >= other.now - 86_400_000_000)
    listed = new.select(new.kind == EVENT_CODE["impression"])
    assert len(listed) == shown.items.size and set(listed.item.tolist()) == set(range(10))
    assert np.array_equal(np.lexsort((other.log.time, other.log.user)), np.arange(len(other.log)))
    late = [EVENT_CODE[kind] for kind in ("purchase", "rating")]  # returns and ratings are of no list; all else is
    assert np.isin(new.kind[new.request < 0], late).all()
    judged = worth(shown, other.truth)
    assert judged.exposure[:10].tolist() == [len(shown.items)] * 10 and judged.exposure[10:].sum() == 0
    assert spread(judged.exposure[None], other.truth, other.day - 1)["coverage"] < 0.2


@pytest.mark.slow
def test_each_day_is_learned_from_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "shop_of", small)
    two_stage, popular = (loop.run("feed", 1, 4, arm) for arm in ("longtail", "popularity"))
    assert two_stage["utility"].mean() > popular["utility"].mean() + 0.2
    assert two_stage["coverage"][-1] > popular["coverage"][-1] and np.isfinite(two_stage["revenue"]).all()
