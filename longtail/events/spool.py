"""The event log of one machine: a durable spool in SQLite, sealed into date-partitioned Parquet.

An event is in exactly one place: in the spool until it is sealed, in `events/date=YYYY-MM-DD/part-*.parquet` after. A
crash at any moment, a seal half done included, neither loses nor doubles one. Ids are remembered for a horizon of days
on disk, so that an event that is sent again counts once, sealed or not; older repeats fall to the import.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from longtail.errors import Unavailable
from longtail.events import sealing
from longtail.events.spool_file import SpoolFile, SpoolFull, readable
from longtail.schema import DAY_US

__all__ = ["HORIZON_DAYS", "Limits", "Row", "Sealed", "Spool", "SpoolFull"]

HORIZON_DAYS = 7
PROBE_BYTES = 1 << 20
CHUNK = 5000
# Ids are forgotten one slice of the key space at a time, so that no transaction is long.
SLICES = 4096
KEY_BYTES = 16


class Row(NamedTuple):
    """One event of the contract: its id, its time (microseconds) and all columns as JSON (see `sealing.SCHEMA`)."""

    event_id: str
    time: int
    content: bytes


@dataclass(frozen=True)
class Limits:
    """When the spool takes no more: `max_bytes` of unsealed events, or less than `free_bytes` left on the disk."""

    max_bytes: int = 1 << 30
    free_bytes: int = 64 << 20


@dataclass(frozen=True)
class Sealed:
    """What one seal moved: `rows` into `files` Parquet files, in `seconds`."""

    rows: int
    files: int
    seconds: float


class Spool:
    """The spool in `folder/spool.db` and its Parquet in `folder/events`; one process at a time.

    `write` and `seal` may run in different threads. `rows` and `bytes` are what is not sealed yet; `moved_aside` names
    damaged spools, of which all that could be read was taken over. `now` tells microseconds since 1970.

    Raises:
        InvalidInput: another process has the folder open.
    """

    def __init__(
        self, folder: Path | str, *, limits: Limits = Limits(), horizon_days: int = HORIZON_DAYS,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.events = self.folder / "events"
        self.limits, self.horizon_days, self._now = limits, horizon_days, now
        self.events.mkdir(parents=True, exist_ok=True)
        self._file = SpoolFile(self.folder / "spool.db")
        self._sealing, self._counting = threading.Lock(), threading.Lock()
        self._slice = 0
        self.rows = self.bytes = 0
        self.moved_aside: list[Path] = []
        try:
            sealing.clear(self.events)
            self._take_stock(self._file.moved_aside)
        except Unavailable:
            if not self._file.suspect:
                self._file.close()
                raise
            self._take_stock(self._file.reopen())
        except BaseException:
            self._file.close()
            raise

    def write(self, rows: Sequence[Row], places: Mapping[tuple[str, int], int] | None = None) -> list[bool]:
        """Keep the rows, on disk when this returns; for each whether it was new.

        `places` (topic, partition) -> next offset is kept in the same transaction: where a consumer goes on from.

        Raises:
            SpoolFull: there is no room; nothing was kept.
            Unavailable: the file cannot be written; nothing was kept.
        """
        if self._file.suspect:  # a look at the folder: microseconds
            with self._sealing:
                self._take_stock(self._file.reopen())
        self.check_room()
        return self._keep(rows, places or {})

    def try_writing(self) -> None:
        """Find out, without any event, whether events would be kept: what a large request brings must find its place.

        Raises:
            SpoolFull, Unavailable: they would not.
        """
        self.write([])
        probe = self.folder / ".probe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Unavailable(f"{self.folder} takes no more events: {error}") from error
        finally:
            probe.unlink(missing_ok=True)

    def places(self, topic: str) -> dict[int, int]:
        """Partition -> next offset to consume, as the last `write` of that topic left it."""
        return dict(self._file.read("SELECT part, next FROM place WHERE topic = ?", (topic,)))

    def unsealed(self, upto: int = 2**62) -> Iterator[list[bytes]]:
        """The content of the events that are not sealed yet (those up to number `upto`), in the order they came."""
        chunk = "SELECT n, content FROM event WHERE n > ? AND n <= ? ORDER BY n LIMIT ?"
        last = -1
        while rows := self._file.read(chunk, (last, upto, CHUNK)):
            last = rows[-1][0]
            yield [content for _, content in rows]

    def seal(self, rows: int | None = None) -> Sealed:
        """Move what is unsealed now (at most `rows`) into Parquet; a seal that was interrupted is finished first.

        Raises:
            SpoolFull, Unavailable: the disk does not take it; the events stay, and the next seal tries again.
        """
        start = time.monotonic()
        with self._sealing:
            try:
                moved, files = self._finish()
                if self._begin(rows):
                    more = self._finish()
                    moved, files = moved + more[0], files + more[1]
            except OSError as error:
                raise Unavailable(f"events cannot be sealed into {self.events}: {error}") from error
        return Sealed(moved, files, time.monotonic() - start)

    def forget_ids(self) -> int:
        """Forget a slice of the ids that are older than the horizon; returns how many. Call it every second or so."""
        step = 256**KEY_BYTES // SLICES
        low, high = self._slice * step, (self._slice + 1) * step - 1
        self._slice = (self._slice + 1) % SLICES
        oldest = self._now() // DAY_US - self.horizon_days
        with self._file.transaction() as connection:
            statement = "DELETE FROM seen WHERE id BETWEEN ? AND ? AND day < ?"
            keys = [n.to_bytes(KEY_BYTES, "big") for n in (low, high)]
            return connection.execute(statement, (*keys, oldest)).rowcount

    def close(self) -> None:
        """Let another process have the folder; events stay in the spool."""
        with self._sealing:
            self._file.close()

    def _keep(self, rows: Sequence[Row], places: Mapping[tuple[str, int], int]) -> list[bool]:
        day = self._now() // DAY_US
        new: list[bool] = []
        with self._file.transaction() as connection:
            for row in rows:
                found = connection.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key_of(row.event_id), day))
                new.append(found.rowcount == 1)
            kept = [row[1:] for row, is_new in zip(rows, new, strict=True) if is_new]
            connection.executemany("INSERT INTO event (time, content) VALUES (?, ?)", kept)
            for (topic, part), offset in places.items():
                connection.execute("INSERT OR REPLACE INTO place VALUES (?, ?, ?)", (topic, part, offset))
        self._count(len(kept), sum(len(content) for _, content in kept))
        return new

    def _begin(self, rows: int | None) -> bool:
        """Note which events the next seal takes: whatever happens then, it is these."""
        newest = "SELECT max(n) FROM event"
        if rows is not None:
            newest = f"SELECT max(n) FROM (SELECT n FROM event ORDER BY n LIMIT {int(rows)})"
        with self._file.transaction() as connection:
            (upto,) = connection.execute(newest).fetchone()
            if upto is None:
                return False
            name = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._now() / 1e6)) + f"-{uuid.uuid4().hex[:8]}"
            connection.execute("INSERT INTO seal VALUES (?, ?, 0)", (name, upto))
            return True

    def _finish(self) -> tuple[int, int]:
        """Write the files of the noted seal, unless they are written, then take its events from the spool."""
        noted = self._file.read("SELECT name, upto, written FROM seal")
        if not noted:
            return 0, 0
        name, upto, written = noted[0]
        moved = files = 0
        if not written:
            # A file of this name from an interrupted attempt holds the same events: it is replaced.
            moved, files = sealing.write(self.events, name, self.unsealed(upto))
            with self._file.transaction() as connection:
                connection.execute("UPDATE seal SET written = 1")
        oldest = "DELETE FROM event WHERE n IN (SELECT n FROM event WHERE n <= ? ORDER BY n LIMIT ?)"
        while True:
            with self._file.transaction() as connection:
                gone = connection.execute(f"{oldest} RETURNING length(content)", (upto, CHUNK)).fetchall()
                if not gone:
                    connection.execute("DELETE FROM seal")
            if not gone:
                return moved, files
            self._count(-len(gone), -sum(length for (length,) in gone))

    def _count(self, rows: int, size: int) -> None:
        with self._counting:
            self.rows += rows
            self.bytes += size

    def check_room(self) -> None:
        """See whether more events would be taken now.

        Raises:
            SpoolFull: they would not.
        """
        if self.bytes > self.limits.max_bytes:
            raise SpoolFull(f"{self.bytes:,} bytes of events wait to be sealed: the limit is {self.limits.max_bytes:,}")
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < self.limits.free_bytes:
            raise SpoolFull(f"the disk has {free:,} bytes left: {self.limits.free_bytes:,} are kept free")

    def _take_stock(self, damaged: Path | None) -> None:
        """Count what is there; a new spool learns the ids of the Parquet, and what a damaged one still tells."""
        size = "SELECT count(*), coalesce(sum(length(content)), 0) FROM event"
        ((self.rows, self.bytes),) = self._file.read(size)
        if not self._file.read("SELECT 1 FROM seen LIMIT 1"):
            oldest = self._now() // DAY_US - self.horizon_days
            for ids in sealing.received_since(self.events, oldest * DAY_US, ["event_id"]):
                known = [(key_of(row["event_id"]), row["received_at"] // DAY_US) for row in ids]
                with self._file.transaction() as connection:
                    connection.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", known)
        if damaged is None:
            return
        self.moved_aside.append(damaged)
        for places in readable(damaged, "SELECT topic, part, next FROM place"):
            self._keep([], {(topic, part): offset for topic, part, offset in places})
        for events in readable(damaged, "SELECT time, content FROM event ORDER BY n"):
            self._keep([Row(json.loads(content)["event_id"], time, content) for time, content in events], {})


def key_of(event_id: str) -> bytes:
    """16 bytes that stand for an id: that any two of a billion share theirs has a chance below 1 in 10^20."""
    return blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
