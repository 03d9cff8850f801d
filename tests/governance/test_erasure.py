"""After an erasure the person is in no store and no log, everybody else is there, and what is left is said."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longtail.engine.impressions import Impression, table_of
from longtail.engine.lists import StoredList, open_lists
from longtail.events.spool import Row, Spool
from longtail.features.live import LiveEvent, open_live
from longtail.governance.audit import AuditLog
from longtail.governance.erasure import Erased, erase_state
from longtail.identity import Pseudonymiser
from longtail.schema import DAY_US
from tests.events.test_spool import NOON

KEY = "a key for tests only, of some length"
ANNA, BORIS = Pseudonymiser(KEY.encode()).of_all(["anna", "boris"])


def event(n: int, user: str | None, session: str = "s0", device: str | None = None, day: int = 0) -> Row:
    time = NOON + day * DAY_US + n
    content = {
        "event_id": f"e{n}", "user_id": user, "item_id": "i1", "event_type": "click", "timestamp": time,
        "received_at": NOON, "session_id": session, "device_id": device,
    }  # fmt: skip
    return Row(f"e{n}", time, json.dumps(content).encode())


EVENTS = [
    event(1, ANNA, "sa", "phone"), event(2, BORIS, "sb", "tablet"), event(3, None, "sa"), event(4, None, "sx", "phone"),
    event(5, None, "sy", "shared"), event(6, ANNA, "sc", "shared", 1), event(7, BORIS, "sd", "shared", 1),
    event(8, ANNA, "sa", None, 2),
]  # fmt: skip


def impression(n: int, user: str | None, session: str | None) -> Impression:
    return Impression(
        f"r{n}", user, session, "homepage", NOON, "champion", "v1", "full", "live", ["a"], [1.0], [0.5], ["ease"]
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    folder = state / "impressions" / "date=2024-10-04"
    folder.mkdir(parents=True)
    shown = [
        impression(1, ANNA, "sa"),
        impression(2, BORIS, "sb"),
        impression(3, None, "sa"),
        impression(4, None, None),
    ]
    pq.write_table(table_of(shown), folder / "part-1.parquet")
    pq.write_table(table_of(shown[1:2]), folder / "part-2.parquet")
    (state / "quarantine").mkdir()
    rows = [json.dumps({"user_id": who, "item_id": 7}) for who in (ANNA, BORIS)]
    (state / "quarantine" / "part-x.jsonl").write_text("\n".join([*rows, f"half a line of {ANNA}"]) + "\n")
    return state


def ids(state: Path, name: str = "events", column: str = "event_id") -> set[str]:
    files = (state / name).glob("date=*/part-*.parquet")
    return {i for f in files for i in pq.read_table(f, columns=[column], partitioning=None)[column].to_pylist()}


def test_sealed_and_unsealed_events_go_while_the_collector_runs(state: Path):
    spool = Spool(state, now=lambda: NOON)
    try:
        spool.write(EVENTS[:5])
        spool.seal()
        spool.write(EVENTS[5:])
        erased = Erased()
        erase_state(state, ANNA, erased)
        assert erased.rows == {"spool": 2, "events": 3, "impressions": 2, "quarantine": 2}
        assert ids(state) == {"e2", "e5"}
        spool.write([event(9, BORIS)])
        spool.seal()
        assert ids(state) == {"e2", "e5", "e7", "e9"}
    finally:
        spool.close()
    assert ids(state, "impressions", "request_id") == {"r2", "r4"}
    untouched = state / "impressions" / "date=2024-10-04" / "part-2.parquet"
    assert pq.read_table(untouched, partitioning=None).num_rows == 1
    assert (state / "quarantine" / "part-x.jsonl").read_text() == json.dumps({"user_id": BORIS, "item_id": 7}) + "\n"
    assert not [p for p in state.rglob("*") if p.name.endswith(".tmp")]
    found = [p for p in state.rglob("*") if p.is_file() and ANNA.encode() in p.read_bytes()]
    assert found == [] or {p.name for p in found} <= {"spool.db-wal"}, found
    again = Erased()
    erase_state(state, ANNA, again)
    assert not any(again.rows.values())


def test_a_day_that_held_nobody_else_is_gone(state: Path):
    with closing(Spool(state, now=lambda: NOON)) as spool:
        spool.write(EVENTS)
        spool.seal()
    erase_state(state, ANNA, Erased())
    assert not list((state / "events" / "date=2024-10-06").glob("part-*"))
    assert ids(state) == {"e2", "e5", "e7"}


def test_the_command_reaches_every_store_and_records_the_pseudonym_only(state: Path, tmp_path: Path):
    asyncio.run(_filled(state))
    shop = tmp_path / "shop"
    shop.mkdir()
    pd.DataFrame({"user_id": [ANNA, BORIS], "item_id": ["i1", "i2"]}).to_parquet(shop / "events.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "longtail.cli", "erase", "anna", "--state", str(state), "--shop", str(shop), "--json",
         "--lists", f"sqlite://{state}/lists.db", "--registry", str(tmp_path / "none")],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LONGTAIL_PSEUDONYM_KEY": KEY, "LONGTAIL_ACTOR": "ada"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["erased"]["live store"] == told["erased"]["stored lists"] == told["erased"][str(shop)] == 1
    assert pd.read_parquet(shop / "events.parquet")["user_id"].tolist() == [BORIS]
    assert asyncio.run(_left(state)) == ([0, 1], [None, ["a"]])
    entries = list(AuditLog(state / "audit.jsonl").entries())
    assert [(e.action, e.who, e.about["pseudonym"]) for e in entries] == [("erasure", "ada", ANNA)] * 2
    assert "anna" not in (state / "audit.jsonl").read_text()
    assert any("Kafka, backups" in text for text in told["left"])


def test_somebody_whom_nothing_knows_is_no_success_and_nobody_is_refused(state: Path, tmp_path: Path):
    def erase(user: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "longtail.cli", "erase", user, "--state", str(state), "--registry", "none"],
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LONGTAIL_PSEUDONYM_KEY": KEY},
        )  # fmt: skip

    refused = erase(" ")
    assert (refused.returncode, refused.stdout) == (2, "") and len(refused.stderr.splitlines()) == 1
    assert not (state / "audit.jsonl").exists()
    first = erase("nobody").stdout.splitlines()[0]
    assert "nothing of them was found" in first and "LONGTAIL_PSEUDONYM_KEY the key of the import?" in first
    assert len(list(AuditLog(state / "audit.jsonl").entries())) == 2
    assert "nothing of them" not in erase("anna").stdout


def test_bundles_that_hold_the_person_are_named_and_so_are_those_that_cannot_be_opened(tmp_path: Path):
    from longtail.engine.baked import write_people
    from longtail.governance.erasure import held_by
    from longtail.registry import Registry
    from tests.features.shop import make_log
    from tests.registry.test_registry import write_bundle

    registry, log = Registry(tmp_path / "mlflow"), make_log()
    for name, people in (("with", [ANNA]), ("without", [BORIS]), ("torn", [])):
        bundle = write_bundle(tmp_path / name, name)
        if people:
            everybody = np.array(people + [f"p{u}" for u in range(log.n_users - 1)], object)
            write_people(bundle, log, everybody, np.full(log.n_users, -1), np.array([], object))
        registry.register(bundle, {"ndcg@10": 0.1}, {}, "", name)
    found = held_by(str(tmp_path / "mlflow"), ANNA)
    assert [number for number, _, _ in found.holding] == [1]
    assert [number for number, _ in found.unseen] == [3] and "train again" in found.unseen[0][1]


async def _filled(state: Path) -> None:
    live, lists = open_live(f"sqlite://{state}/live.db", writer=True), open_lists(f"sqlite://{state}/lists.db")
    import time

    now = time.time_ns() // 1000
    await live.append([LiveEvent(f"e{n}", who, "i1", "click", now) for n, who in enumerate((ANNA, BORIS))])
    await lists.put([(who, "email", StoredList(["a"], [1.0], ["ease"], "v1", now)) for who in (ANNA, BORIS)])
    await live.close()
    await lists.close()


async def _left(state: Path) -> tuple[list[int], list]:
    live, lists = open_live(f"sqlite://{state}/live.db"), open_lists(f"sqlite://{state}/lists.db")
    histories = await live.load([ANNA, BORIS], 0)
    found = [await lists.get(who, "email") for who in (ANNA, BORIS)]
    await live.close()
    await lists.close()
    return [len(h) for h in histories], [None if f is None else f.items for f in found]


def test_the_people_s_store_forgets_and_keeps_its_size(tmp_path: Path):
    from longtail.features import batch, offline, online
    from tests.features.shop import STAMPS, make_catalogue, make_log

    people = Pseudonymiser(KEY.encode()).of_all([f"person {u}" for u in range(25)])
    taken = batch.snapshots(make_log(), make_catalogue(), STAMPS, threads=1)
    (tmp_path / "features").mkdir()
    offline.write_snapshots(taken, tmp_path / "features", np.array(people, object), make_catalogue())
    store = tmp_path / "state" / "people" / "v1" / "features"
    online.materialise(tmp_path / "features", store)
    size = (store / "online.db").stat().st_size
    before = _online_rows(store)
    erased = Erased()
    erase_state(tmp_path / "state", people[3], erased)
    assert erased.rows["people"] >= 1
    assert _online_rows(store) == before - erased.rows["people"]
    assert (store / "online.db").stat().st_size == size, "servers know by it that the store is whole"
    assert people[3].encode() not in (store / "online.db").read_bytes()
    features = online.OnlineFeatures(store)
    rows, _ = asyncio.run(features.rows([people[3], people[4]]))
    assert all(column[0] == 0 for column in rows.values())
    assert any(column[1] != 0 for column in rows.values())
    assert "restart them after" in erased.left[0]


def _online_rows(store: Path) -> int:
    with closing(sqlite3.connect(store / "online.db")) as connection:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(connection.execute(f'SELECT count(*) FROM "{n}"').fetchone()[0] for n in names)


def test_a_shop_without_the_person_is_not_written_again(tmp_path: Path):
    from longtail.governance.erasure import erase_shop

    path = tmp_path / "events.parquet"
    table = pa.table({"user_id": [BORIS] * 3, "item_id": ["i1"] * 3})
    pq.write_table(table, path)
    pq.write_table(table.drop_columns(["item_id"]), tmp_path / "exposures.parquet")
    stamp = path.stat().st_mtime_ns
    erase_shop(tmp_path, ANNA, Erased())
    assert path.stat().st_mtime_ns == stamp
    erased = Erased()
    erase_shop(tmp_path, BORIS, erased)
    assert erased.rows == {str(tmp_path): 6} and not pq.read_table(tmp_path / "exposures.parquet").num_rows
    assert pq.read_table(path).num_rows == 0, "a shop of nobody is still a shop"
