import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.evaluation import Report, Truth, judge


def example(n=400, n_items=200, seed=0):
    rng = np.random.default_rng(seed)
    popularity = (3000 / np.arange(1, n_items + 1)).astype(np.int64)
    popularity[-5:] = 0
    wanted = rng.choice(n_items, n, p=(popularity + 50) / (popularity + 50).sum())
    truth = Truth.from_pairs(np.arange(n), wanted, n)
    others = np.stack([rng.permutation(n_items) for _ in range(n)])
    good = np.where(rng.random(n)[:, None] < 0.5, _first(others, wanted), others)[:, :20]
    lists = {"longtail": good, "popularity": np.tile(np.arange(20), (n, 1)), "two-tower": others[:, :20]}
    return lists, truth, popularity, np.arange(n) % 10 == 0, rng.integers(0, 8, n_items)


def _first(lists, item):
    """Each list with the given item moved to the front."""
    rest = lists[lists != item[:, None]].reshape(len(lists), -1)
    return np.concatenate([item[:, None], rest], axis=1)


def report():
    lists, truth, popularity, cold, groups = example()
    roles = {"popularity": "baseline", "two-tower": "source"}
    return judge(
        lists, truth, main="longtail", n_items=200, item_popularity=popularity, cold_user=cold, groups=groups,
        roles=roles, importance={"popularity_7d": 0.4, "repeat_days": 0.6}, resamples=200,
    )  # fmt: skip


def test_the_better_system_shows_a_gain_with_an_interval_above_zero():
    found = report()
    assert found.system("longtail").gain is None
    gain = found.system("two-tower").gain
    assert 0.3 < gain.low < gain.mean < gain.high < 0.7
    assert found.cases == 400
    assert list(found.meanings) == ["overall", "known users", "cold users", "head items", "mid items", "tail items",
                                    "cold items"]  # fmt: skip
    own = found.system("longtail").slices["overall"]["recall@20"]
    assert own.low <= own.mean <= own.high and own.cases == 400


def test_bestsellers_alone_show_little_of_the_catalogue():
    found = report()
    popular, system = found.system("popularity").catalogue, found.system("longtail").catalogue
    assert popular["coverage"] == 0.1 < system["coverage"]
    assert popular["gini"] > system["gini"]
    assert popular["novelty"] < system["novelty"]
    assert found.exposure["popularity"][3] == 1.0 and found.exposure["longtail"][-1] == 1.0


def test_json_round_trip_and_seed():
    found = report()
    assert Report.from_json(found.to_json()) == found == report()
    assert found.figures()["ndcg@10"] == found.system("longtail").slices["overall"]["ndcg@10"].mean


def test_what_cannot_be_judged_is_refused():
    lists, truth, popularity, _, _ = example(20)
    common = {"n_items": 200, "item_popularity": popularity}
    with pytest.raises(InvalidInput, match="no lists of the system"):
        judge(lists, truth, main="x", **common)
    with pytest.raises(InvalidInput, match="no metric"):
        judge(lists, truth, main="longtail", primary="auc", **common)
    with pytest.raises(InvalidInput, match="nothing can be judged"):
        judge(lists, Truth.from_pairs(np.empty(0, int), np.empty(0, int), 20), main="longtail", **common)
