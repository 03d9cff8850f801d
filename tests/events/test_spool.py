"""An event handed to the spool is counted once, whatever is sent again and wherever the process dies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longtail.errors import InvalidInput, Unavailable
from longtail.events import sealing
from longtail.events.spool import Limits, Row, Spool, SpoolFull
from longtail.schema import DAY_US

NOON = 20_000 * DAY_US + DAY_US // 2


def row(n: int, time_us: int = NOON, **columns: object) -> Row:
    content = {
        "event_id": f"e{n}", "user_id": "u", "item_id": f"i{n}", "event_type": "click", "timestamp": time_us,
        "received_at": NOON, **columns,
    }  # fmt: skip
    return Row(f"e{n}", time_us, json.dumps(content).encode())


def counted(folder: Path) -> Counter[str]:
    """How often each event id stands in sealed Parquet."""
    files = (folder / "events").glob("date=*/part-*.parquet")
    return Counter(i for file in files for i in pq.read_table(file, columns=["event_id"])["event_id"].to_pylist())


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path, now=lambda: NOON)
    yield spool
    spool.close()


def test_rows_come_back_with_the_contract_s_columns(tmp_path: Path, spool: Spool):
    full = row(
        1, session_id="s", surface="home", position=3, request_id="r", value=0.1, dwell_ms=2**40, device="phone",
        quantity=2.0, propensity=0.25, region="north", device_id="d", extra='{"note": "a\\nb ü"}',
    )  # fmt: skip
    tomorrow = row(3, NOON + DAY_US)
    assert spool.write([row(2, NOON + 1), full, tomorrow]) == [True, True, True]
    sealed = spool.seal()
    assert (sealed.rows, sealed.files) == (3, 2) and (spool.rows, spool.bytes) == (0, 0)
    folders = sorted(p.name for p in (tmp_path / "events").iterdir())
    assert folders == ["date=2024-10-04", "date=2024-10-05"]
    table = pq.ParquetFile(next((tmp_path / "events" / folders[0]).glob("*.parquet"))).read()
    assert table.schema.equals(sealing.SCHEMA)
    first, second = table.to_pylist()
    assert [first["event_id"], second["event_id"]] == ["e1", "e2"]
    expected = json.loads(full.content)
    for name in ("timestamp", "received_at"):
        assert table[name].cast(pa.int64())[0].as_py() == expected.pop(name)
    assert {name: first[name] for name in expected} == expected


def test_an_id_counts_once_in_a_batch_across_batches_seals_and_restarts(tmp_path: Path):
    spool = Spool(tmp_path)
    assert spool.write([row(1), row(1), row(2)]) == [True, False, True]
    assert spool.write([row(2), row(3)]) == [False, True]
    spool.seal()
    assert spool.write([row(1), row(4)]) == [False, True]
    spool.close()
    spool = Spool(tmp_path)
    assert spool.rows == 1 and spool.write([row(n) for n in range(1, 6)]) == [False] * 4 + [True]
    spool.seal()
    spool.close()
    assert counted(tmp_path) == {f"e{n}": 1 for n in range(1, 6)}


def test_ids_are_forgotten_after_the_horizon_and_not_before(tmp_path: Path):
    now = NOON
    spool = Spool(tmp_path, horizon_days=7, now=lambda: now)
    spool.write([row(n) for n in range(300)])
    now += 7 * DAY_US
    assert sum(spool.forget_ids() for _ in range(4096)) == 0
    assert spool.write([row(0)]) == [False]
    now += DAY_US
    spool.write([row(300)])
    assert sum(spool.forget_ids() for _ in range(4096)) == 300
    assert spool.write([row(0), row(300)]) == [True, False]
    spool.close()


def test_only_one_process_has_the_folder(tmp_path: Path, spool: Spool):
    with pytest.raises(InvalidInput, match="another process"):
        Spool(tmp_path)


def test_a_full_spool_takes_nothing_until_it_is_sealed(tmp_path: Path):
    spool = Spool(tmp_path, limits=Limits(max_bytes=1000, free_bytes=0))
    while spool.bytes <= 1000:
        spool.write([row(spool.rows)])
    held = spool.rows
    with pytest.raises(SpoolFull, match="wait to be sealed"):
        spool.write([row(held)])
    spool.seal()
    assert spool.write([row(held)]) == [True]
    spool.close()
    full = Spool(tmp_path / "other", limits=Limits(free_bytes=2**62))
    with pytest.raises(SpoolFull, match="disk has"):
        full.write([row(0)])
    full.close()


def test_a_full_disk_keeps_nothing_of_a_batch(tmp_path: Path, spool: Spool):
    spool.write([row(0)])
    connection = spool._file._writing
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(SpoolFull, match="disk is full"):
        spool.write([row(n, note="x" * 1000) for n in range(1, 500)])
    assert spool.rows == 1 and spool.write([row(1)]) == [True]
    spool.seal()
    assert counted(tmp_path) == {"e0": 1, "e1": 1}


def test_a_consumer_s_place_moves_with_its_rows(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.write([row(0)], {("events", 0): 17, ("events", 1): 3})
    spool._file._writing.execute(
        f"PRAGMA max_page_count = {spool._file._writing.execute('PRAGMA page_count').fetchone()[0]}"
    )
    with pytest.raises(SpoolFull):
        spool.write([row(n, extra="x" * 1000) for n in range(1, 500)], {("events", 0): 516})
    spool.close()
    spool = Spool(tmp_path)
    assert spool.places("events") == {0: 17, 1: 3} and spool.places("other") == {}
    spool.close()


def test_a_row_that_fits_no_schema_does_not_stop_the_others(tmp_path: Path, spool: Spool):
    rows = [row(n) for n in range(20)]
    rows[7] = Row("e7", NOON, rows[7].content.replace(b'"u"', b"[1]"))
    rows[13] = Row("e13", NOON, b'{"event_id": "e13", "what": 1}')
    spool.write(rows)
    assert spool.seal().rows == 20
    (aside,) = (tmp_path / "quarantine").glob("*.jsonl")
    assert aside.read_bytes().splitlines() == [rows[7].content, rows[13].content]
    assert counted(tmp_path) == {f"e{n}": 1 for n in range(20) if n not in (7, 13)}


@pytest.mark.parametrize("dies_after", ["noting", "one file", "all files", "marking", "some deletes"])
def test_a_seal_that_died_anywhere_is_finished_without_loss_or_double(
    tmp_path: Path, dies_after: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("longtail.events.spool.CHUNK", 10)
    spool = Spool(tmp_path)
    spool.write([row(n, NOON + (n % 3) * DAY_US) for n in range(95)])

    class Died(Exception):
        pass

    calls = Counter[str]()

    def dying(name: str, at: int, original):
        def call(*args: object, **kwargs: object):
            calls[name] += 1
            if calls[name] == at:
                raise Died
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if dies_after == "noting":
            patch.setattr(spool, "_finish", dying("finish", 2, spool._finish))
        elif dies_after in ("one file", "all files"):
            at = 2 if dies_after == "one file" else 4
            patch.setattr(sealing, "sync_folder", dying("sync", at, sealing.sync_folder))
        else:
            patch.setattr(spool, "_count", dying("count", 1 if dies_after == "marking" else 4, spool._count))
        with pytest.raises(Died):
            spool.seal()
    spool.write([row(n) for n in range(90, 110)])
    spool.close()
    spool = Spool(tmp_path)
    assert spool.write([row(n) for n in range(110)]) == [False] * 110
    spool.seal()
    assert spool.rows == 0 and counted(tmp_path) == {f"e{n}": 1 for n in range(110)}
    assert not list(tmp_path.rglob("*.tmp"))
    spool.close()


def test_a_disk_that_takes_no_parquet_leaves_the_events_in_the_spool(tmp_path: Path, spool: Spool):
    spool.write([row(0)])
    (tmp_path / "events" / "date=2024-10-04").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be sealed"):
        spool.seal()
    assert spool.rows == 1
    (tmp_path / "events" / "date=2024-10-04").unlink()
    assert spool.seal().rows == 1 and counted(tmp_path) == {"e0": 1}


def test_writes_and_seals_at_once_count_right(tmp_path: Path, spool: Spool):
    done = threading.Event()

    def seal() -> None:
        while not done.is_set():
            spool.seal(50)

    sealer = threading.Thread(target=seal)
    sealer.start()
    try:
        for start in range(0, 1000, 10):
            spool.write([row(n) for n in range(max(0, start - 5), start + 10)])
    finally:
        done.set()
        sealer.join()
    spool.seal()
    assert (spool.rows, spool.bytes) == (0, 0) and counted(tmp_path) == {f"e{n}": 1 for n in range(1000)}


def test_a_rotten_file_among_the_sealed_ones_keeps_nothing_else_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with closing(Spool(tmp_path, now=lambda: NOON)) as spool:
        spool.write([row(1), row(2, NOON + DAY_US)])
        spool.seal()
    rotten, _ = sorted(tmp_path.glob("events/date=*/part-*.parquet"))
    rotten.write_bytes(b"\xa5" * 1000)
    for file in tmp_path.glob("spool.db*"):
        file.unlink()
    with closing(Spool(tmp_path, now=lambda: NOON)) as spool:
        assert spool.write([row(2, NOON + DAY_US), row(3)]) == [False, True]
    assert str(rotten) in caplog.text and "passed over" in caplog.text


@pytest.mark.parametrize("running", [True, False])
def test_a_damaged_spool_is_moved_aside_and_what_can_be_read_is_kept(tmp_path: Path, running: bool):
    spool = Spool(tmp_path, now=lambda: NOON)
    spool.write([row(n) for n in range(100)])
    spool.seal()
    spool.write([row(n) for n in range(100, 3000)], {("events", 0): 5})
    if not running:
        spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'seen'").fetchone()[0]
    with (tmp_path / "spool.db").open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xa5" * 4096)
    if running:
        spool._file._writing.execute("PRAGMA shrink_memory")
        spool._file._writing.execute("PRAGMA cache_size = 0")
    else:
        spool = Spool(tmp_path, now=lambda: NOON)
    for _ in range(3):
        try:
            spool.write([row(3000)])
            break
        except Unavailable:
            continue
    assert spool.moved_aside and spool.places("events") == {0: 5}
    assert spool.write([row(n) for n in range(3001)]) == [False] * 3001
    spool.seal()
    assert counted(tmp_path) == {f"e{n}": 1 for n in range(3001)}
    spool.close()


WRITER = """
import sys
from tests.events.test_spool import row
from longtail.events.spool import Spool
import threading
spool = Spool(sys.argv[1])
def seal():
    while True:
        spool.seal(200)
threading.Thread(target=seal, daemon=True).start()
n = int(sys.argv[2])
while True:
    spool.write([row(k) for k in range(max(0, n - 7), n + 20)])
    n += 20
    print(n, flush=True)
"""


def test_kill_9_between_any_two_steps_loses_and_doubles_nothing(tmp_path: Path):
    told = 0
    for kill in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(told)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = int(process.stdout.readline())
        time.sleep(0.1 + 0.07 * kill)
        os.kill(process.pid, signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
        process.wait()
    spool = Spool(tmp_path)
    spool.write([row(n) for n in range(told)])
    spool.seal()
    spool.close()
    found = counted(tmp_path)
    assert set(found.values()) == {1} and {f"e{n}" for n in range(told)} <= set(found)
    assert len(found) <= told + 20


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of four megabytes takes the right to mount one")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_known_to_be_full_while_nobody_sends(small_disk: Path):
    spool = Spool(small_disk / "spool", limits=Limits(free_bytes=0), now=lambda: NOON)
    spool.try_writing()
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb") as file:
        file.write(bytes(8 << 20))
    for _ in range(3):
        with pytest.raises(Unavailable, match="takes no more events"):
            spool.try_writing()
    filler.unlink()
    spool.try_writing()
    assert spool.write([row(1)]) == [True] and spool.seal().rows == 1
    spool.close()
