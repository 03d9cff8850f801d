"""Experiments over the engines of a fleet: who meets what, whom it counts, and what changes while they run."""

from __future__ import annotations

import asyncio
from collections import Counter

import duckdb
import pytest

from longtail.engine.deployment import Deployment
from longtail.engine.experiment_log import DraftLog, ExposureLog
from longtail.engine.fleet import Fleet
from longtail.engine.impressions import ImpressionLog, read_impressions
from longtail.engine.schema import Instance
from longtail.errors import InvalidInput
from longtail.experiments.assignment import assign
from longtail.experiments.placed import Placed
from longtail.surfaces import Surfaces
from tests.engine.opened import Opened

IDS = [f"u{n}" for n in range(60)]


def ranking(folders, **keys) -> Placed:
    """Half of everybody gets the second bundle."""
    variants = {"control": {"share": 0.5}, "new": {"share": 0.5, "bundle": folders[1]}}
    return Placed(**{"layer": "ranking", "salt": "ranker", "slots": ((0, 10_000),), "variants": variants, **keys})


def rules(**keys) -> Placed:
    """On the homepage, half of all get items of one brand only."""
    block = {"block": [{"brand": f"b{n}"} for n in range(1, 5)]}
    variants = {"control": {"share": 0.5}, "one": {"share": 0.5, "rules": block}}
    given = {"layer": "rules", "salt": "rules", "slots": ((0, 10_000),), "surfaces": ("homepage",)}
    return Placed(**{**given, "variants": variants, **keys})


def fleet_of(opened: Opened, folders, tmp_path, holdout: float = 0.0, **experiments: Placed) -> Fleet:
    opened.exposures = ExposureLog(tmp_path / "exposures")
    fleet = Fleet(opened, drafts=DraftLog(tmp_path / "drafts"), ready_s=0.2)
    fleet.start(Deployment.single(folders[0]).model_copy(update={"experiments": experiments, "holdout": holdout}))
    assert fleet.refused is None
    return fleet


def ask(fleet: Fleet, surface: str = "homepage", ids=IDS, **context):
    asked = [Instance.model_validate({"user_id": i, "surface": surface, "k": 4, "context": context}) for i in ids]
    return asyncio.run(fleet.recommend(asked))


def logged(fleet: Fleet, tmp_path, what: str = "exposures") -> list[dict]:
    fleet.stop_logs()
    files = str(tmp_path / what / "*" / "*.parquet")
    found = duckdb.sql(f"FROM read_parquet('{files}')").arrow().read_all() if (tmp_path / what).exists() else None
    return [] if found is None else found.to_pylist()


def test_two_layers_cross_each_variant_is_what_it_says_and_all_are_logged(opened, folders, tmp_path):
    fleet = fleet_of(opened, folders, tmp_path, ranker=ranking(folders), rules=rules())
    brand = dict(zip(opened.parts[0].catalogue.item_ids, opened.parts[0].catalogue.brand, strict=True))
    answers = ask(fleet)
    for who, answer in zip(IDS, answers, strict=True):
        first, second = (assign(who, p.allocation()) for p in (ranking(folders), rules()))
        assert answer.variant == f"ranker:{first}+rules:{second}"
        assert answer.model_version == ("b" if first == "new" else "a")
        assert (len({brand[i.item_id] for i in answer.items}) == 1) == (second == "one")
    assert len({a.variant for a in answers}) == 4
    rows = logged(fleet, tmp_path)
    assert Counter((r["experiment"], r["variant"]) for r in rows) == Counter(
        tuple(one.split(":")) for a in answers for one in a.variant.split("+")
    )
    assert {r["user_id"] for r in rows} == set(IDS)


def test_only_who_truly_met_it_is_exposed(opened, folders, tmp_path):
    fleet = fleet_of(opened, folders, tmp_path, ranker=ranking(folders), rules=rules())
    assert {a.variant for a in ask(fleet, "because_you_viewed")} == {"ranker:control", "ranker:new"}
    asyncio.run(fleet.probe())
    ask(fleet, ids=[None])  # a guest is no user
    opened.rankers_die = True
    assert {a.level for a in ask(fleet)} == {"unranked"}
    rows = logged(fleet, tmp_path)
    assert {(r["experiment"], r["surface"]) for r in rows} == {("ranker", "because_you_viewed")}
    assert len(rows) == len(IDS)


def test_surfaces_that_a_variant_leaves_as_they_are_expose_nobody(opened, folders, tmp_path):
    text = "surfaces: {homepage: {k: 20, rules: {caps: {brand: 1}}}}"
    variants = {"control": {"share": 0.5}, "capped": {"share": 0.5, "surfaces": Surfaces.parse(text)}}
    fleet = fleet_of(opened, folders, tmp_path, caps=rules(surfaces=(), variants=variants))
    assert {a.variant for a in ask(fleet, "because_you_viewed")} == {"caps:control", "caps:capped"}
    ask(fleet)
    assert {r["surface"] for r in logged(fleet, tmp_path)} == {"homepage"}


def test_the_holdout_and_who_is_outside_meet_what_serves_everybody_else(opened, folders, tmp_path):
    ids = [f"p{n}" for n in range(400)]
    few = ranking(folders, slots=((0, 5_000),))
    fleet = fleet_of(opened, folders, tmp_path, 0.2, ranker=few)
    met = [fleet.answerer(Instance(user_id=i)).config.variant for i in ids]
    told = {"holdout": "champion", None: "champion", "control": "ranker:control", "new": "ranker:new"}
    assert met == [told[assign(i, few.allocation(0.2))] for i in ids]
    assert 0.5 < met.count("champion") / len(ids) < 0.7


def test_sessions_may_be_what_keeps_a_variant(opened, folders, tmp_path):
    fleet = fleet_of(opened, folders, tmp_path, ranker=ranking(folders, unit="session"))
    sessions = [f"s{n}" for n in range(12)]
    answers = [a for s in sessions for a in ask(fleet, ids=[None, "u1"], session_id=s)]
    assert [a.variant for a in answers[::2]] == [a.variant for a in answers[1::2]]
    assert {a.variant for a in answers} == {"ranker:control", "ranker:new"}
    assert ask(fleet, ids=["u1"])[0].variant == "champion"
    assert {r["session_id"] for r in logged(fleet, tmp_path)} == set(sessions)


def test_experiments_come_ramp_and_go_while_bundles_stay_open(opened, folders, tmp_path):
    fleet = fleet_of(opened, folders, tmp_path)
    plain = Deployment.single(folders[0])

    async def main() -> None:
        assert await fleet.take(plain.running("ranker", ranking(folders, slots=((0, 1_000),)), 0.0))
        before = [fleet.answerer(Instance(user_id=i)).config.variant for i in IDS]
        assert await fleet.take(plain.running("ranker", ranking(folders), 0.0))
        after = [fleet.answerer(Instance(user_id=i)).config.variant for i in IDS]
        assert all(b in ("champion", a) for b, a in zip(before, after, strict=True))
        assert fleet.status()["experiments"]["ranker"]["share"] == 1 and opened.opened == ["a", "b"]
        wrong = ranking(folders, surfaces=("hompage",))
        assert not await fleet.take(plain.running("ranker", wrong, 0.0))
        assert "there is no hompage, only because_you_viewed, " in fleet.refused.why
        assert [fleet.answerer(Instance(user_id=i)).config.variant for i in IDS] == after
        corrupt = {"control": {"share": 0.5}, "new": {"share": 0.5, "bundle": folders[2]}}
        assert not await fleet.take(plain.running("ranker", ranking(folders, variants=corrupt), 0.0))
        assert [fleet.answerer(Instance(user_id=i)).config.variant for i in IDS] == after
        assert await fleet.take(Deployment.single(folders[1]))  # what won is open already
        assert opened.opened == ["a", "b"]
        await asyncio.sleep(0.2)
        assert opened.closed == ["a"]

    asyncio.run(main())


def test_rules_of_a_variant_stay_over_a_changed_surfaces_file(opened, folders, tmp_path):
    fleet = fleet_of(opened, folders, tmp_path, rules=rules())
    asyncio.run(fleet.use(Surfaces.parse("surfaces: {homepage: {rules: {caps: {category: 1}}}}")))
    catalogue = opened.parts[0].catalogue
    brand, category = (
        dict(zip(catalogue.item_ids, column, strict=True)) for column in (catalogue.brand, catalogue.category)
    )
    brands: dict[str, set] = {"rules:control": set(), "rules:one": set()}
    for answer in ask(fleet):
        assert len({category[i.item_id] for i in answer.items}) == 4
        brands[answer.variant] |= {brand[i.item_id] for i in answer.items}
    assert len(brands["rules:one"]) == 1 < len(brands["rules:control"])


def test_a_broken_bundle_at_the_start_costs_its_experiment_and_nothing_else(opened, folders):
    corrupt = {"control": {"share": 0.5}, "new": {"share": 0.5, "bundle": folders[2]}}
    fleet = Fleet(opened)
    running = {"ranker": ranking(folders, variants=corrupt), "rules": rules()}
    fleet.start(Deployment.single(folders[0]).model_copy(update={"experiments": running}))
    assert list(fleet.status()["experiments"]) == ["rules"] and fleet.refused.offered == "experiment ranker"


def test_a_duel_shows_one_list_that_both_drafted(opened, folders, tmp_path):
    turned = Surfaces.parse("surfaces: {homepage: {order: blend}}")
    fleet = fleet_of(opened, folders, tmp_path, duel=ranking(folders, kind="interleaving"))
    duel = next(iter(fleet._crossing.answers.values()))
    duel.b.surfaces = turned.bind(opened.parts[0].catalogue, opened.parts[0].sources)  # another order
    duel.a.impressions = ImpressionLog(tmp_path / "impressions")
    region = opened.parts[0].fallback.segments[1]
    answers = ask(fleet, region=region, session_id="s1")
    duel.a.impressions.close()
    rows = {row.user_id: row for row, _ in read_impressions(tmp_path / "impressions")}
    assert {(r.segment, r.session_id, r.surface, r.model_version) for r in rows.values()} == {
        (1, "s1", "homepage", "a+b")
    }
    assert {a.variant for a in answers} == {"duel:interleaved"} and {a.model_version for a in answers} == {"a+b"}
    drafts = {r["user_id"]: r for r in logged(fleet, tmp_path, "drafts")}
    exposed = logged(fleet, tmp_path)
    assert {(r["variant"], r["region"], r["session_id"]) for r in exposed} == {("interleaved", region, "s1")}
    for who, answer in zip(IDS, answers, strict=True):
        draft, row = drafts[who], rows[who]
        assert row.items == draft["items"] and row.propensity == [i.propensity for i in answer.items]
        assert draft["items"] == [i.item_id for i in answer.items] and len(set(draft["items"])) == 4
        assert draft["team"].count(0) == draft["team"].count(1) == 2 and draft["request_id"] == answer.request_id
        assert all(i.propensity in (0.5, 1.0) for i in answer.items)
    assert 10 < sum(d["team"][0] for d in drafts.values()) < 50  # the coin is fair


def test_what_cannot_run_together_is_refused():
    one, two = ranking(["a", "b"]), ranking(["a", "b"], layer="other", salt="another")
    plain = Deployment.single("a")
    with pytest.raises(InvalidInput, match="both change bundle"):
        plain.running("one", one, 0.0).running("two", two, 0.0)
    with pytest.raises(InvalidInput, match="slots of the layer ranking in common"):
        plain.running("one", one, 0.0).running("two", ranking(["a", "b"], salt="another"), 0.0)
    with pytest.raises(InvalidInput, match="beside one variant"):
        Deployment.of("a", "b").running("one", one, 0.0)
