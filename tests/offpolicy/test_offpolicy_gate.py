"""The gate on a log that the engine wrote: clicks follow a known model, and the challenger's value can be looked up."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from longtail.engine.impressions import ImpressionLog, read_impressions
from longtail.errors import InvalidInput
from longtail.offpolicy.gate import judge, judge_bundles
from longtail.offpolicy.policy import Policy
from longtail.offpolicy.replay import NOT_REPRODUCED, replay
from longtail.offpolicy.rewards import Outcomes, worth_of_clicks
from longtail.surfaces import Surfaces
from tests.engine.in_process import PATIENT, ask, engine_of, parts_of
from tests.serving import small_bundle

REQUESTS = 1000
LOOKED = np.array([1.0, 0.6, 0.45, 0.35])
RULES = (
    "rules:\n  exploration: {epsilon: 0.3, pool: 15}\n  filters: {exclude_seen: true}\nsurfaces:\n  homepage: {k: 4}\n"
)


def attraction(item: str) -> float:
    """The chance of a click on an item that is looked at."""
    return 0.05 + 0.5 * (int(item[1:]) % 5 == 0)


@dataclass(frozen=True)
class Made:
    bundles: dict[str, Path]
    surfaces: Surfaces
    state: Path

    def serve(self, bundle: str, log: Path, requests: int, seed: int = 0) -> None:
        """Lists of one bundle, logged with the features of all candidates."""
        engine = engine_of(parts_of(self.bundles[bundle], self.state / f"{bundle}-{seed}"), candidates=25, **PATIENT)
        engine.surfaces = self.surfaces.bind(engine.bundle.catalogue, engine.bundle.sources)
        engine.rng = np.random.default_rng(seed)
        engine.impressions = ImpressionLog(log, "candidates", room=10 * requests)
        for start in range(0, requests, 50):
            ask(
                engine,
                *(
                    {"user_id": f"u{n % 80}", "context": {"request_id": f"r{seed}-{n}"}}
                    for n in range(start, start + 50)
                ),
            )
        engine.impressions.close()


def clicks(log: Path, shop: Path, seed: int = 1) -> float:
    """Write what came of the lists as an imported shop's events; returns the mean clicks of a list, without noise."""
    rng, events, expected = np.random.default_rng(seed), [], []
    for row, _ in read_impressions(log):
        chance = np.array([attraction(item) for item in row.items]) * LOOKED[: len(row.items)]
        expected.append(chance.sum())
        for item, hit in zip(row.items, rng.random(len(chance)) < chance, strict=True):
            if hit:
                events.append((row.request_id, item, row.user_id))
    frame = pd.DataFrame(events, columns=["request_id", "item_id", "user_id"])
    frame = frame.assign(event_type="click", timestamp=pd.Timestamp("2024-03-01", tz="UTC"), value=np.nan)
    shop.mkdir(exist_ok=True)
    frame.to_parquet(shop / "events.parquet")
    return float(np.mean(expected))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three bundles that differ in their ranker: the shop's own, and two by chance, each the other's reverse."""
    folder, shop = tmp_path_factory.mktemp("gate"), small_bundle.shop()
    data, retriever, booster = small_bundle.train(shop)
    x = np.random.default_rng(0).normal(size=(2000, booster.num_features())).astype(np.float32)
    rankers = {"champion": booster}
    for name, sign in (("other", 1.0), ("contrary", -1.0)):
        label = xgboost.DMatrix(x, label=sign * x[:, 0])
        rankers[name] = xgboost.train({"max_depth": 3, "nthread": 1}, label, 20)
    bundles = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, ranker in rankers.items():
            patch.setattr(small_bundle, "train", lambda made, ranker=ranker: (data, retriever, ranker))
            bundles[name] = small_bundle.make(folder / name / "bundle", shop)
    return Made(bundles, Surfaces.parse(RULES), folder)


@pytest.fixture(scope="module")
def log(made: Made) -> tuple[Path, Path]:
    """The champion's impression log, and the shop that holds what came of it."""
    made.serve("champion", made.state / "log", REQUESTS)
    clicks(made.state / "log", made.state / "shop")
    return made.state / "log", made.state / "shop"


def policies(made: Made, challenger: str, surfaces: Surfaces | None = None) -> tuple[Policy, Policy]:
    given = surfaces or made.surfaces
    return Policy.open(made.bundles["champion"], given), Policy.open(made.bundles[challenger], given)


def test_a_bundle_is_as_good_as_itself(made, log):
    found = judge(replay(*log, *policies(made, "champion"), lists=300, paths=8))
    assert found.passed and not found.skipped
    assert found.difference.value == pytest.approx(0, abs=1e-9)
    assert found.overlap.effective > 290 and found.overlap.unsupported == 0


def test_a_worse_challenger_gets_no_traffic_and_its_value_is_what_it_would_have_earned(made, log):
    replayed = replay(*log, *policies(made, "contrary"), paths=8)
    assert len(replayed.user) == REQUESTS
    made.serve("contrary", made.state / "online", 600, seed=5)
    truth = clicks(made.state / "online", made.state / "other")
    found = judge(replayed, margin=0.01)
    assert abs(found.challenger.value - truth) < 4 * found.challenger.error
    assert not found.passed and "worse by more than the margin of 1%" in found.reason
    assert found.overlap.mean_weight == pytest.approx(1, abs=0.1)
    assert judge(replayed, margin=0.9).passed
    looked = replayed.looked / replayed.looked.max()
    assert np.abs(looked - LOOKED).max() < 0.25


def test_rules_that_were_changed_since_make_a_log_unreadable(made, log):
    greedy = Surfaces.parse(RULES.replace("0.3", "0.1"))
    with pytest.raises(InvalidInput, match=NOT_REPRODUCED):
        replay(*log, *policies(made, "contrary", greedy), lists=20)


def test_bundles_are_judged_by_the_surfaces_that_were_served(made, log, tmp_path):
    served = tmp_path / "surfaces.yaml"
    served.write_text(RULES)
    shop, (champion, other) = made.state / "shop", (made.bundles[name] for name in ("champion", "contrary"))
    # The bundles bring no surfaces of their own along, and what is built in explores nothing.
    blind = judge_bundles(log[0], shop, champion, other)
    assert not blind["passed"] and NOT_REPRODUCED in blind["reason"]
    found = judge_bundles(log[0], shop, champion, other, margin=0.9, served=served)
    assert found["passed"] and found["overlap"]["lists"] == REQUESTS
    json.dumps(found)


def test_a_log_of_a_shop_that_does_not_explore_cannot_tell(made, log):
    quiet = Surfaces.parse(RULES.replace("0.3", "0"))
    still = Made(made.bundles, quiet, made.state)
    still.serve("champion", made.state / "still", 200, seed=6)
    found = judge(replay(made.state / "still", log[1], *policies(made, "contrary", quiet)))
    assert not found.passed and "the log cannot tell" in found.reason and found.overlap.unsupported > 0.3


def test_a_log_that_nothing_came_of_cannot_tell(made, log, tmp_path):
    others = pd.read_parquet(log[1] / "events.parquet").assign(request_id="of another log")
    others.to_parquet(tmp_path / "events.parquet")
    found = judge(replay(log[0], tmp_path, *policies(made, "contrary"), lists=300, paths=2))
    assert not found.passed and "nothing came of its 300 lists" in found.reason


def test_lists_that_cannot_be_judged_are_counted_by_reason(made, log):
    engine = engine_of(parts_of(made.bundles["champion"], made.state / "shown"), candidates=25, **PATIENT)
    engine.surfaces = made.surfaces.bind(engine.bundle.catalogue, engine.bundle.sources)
    engine.impressions = ImpressionLog(made.state / "mixed", "shown")
    ask(engine, {"user_id": "u1"})
    engine.impressions.close()
    with pytest.raises(InvalidInput, match="1 without the features of all candidates.*--impression-features"):
        replay(made.state / "mixed", log[1], *policies(made, "other"))
    made.serve("champion", made.state / "mixed", 50, seed=7)
    made.serve("other", made.state / "mixed", 50, seed=8)
    found = replay(made.state / "mixed", log[1], *policies(made, "other"), paths=2)
    assert found.skipped == {"without the features of all candidates": 1, "made by another bundle": 50}


def test_a_challenger_with_other_sources_cannot_be_compared(made, log):
    champion, challenger = policies(made, "other")
    bundle = replace(challenger.bundle, sources=["another"])
    with pytest.raises(InvalidInput, match="other candidate sources"):
        replay(*log, champion, replace(challenger, bundle=bundle))


def test_what_came_of_lists_is_read_from_events(tmp_path):
    rows = [("r1", "a", "click", np.nan), ("r1", "a", "purchase", 5.0), ("r1", "b", "click", np.nan),
            ("r2", "a", "purchase", -5.0), (None, "c", "purchase", 7.0), ("r3", "d", "view", np.nan)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["request_id", "item_id", "event_type", "value"])
    frame = frame.assign(user_id="u", timestamp=pd.Timestamp(3, unit="us", tz="UTC"))
    frame.to_parquet(tmp_path / "events.parquet")
    found = Outcomes.load(tmp_path, {"r1", "r2", "r3"}, {"u"})
    assert found.clicked == {("r1", "a"), ("r1", "b")}
    assert found.bought == {("u", "a", 3), ("u", "c", 3)}
    assert Outcomes.load(tmp_path, set(), set()) == Outcomes(set(), set())
    assert Outcomes.load(tmp_path, {"r2"}, {"another"}) == Outcomes(set(), set())  # only what is asked for is held
    with pytest.raises(InvalidInput, match="import"):
        Outcomes.load(tmp_path / "nowhere", {"r1"}, {"u"})


def test_clicks_count_what_their_items_bring_where_lists_are_for_money(made, log):
    champion, _ = policies(made, "champion")
    price = champion.bundle.catalogue.price
    kept = Surfaces.parse(RULES.replace("{k: 4}", "{k: 4, objective: {goal: revenue, weight: 0.5}}")).bind(
        champion.bundle.catalogue, champion.bundle.sources
    )
    homepage = made.surfaces.bind(champion.bundle.catalogue, champion.bundle.sources)["homepage"]
    assert worth_of_clicks(homepage, "conversion", champion.bundle.catalogue) is None
    brings = price / np.median(price[price > 0])
    found = worth_of_clicks(homepage, "revenue", champion.bundle.catalogue)
    assert np.allclose(found, brings.clip(0.05, 20))
    tilted = worth_of_clicks(kept["homepage"], "margin", champion.bundle.catalogue)  # its own objective comes first
    assert np.allclose(tilted, np.sqrt(brings).clip(0.05, 20), rtol=1e-5)

    plain = replay(*log, *policies(made, "contrary"), lists=200, paths=4)
    money = replay(*log, *policies(made, "contrary"), lists=200, paths=4, objective="revenue")
    hit = plain.reward > 0
    assert np.array_equal(hit, money.reward > 0) and not np.allclose(money.reward[hit], 1)
    assert money.reward[hit].min() >= brings.min().clip(0.05) and money.by_worth and not plain.by_worth
    assert np.allclose(money.weight, plain.weight)  # what is looked at does not depend on money
    assert "in clicks by what their items bring" in judge(money, margin=0.9).reason
