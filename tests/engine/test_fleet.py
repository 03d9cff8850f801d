"""Several bundles side by side, and a new one that takes over while requests run."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from longtail.engine.bundle import Manifest
from longtail.engine.deployment import Deployment, DeploymentWatch, Variant
from longtail.engine.fleet import Fleet
from longtail.engine.schema import Context, Instance
from longtail.errors import InvalidBundle
from longtail.metrics import BUNDLE_REFUSED
from tests.engine.opened import Opened


def two(folders, share: float = 0.3) -> Deployment:
    champion, challenger = Variant(bundle=folders[0], share=1 - share), Variant(bundle=folders[1], share=share)
    return Deployment(variants={"champion": champion, "challenger": challenger})


def started(opened: Opened, deployment: Deployment, **settings) -> Fleet:
    fleet = Fleet(opened, **settings)
    fleet.start(deployment)
    return fleet


async def versions(fleet: Fleet, n: int = 1) -> list[tuple[str, str]]:
    answers = await asyncio.gather(*[fleet.recommend([Instance(user_id=f"u{i}", k=2)]) for i in range(n)])
    return [(a.model_version, a.variant) for (a,) in answers]


def test_people_stay_with_their_variant_and_the_shares_hold(opened, folders):
    fleet = started(opened, two(folders))
    places = {f"u{n}": fleet.arm_of(Instance(user_id=f"u{n}")).name for n in range(4000)}
    assert 0.27 < Counter(places.values())["challenger"] / 4000 < 0.33
    assert all(fleet.arm_of(Instance(user_id=user)).name == name for user, name in places.items())
    wider = started(opened, two(folders, 0.5))
    moved = [u for u, name in places.items() if name == "challenger" != wider.arm_of(Instance(user_id=u)).name]
    assert not moved  # who has the challenger keeps it when its share grows
    resalted = Fleet(opened, salt="another experiment")
    resalted.arms = fleet.arms
    assert any(resalted.arm_of(Instance(user_id=u)).name != name for u, name in places.items())


def test_guests_stay_with_a_variant_for_a_request_id_and_spread_without(opened, folders):
    fleet = started(opened, two(folders, 0.5))
    same = Instance.model_validate({"context": {"request_id": "r1"}})
    assert len({fleet.arm_of(same).name for _ in range(20)}) == 1
    assert len({fleet.arm_of(Instance()).name for _ in range(100)}) == 2


def test_a_guest_stays_with_one_variant_for_a_session(opened, folders):
    fleet = started(opened, two(folders, 0.5))
    guests = [Instance(context=Context(session_id=f"s{n % 50}")) for n in range(200)]
    names = [fleet.arm_of(guest).name for guest in guests]
    assert names[:50] * 4 == names and 10 < names[:50].count("champion") < 40


def test_a_call_over_both_variants_answers_each_instance_in_its_place(opened, folders):
    fleet = started(opened, two(folders, 0.5))
    asked = [Instance(user_id=f"u{n}", k=n % 5 + 1) for n in range(40)]
    answers = asyncio.run(fleet.recommend(asked))
    assert [len(a.items) for a in answers] == [i.k for i in asked]
    assert [a.variant for a in answers] == [fleet.arm_of(i).name for i in asked]
    assert {(a.variant, a.model_version) for a in answers} == {("champion", "a"), ("challenger", "b")}


def test_requests_under_way_end_on_the_old_bundle_and_it_is_closed_after_them(opened, folders):
    fleet = started(opened, Deployment.single(folders[0]))

    async def main() -> None:
        opened.hold = asyncio.Event()
        under_way = asyncio.ensure_future(versions(fleet, 5))
        await asyncio.sleep(0.01)
        opened.hold.set()
        assert await fleet.take(Deployment.single(folders[1]))
        assert await versions(fleet) == [("b", "champion")]
        assert await under_way == [("a", "champion")] * 5
        await asyncio.sleep(0.2)
        assert opened.closed == ["a"] and not fleet.status()["refused"]

    asyncio.run(main())


def test_a_swap_under_load_fails_no_request_and_mixes_none(opened, folders):
    fleet = started(opened, Deployment.single(folders[0]))

    async def main() -> Counter:
        seen: Counter = Counter()
        stop = asyncio.Event()

        async def client(n: int) -> None:
            while not stop.is_set():
                answers = await fleet.recommend([Instance(user_id=f"u{n}", k=3), Instance(k=2)])
                assert [len(a.items) for a in answers] == [3, 2] and {a.level for a in answers} == {"full"}
                assert len({a.model_version for a in answers}) == 1
                seen[answers[0].model_version] += 1

        clients = [asyncio.ensure_future(client(n)) for n in range(4)]
        for folder in (folders[1], folders[0], folders[1]):
            await asyncio.sleep(0.1)
            assert await fleet.take(Deployment.single(folder))
        await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*clients)
        return seen

    assert set(asyncio.run(main())) == {"a", "b"}


@pytest.mark.parametrize("how", ["corrupt", "silent"])
def test_a_bundle_that_cannot_serve_changes_nothing_and_is_named(opened, folders, how):
    fleet = started(opened, Deployment.single(folders[0]), ready_s=0.1)
    before = BUNDLE_REFUSED.labels("recommender")._value.get()
    opened.dead = {"b"}

    async def main() -> None:
        offered = folders[2] if how == "corrupt" else folders[1]
        assert not await fleet.take(Deployment.single(offered))
        assert await versions(fleet) == [("a", "champion")]
        refused = fleet.status()["refused"]
        assert refused["offered"] == str(offered)
        assert ("was altered" if how == "corrupt" else "no full recommendation") in refused["why"]

    asyncio.run(main())
    assert BUNDLE_REFUSED.labels("recommender")._value.get() == before + 1
    assert opened.closed == ([] if how == "corrupt" else ["b"])


def test_a_change_of_shares_reopens_nothing(opened, folders):
    fleet = started(opened, two(folders, 0.1))
    engines = [arm.engine for arm in fleet.arms]
    asyncio.run(fleet.take(two(folders, 0.9)))
    assert [arm.engine for arm in fleet.arms] == engines and fleet.arms[1].variant.share == 0.9


def test_at_the_start_a_broken_challenger_leaves_its_people_to_the_champion(opened, folders):
    fleet = started(opened, two([folders[0], folders[2]], 0.5))
    assert set(asyncio.run(versions(fleet, 30))) == {("a", "champion")}
    assert "altered" in fleet.status()["refused"]["why"]
    with pytest.raises(InvalidBundle, match="altered"):
        started(opened, Deployment.single(folders[2]))


def test_it_follows_the_file_and_survives_a_wrong_one(opened, folders, tmp_path):
    file = tmp_path / "deployment.yaml"
    Deployment.single(folders[0]).save(file)
    fleet = started(opened, Deployment.load(file))

    async def main() -> None:
        following = asyncio.ensure_future(fleet.follow(DeploymentWatch(file), 0.01))
        file.write_text("variants: {champion: {bundle: x, share: 2}}")
        while fleet.refused is None:
            await asyncio.sleep(0.01)
        assert await versions(fleet) == [("a", "champion")] and "share" in fleet.refused.why
        Deployment.single(folders[1]).save(file)
        while await versions(fleet) != [("b", "champion")]:
            await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_ages_say_how_old_what_serves_is(opened, folders):
    fleet = started(opened, Deployment.single(folders[0]))
    ages = fleet.arms[0].engine.ages()
    assert ages["features"] == 0 and ages["model"] > 0 and Manifest.read(folders[0]).created.startswith("2024-03-01")


def test_a_server_that_starts_on_a_corrupt_bundle_serves_what_served_before(opened, folders):
    fleet = Fleet(opened)
    with pytest.raises(InvalidBundle):
        fleet.start(Deployment.single(folders[2]))
    fleet.start(Deployment.single(folders[2]), Deployment.single(folders[0]))
    assert [arm.engine.bundle.version for arm in fleet.arms] == ["a"]
    assert fleet.refused is not None and "altered" in fleet.refused.why
