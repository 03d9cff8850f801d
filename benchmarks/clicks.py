"""Whether a click changes the next list, and how soon: real servers, sessions of people known and new.

    python -m benchmarks.clicks --bundle BUNDLE [--sessions 200] [--k 20] [--out FILE.json]

A session asks for its list twice, which is the control: without a click the list should stand still. Then it sends a
click on one of the items to the collector and asks again, at once and every few milliseconds, until the list is
another one or two seconds have passed. The clock starts before the click is sent and stops when the list is there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from longtail.engine.baked import BakedPeople
from longtail.identity.pseudonyms import GIVEN
from serving.collector.local import LocalCollector
from serving.local import LocalServing

PATIENCE_S = 2.0
EVERY_S = 0.01
WARM_UP = 10


@dataclass(frozen=True)
class Session:
    """What one click did: `places` that hold another item than before, `fresh` items that were not in the list."""

    control: bool
    changed: bool
    at_once: bool
    clicked: int
    places: int
    fresh: int
    sent_ms: float
    ms: float
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Shop:
    """The two servers as a visitor meets them."""

    http: httpx.Client
    recommender: str
    collector: str
    surface: str
    k: int

    def ask(self, user: str) -> tuple[list[str], str]:
        """Item ids of the user's list now, and its level."""
        body = {"instances": [{"user_id": user, "surface": self.surface, "k": self.k}]}
        found = self.http.post(self.recommender, json=body).raise_for_status().json()["predictions"][0]
        return [item["item_id"] for item in found["items"]], found["level"]

    def click(self, user: str, item: str) -> None:
        """Send a click; returns when the collector has it on disk."""
        event = {
            "event_id": str(uuid.uuid4()), "user_id": user, "item_id": item, "event_type": "click",
            "timestamp": time.time_ns() // 1000, "session_id": f"session-{user}", "surface": self.surface,
        }  # fmt: skip
        verdict = self.http.post(f"{self.collector}/v1/events", json=event).raise_for_status().json()
        if verdict["accepted"] != 1:
            raise SystemExit(f"the collector did not take a click: {verdict}")

    def session(self, user: str, rng: np.random.Generator) -> Session:
        """Two lists, a click, and the lists after it."""
        first, _ = self.ask(user)
        before, level = self.ask(user)
        levels = {level}
        place = int(rng.integers(len(before)))
        start = time.perf_counter()
        self.click(user, before[place])
        sent = time.perf_counter()
        asked = 0
        while True:
            after, level = self.ask(user)
            now, asked = time.perf_counter(), asked + 1
            levels.add(level)
            if after != before or now - start > PATIENCE_S:
                break
            time.sleep(EVERY_S)
        moved = sum(a != b for a, b in zip(before, after, strict=False)) + abs(len(before) - len(after))
        return Session(
            control=first != before, changed=after != before, at_once=asked == 1 and after != before, clicked=place,
            places=moved, fresh=len(set(after) - set(before)), sent_ms=(sent - start) * 1e3, ms=(now - start) * 1e3,
            levels=tuple(sorted(levels)),
        )  # fmt: skip


def figures(sessions: list[Session]) -> dict[str, Any]:
    """Shares of sessions, and milliseconds from the click to the first list that is another one."""
    took = np.array([s.ms for s in sessions if s.changed])
    out: dict[str, Any] = {
        "sessions": len(sessions),
        "changed_without_a_click": share([s.control for s in sessions]),
        "changed_by_the_click": share([s.changed for s in sessions]),
        "in_the_first_list_after_it": share([s.at_once for s in sessions]),
        "places_changed": mean([s.places for s in sessions if s.changed]),
        "new_items": mean([s.fresh for s in sessions if s.changed]),
        "collector_p50_ms": round(float(np.median([s.sent_ms for s in sessions])), 1),
        "not_full": sum(s.levels != ("full",) for s in sessions),
    }
    if len(took):
        out |= {f"p{q}_ms": round(float(np.percentile(took, q)), 1) for q in (50, 95)}
        out |= {"max_ms": round(float(took.max()), 1), "within_1_s": share([bool(ms <= 1000) for ms in took])}
    return out


def share(flags: list[bool]) -> float:
    """The part that is true."""
    return round(float(np.mean(flags)), 4)


def mean(numbers: list[int]) -> float | None:
    """Their mean, None for none."""
    return round(float(np.mean(numbers)), 1) if numbers else None


def returning(bundle: Path, n: int, rng: np.random.Generator) -> list[str]:
    """People of the bundle who did something, drawn at random."""
    people = BakedPeople.open(bundle)
    known = np.flatnonzero(people.history.lengths > 0)
    drawn = rng.choice(known, min(n, len(known)), replace=False)
    return [GIVEN + people.ids.ids[p].decode() for p in drawn]


def main() -> None:
    """Start the servers, play the sessions, print a table."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.clicks", description=__doc__)
    flags.add_argument("--bundle", type=Path, required=True)
    flags.add_argument("--sessions", type=int, default=200, help="of each kind of person")
    flags.add_argument("--surface", default="homepage")
    flags.add_argument("--k", type=int, default=20)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--out", type=Path, help="write the figures as JSON, too")
    given = flags.parse_args()
    rng = np.random.default_rng(given.seed)
    kinds = {
        "returning": returning(given.bundle, given.sessions, rng),
        "new": [f"new-{given.seed}-{n}" for n in range(given.sessions)],
    }
    with tempfile.TemporaryDirectory() as scratch, httpx.Client(trust_env=False, timeout=10) as http:
        state = Path(scratch)
        collector = LocalCollector(state / "collector", state / "key")
        serving = LocalServing(
            given.bundle, state, clock="data", pseudonym_key=state / "key", extra=["--live", collector.live]
        )
        with collector, serving:
            collector.wait()
            shop = Shop(http, serving.url, collector.url, given.surface, given.k)
            for n in range(WARM_UP):
                shop.session(f"warm-up-{n}", rng)
            found = {kind: figures([shop.session(user, rng) for user in users]) for kind, users in kinds.items()}
    print(f"{'':<30} {'returning':>10} {'new':>10}")
    for name in found["returning"] | found["new"]:
        values = (found[kind].get(name) for kind in ("returning", "new"))
        print(f"{name.replace('_', ' '):<30} " + " ".join(f"{'-' if v is None else v:>10}" for v in values))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
