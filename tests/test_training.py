"""Windows of the past see nothing of themselves, and small shops train or say in one line why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail import steps
from longtail.errors import InvalidInput
from longtail.evaluation.system import Report
from longtail.events import Shop
from longtail.features.request import feature_list
from longtail.ranking.ranker import RankerConfig
from longtail.ranking.two_stage import recommend
from longtail.registry import Registry, Version
from longtail.retrieval.sources import SourcesConfig
from longtail.training import TrainingConfig, learn, prepare, propose
from tests.tiny import START, Event, random_log

DAY = pd.Timedelta(days=1)
FIRST = pd.Timestamp(START, unit="us", tz="UTC")
QUICK = TrainingConfig(
    windows=1, requests=200, depth=20, negatives=1.0, sources=SourcesConfig(ease_ridge=5),
    ranker=RankerConfig(rounds=10, max_depth=3, min_child_weight=1, threads=1),
)  # fmt: skip


def frames(events: list[Event], kind: str = "click") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validated frames of (user, item, day) events, a session per person and day."""
    user, item, day = zip(*events, strict=True)
    n = len(events)
    table = pd.DataFrame(
        {
            "event_id": [f"e{j}" for j in range(n)], "user_id": [f"u{u:03}" for u in user],
            "item_id": [f"i{i:03}" for i in item], "event_type": kind,
            "timestamp": [FIRST + pd.Timedelta(days=d) for d in day],
            "session_id": [f"s{u}-{int(d)}" for u, d in zip(user, day, strict=True)],
            "request_id": pd.Series([None] * n, dtype=object), "position": pd.Series([None] * n, dtype="Int32"),
            "value": np.nan,
        }
    )  # fmt: skip
    ids = sorted(set(table["item_id"]))
    items = pd.DataFrame({"item_id": ids, "category": [f"c{j % 3}" for j in range(len(ids))],
                          "title": [f"word{j % 4} thing" for j in range(len(ids))]})  # fmt: skip
    return table, items


def busy(seed: int = 0, users: int = 30, items: int = 15, n: int = 700, days: float = 40) -> list[Event]:
    log = random_log(users, items, n, days, seed)
    return list(zip(log.user.tolist(), log.item.tolist(), ((log.time - START) / 86_400_000_000).tolist(), strict=True))


def until(days: float) -> int:
    return START + round(days * 86_400_000_000)


def trained(events: list[Event], config: TrainingConfig = QUICK, kind: str = "click", end: float = 40):
    data = prepare(Shop.from_frames(*frames(events, kind)), until(end), config)
    proposals = propose(data, [], data.windows(), lambda line: None)
    return data, proposals, learn(proposals, config)


@pytest.fixture(scope="module")
def system():
    return trained(busy(), replace(QUICK, windows=2))


def test_windows_lead_back_from_the_end_and_leave_a_past() -> None:
    data = prepare(Shop.from_frames(*frames(busy())), until(40), replace(QUICK, windows=2))
    assert data.windows() == [(until(33), until(40)), (until(26), until(33))]
    assert data.windows(skip=1) == [(until(26), until(33))]
    many = prepare(Shop.from_frames(*frames(busy())), until(40), replace(QUICK, windows=20))
    assert [start for start, _ in many.windows()] == [until(d) for d in (33, 26, 19, 12)], (
        "a quarter is kept to learn from"
    )


def test_nothing_after_the_end_is_known() -> None:
    early, late = busy(), [(u, 14, 41.0) for u in range(30)]
    for events in (early, early + late):
        data = prepare(Shop.from_frames(*frames(events)), until(40), QUICK)
        requests, _ = data.requests(until(33), until(40))
        found = data.stage(until(40), []).retriever.candidates(requests)
        if events is early:
            expected = found
    assert found.scores.tobytes() == expected.scores.tobytes()


def test_a_window_knows_nothing_of_itself() -> None:
    """Items 90 and 91 meet for the first time inside the window: no feature of its candidates may tell."""
    planted = [(u, 90, 5.0) for u in range(15)] + [(u, 91, 6.0) for u in range(15, 30)]
    together = [(u, 91, 36.0) for u in range(15)] + [(u, 90, 36.0) for u in range(15, 30)]
    window = (until(33), until(40))
    features, known = [], []
    for events in (busy() + planted, busy() + planted + together):
        data = prepare(Shop.from_frames(*frames(events)), until(40), QUICK)
        requests, _ = prepare(Shop.from_frames(*frames(busy() + planted)), until(40), QUICK).requests(*window)
        stage = data.stage(window[0], [])
        candidates = stage.retriever.candidates(requests)
        features.append(stage.features(requests, candidates, stage.item_table()))
        later = data.stage(window[1], []).retriever.candidates(requests)
        known.append(later.scores.tobytes())
    assert features[0].tobytes() == features[1].tobytes()
    assert known[0] != known[1], "what is planted is there to be found, after the window"


def test_ranker_and_blend_of_a_small_shop(system) -> None:
    data, proposals, (booster, blend) = system
    assert proposals.rows.features.shape == (len(proposals.rows.gain), len(feature_list(proposals.sources)))
    assert proposals.rows.sizes.sum() == len(proposals.rows.gain) == len(proposals.scores)
    assert 0.5 < proposals.recall <= 1
    requests, wanted = data.requests(until(33), until(40))
    lists = recommend(data.stage(until(33), [], blend), booster, requests, 5)
    found = wanted.label(np.repeat(np.arange(len(lists)), 5), lists.ravel()).reshape(lists.shape)
    assert (found > 0).any(axis=1).mean() > 0.5, "the lists hold what was wanted"


def test_same_seed_same_system(system) -> None:
    (_, first, (booster, blend)), (_, second, (again, same)) = system, trained(busy(), replace(QUICK, windows=2))
    assert first.rows.features.tobytes() == second.rows.features.tobytes()
    assert booster.save_raw() == again.save_raw()
    assert blend.weights.tobytes() == same.weights.tobytes()


def test_negatives_are_a_share_and_positives_are_all_kept(system) -> None:
    data, everything, _ = system
    some = propose(replace(data, config=replace(data.config, negatives=0.25)), [], data.windows(), lambda line: None)
    assert (some.rows.gain > 0).sum() == (everything.rows.gain > 0).sum()
    share = (some.rows.gain == 0).sum() / (everything.rows.gain == 0).sum()
    assert 0.2 < share < 0.3


@pytest.mark.parametrize("unit, repeats", [("window", False), ("session", False), ("event", True)])
def test_every_kind_of_request_trains(unit: str, repeats: bool) -> None:
    config = replace(QUICK, unit=unit, repeats=repeats, windows=1)
    data, _, (booster, blend) = trained(busy(items=40), config)
    requests, _ = data.requests(until(33), until(40))
    lists = recommend(data.stage(until(33), [], blend), booster, requests, 5)
    assert (lists >= 0).any()
    if not repeats:
        h = requests.history
        had = set(zip(h.rows.tolist(), h.item.tolist(), strict=True))
        row, place = np.nonzero(lists >= 0)
        assert not had & set(zip(row.tolist(), lists[row, place].tolist(), strict=True))


def test_three_items() -> None:
    data, _, (booster, blend) = trained(busy(items=3))
    requests, _ = data.requests(until(33), until(40))
    lists = recommend(data.stage(until(40), [], blend), booster, requests, 10)
    assert (np.sort(lists, axis=1)[:, -3:] == [0, 1, 2]).all() and (lists[:, 3:] == -1).all()


def test_a_single_person() -> None:
    data, _, (booster, blend) = trained(busy(users=1, n=60))
    requests, _ = data.requests(until(33), until(40))
    assert (recommend(data.stage(until(40), [], blend), booster, requests, 3) >= 0).all()


@pytest.mark.parametrize("kind", ["purchase", "rating"])
def test_one_kind_of_event(kind: str) -> None:
    _, proposals, _ = trained(busy(), kind=kind)
    assert (proposals.rows.gain > 0).any()


@pytest.mark.parametrize("kind", ["impression", "skip"])
def test_exposure_alone_teaches_nothing(kind: str) -> None:
    with pytest.raises(InvalidInput, match="nothing to learn"):
        prepare(Shop.from_frames(*frames(busy(), kind)), until(40), QUICK)


@pytest.mark.parametrize("events", [[(0, 0, 39.0)], [(u, u % 3, 39 + u / 100) for u in range(20)]])
def test_too_short_a_log(events: list[Event]) -> None:
    with pytest.raises(InvalidInput) as error:
        trained(events)
    assert "\n" not in str(error.value) and "longer" in str(error.value)


@pytest.mark.parametrize(
    "text, key",
    [
        ('{"windoes": 3}', "windoes"),
        ('{"windows": "many"}', "windows"),
        ('{"unit": "year"}', "unit"),
        ('{"ranker": {"trees": 3}}', "ranker.trees"),
        ('{"sources": {"ease_ridge": "x"}}', "sources.ease_ridge"),
        ('{"two_tower": {"dims": 3}}', "two_tower.dims"),
        ("{", "the text"),
        ("[]", "the text"),
    ],
)
def test_configuration_errors_name_the_key(text: str, key: str) -> None:
    with pytest.raises(InvalidInput) as error:
        TrainingConfig.parse(text)
    assert f"training configuration: {key}: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, key",
    [
        ('{"windows": 0}', "windows"),
        ('{"window_days": -1}', "window_days"),
        ('{"requests": 0}', "requests"),
        ('{"depth": 0}', "depth"),
        ('{"negatives": 2}', "negatives"),
        ('{"history": 0}', "history"),
        ('{"objective": "fame"}', "objective"),
        ('{"objective": {"fame": 1}}', "objective.fame"),
        ('{"objective": {"clicks": 0}}', "objective.clicks"),
    ],
)
def test_sizes_that_make_no_sense(text: str, key: str) -> None:
    with pytest.raises(InvalidInput, match=f"training configuration: {key}: "):
        TrainingConfig.parse(text)


def test_configuration_defaults() -> None:
    assert TrainingConfig.parse("") == TrainingConfig.parse("{}") == TrainingConfig()
    assert TrainingConfig.parse('{"ranker": {"rounds": 7}}').ranker.rounds == 7


def saved(folder: Path, events: list[Event], kind: str = "click") -> Path:
    folder.mkdir()
    table, items = frames(events, kind)
    table.to_parquet(folder / "events.parquet")
    items.to_parquet(folder / "items.parquet")
    (folder / "import.json").write_text(json.dumps({"reader": "test", "fingerprint": "f"}))
    return folder


def test_steps_on_a_folder_that_is_no_shop(tmp_path: Path) -> None:
    for call in (lambda: steps.build_features(tmp_path, tmp_path / "out", QUICK),
                 lambda: steps.ingest("shop", str(tmp_path), tmp_path / "out")):  # fmt: skip
        with pytest.raises(InvalidInput, match=r"has no events\.parquet: run `longtail import`"):
            call()
    assert list(tmp_path.iterdir()) == [], "nothing half-made is left"


def test_feature_step_of_a_shop_of_one_day(tmp_path: Path) -> None:
    shop = saved(tmp_path / "shop", [(0, 0, 1.0), (0, 1, 1.1)])
    figures = steps.build_features(shop, tmp_path / "features", QUICK)
    assert figures == {"days": 1, "users": 1, "items": 2}
    assert len(pd.read_parquet(tmp_path / "features" / "item_features.parquet")) == 2


def all_steps(shop: Path, out: Path, config: TrainingConfig) -> dict:
    steps.build_features(shop, out / "features", config)
    steps.train_two_tower(shop, out / "tower", config)
    steps.build_index(out / "tower", out / "index", config)
    steps.build_candidates(shop, out / "index", out / "candidates", config)
    steps.train_ranker(out / "candidates", out / "ranker", config)
    return steps.evaluate(shop, out / "index", out / "candidates", out / "ranker", out / "evaluation", config)


@pytest.mark.parametrize(
    ("days", "told"), [(1, "import a longer log"), (8, "import a longer log, or set window_days to 5")]
)
def test_a_log_without_a_window_is_refused_before_anything_is_trained(tmp_path: Path, days: int, told: str) -> None:
    shop = saved(tmp_path / "shop", [(u, u % 3, u * days / 20) for u in range(20)])
    with pytest.raises(InvalidInput) as error:
        steps.train_two_tower(shop, tmp_path / "tower", QUICK)
    assert str(error.value).startswith(f"the log tells of {days * 0.95:.1f} days, and training needs 9.3 for a window")
    assert str(error.value).endswith(f": {told}")
    assert not (tmp_path / "tower").exists()


BRIEF = replace(QUICK, two_tower=replace(QUICK.two_tower, dim=8, epochs=2, max_seconds=5))


@pytest.mark.slow
@pytest.mark.parametrize(
    "events, kind", [(busy(items=3), "click"), (busy(users=1, n=60), "click"), (busy(), "purchase")],
    ids=["three items", "one person", "purchases only"],
)  # fmt: skip
def test_all_steps_of_a_small_shop(tmp_path: Path, events: list[Event], kind: str, capsys) -> None:
    figures = all_steps(saved(tmp_path / "shop", events, kind), tmp_path, BRIEF)
    assert 0 <= figures["ndcg@10"] <= 1
    assert "only one window" in capsys.readouterr().out, "the judge says when the ranker saw the window"
    assert not Report.from_json((tmp_path / "evaluation" / "report.json").read_text()).unseen


@pytest.mark.slow
def test_only_a_version_judged_on_an_unseen_window_can_lead(tmp_path: Path) -> None:
    shop = saved(tmp_path / "shop", busy())

    def register(name: str, config: TrainingConfig) -> Version:
        out = tmp_path / name
        all_steps(shop, out, config)
        parts = [out / part for part in ("features", "index", "candidates", "ranker", "evaluation", "bundle")]
        number = steps.register(shop, *parts, str(tmp_path / "mlflow"), config)["version"]
        return Registry(tmp_path / "mlflow").get(number)

    unseen = register("two windows", replace(BRIEF, windows=2))
    assert unseen.unseen and unseen.aliases == ("champion",)
    seen = register("one window", replace(BRIEF, ranker=replace(BRIEF.ranker, rounds=200, max_depth=8, eta=0.3)))
    assert seen.value > unseen.value, "it knows the answers"
    assert seen.aliases == ("challenger",) and "it had learned from" in seen.decision


@pytest.mark.slow
@pytest.mark.parametrize("events", [[(0, 0, 1.0)], [(0, 0, 1.0), (0, 1, 1.1), (1, 0, 1.2)]])
def test_steps_of_a_shop_that_just_opened(tmp_path: Path, events: list[Event]) -> None:
    with pytest.raises(InvalidInput) as error:
        all_steps(saved(tmp_path / "shop", events), tmp_path, BRIEF)
    assert "\n" not in str(error.value)
