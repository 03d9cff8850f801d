"""Kill -9 under load, and count: `make kills`, or `python -m tests.serving.collector_crash --kills 20 [--kafka]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from longtail.features.live import open_live
from longtail.identity import Pseudonymiser
from serving.process import spawn, stop
from tests.serving.collector_process import KEY, CollectorProcess, stored
from tests.serving.event_load import Senders, user_of
from tests.serving.kafka import Kafka, why_no_kafka

# Sealed so often that kills meet seals, too.
OFTEN = {"every_s": 0.3, "rows": 2000}


@dataclass
class Tally:
    """What became of the events: each was sent until it had its 200, `copies` tells how often in all."""

    kills: int
    also_killed: int
    events: int
    copies: int
    lost: int
    counted_twice: int
    live_lost: int
    live_twice: int
    unanswered_requests: int
    stored_without_200: int
    seals: int


def spool_run(folder: Path, kills: int, live: str | None = None, seed: int = 0) -> Tally:
    """Kill the collector `kills` times while four senders send, replay and repeat themselves."""
    state, rng = folder / "state", random.Random(seed)
    flags = ("--live", live) if live else ()
    collector = CollectorProcess(state, {"seal": OFTEN}, flags).start()
    senders = Senders(collector.port, seed=seed).start()
    try:
        for _ in range(kills):
            senders.wait_for(200)
            time.sleep(rng.uniform(0, 0.7))
            collector.kill()
            collector.start()
        senders.wait_for(200)
        senders.stop()
    finally:
        collector.stop()
    return _tally(kills, 0, senders, state, live or f"sqlite://{state}/live.db", collector)


def kafka_run(folder: Path, kills: int, seed: int = 0) -> Tally:
    """The same through Kafka; each time the broker or the consumer dies, too, around the same moment."""
    rng, others = random.Random(seed), 0
    with Kafka(folder / "kafka") as kafka:
        config = {"sink": "kafka", "kafka": {"servers": kafka.servers}, "seal": OFTEN}
        collector = CollectorProcess(folder / "state", config).start()
        drained = folder / "drained"
        drain = DrainProcess(drained, config).start()
        senders = Senders(collector.port, seed=seed).start()
        try:
            for kill in range(kills):
                senders.wait_for(200)
                victims = [collector, (kafka, drain)[kill % 2]]
                rng.shuffle(victims)
                for victim in victims:
                    time.sleep(rng.uniform(0, 0.7))
                    victim.kill()
                rng.shuffle(victims)
                for victim in victims:
                    victim.start()
                others += 1
            senders.wait_for(200)
            senders.stop()
            drain.wait_for(senders.acknowledged)
        finally:
            drain.stop()
            collector.stop()
    return _tally(kills, others, senders, drained, f"sqlite://{folder}/state/live.db", collector)


class DrainProcess:
    """`python -m serving.collector.drain` into a state folder."""

    def __init__(self, state: Path, config: dict) -> None:
        self.state, self.log = state, state.parent / f"{state.name}.log"
        self._config = state.parent / f"{state.name}.yaml"
        self._config.write_text(yaml.safe_dump(config))

    def start(self) -> DrainProcess:
        argv = [sys.executable, "-m", "serving.collector.drain", "--state", str(self.state)]
        self.process = spawn([*argv, "--config", str(self._config)], self.log)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        return stop(self.process, 60)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, ids: set[str], timeout_s: float = 120.0) -> None:
        """Until it has stored these ids: its seals are looked at, so it must seal often."""
        from tests.serving.collector_process import sealed

        deadline = time.monotonic() + timeout_s
        while not ids <= {row["event_id"] for row in sealed(self.state)}:
            assert time.monotonic() < deadline, f"the consumer is behind:\n{self.log.read_text()[-2000:]}"
            time.sleep(0.3)


def _tally(
    kills: int, also_killed: int, senders: Senders, state: Path, live: str, collector: CollectorProcess
) -> Tally:  # fmt: skip
    kept = stored(state)
    told = senders.acknowledged
    in_live = asyncio.run(_live(live, told))
    return Tally(
        kills=kills,
        also_killed=also_killed,
        events=len(told),
        copies=senders.copies,
        lost=len(told - set(kept)),
        counted_twice=sum(n > 1 for n in kept.values()),
        live_lost=len(told) - sum(min(n, 1) for n in in_live.values()),
        live_twice=sum(n > 1 for n in in_live.values()),
        unanswered_requests=senders.sent["no answer"],
        stored_without_200=len(set(kept) - told),
        seals=len({file.name for file in (state / "events").glob("date=*/*.parquet")}),
    )


async def _live(url: str, ids: set[str]) -> Counter[tuple[str, int]]:
    """How often each acknowledged event is in the live store, by person and the place among that person's events."""
    pseudonyms = Pseudonymiser(KEY.encode())
    people: dict[str, list[str]] = {}
    for event_id in ids:
        people.setdefault(user_of(event_id), []).append(event_id)
    store = open_live(url)
    found: Counter[tuple[str, int]] = Counter()
    users = sorted(people)
    for start in range(0, len(users), 50):
        some = users[start : start + 50]
        for user, history in zip(some, await store.load(pseudonyms.of_all(some), 0, last=1000), strict=True):
            # An event's time is its own: the same time twice is the same event twice.
            times = Counter(history.time.tolist())
            found.update({(user, time_us): n for time_us, n in times.items()})
    await store.close()
    return found


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--kills", type=int, default=20)
    flags.add_argument("--kafka", action="store_true", help="through Kafka; the broker and the consumer die, too")
    flags.add_argument("--seed", type=int, default=0)
    given = flags.parse_args()
    if given.kafka and (cause := why_no_kafka()):
        raise SystemExit(cause)
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        run = kafka_run if given.kafka else spool_run
        tally = run(Path(folder), given.kills, seed=given.seed)
        print(json.dumps({**asdict(tally), "seconds": round(time.monotonic() - start, 1)}, indent=2))
    bad = tally.lost + tally.counted_twice + tally.live_lost + tally.live_twice
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
