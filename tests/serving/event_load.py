"""Senders as shops run them: many at once, each sends a batch again until it hears 200, and some things twice."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from typing import Any

from serving.process import LOOPBACK

EVENTS_A_USER = 50


class Senders:
    """`start`, then kill what you like, then `stop`: it waits until every event that was begun has its 200.

    `acknowledged` are the ids with a 200; `sent` counts requests by what came back (a status, or no answer), `copies`
    the events in them.
    """

    def __init__(self, port: int, senders: int = 4, batch: int = 20, seed: int = 0) -> None:
        self._port, self._batch, self._seed = port, batch, seed
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.accepted = self.duplicates = self.copies = 0
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(senders)]

    def start(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, timeout_s: float = 120.0) -> None:
        self._stopping.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a sender never heard a 200 for its last events"

    def wait_for(self, more: int, timeout_s: float = 120.0) -> None:
        """Until so many further events are acknowledged."""
        goal, deadline = len(self.acknowledged) + more, time.monotonic() + timeout_s
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, f"only {len(self.acknowledged)} of {goal}; answers: {self.sent}"
            time.sleep(0.01)

    def _send(self, sender: int) -> None:
        rng = random.Random(self._seed * 1000 + sender)
        link: http.client.HTTPConnection | None = None
        old: list[dict[str, Any]] = []
        n = 0
        while not self._stopping.is_set():
            now = time.time_ns() // 1000
            fresh = [_event(f"{self._seed}-{sender}", n + k, now + k) for k in range(rng.randint(1, self._batch))]
            n += len(fresh)
            batch = [*fresh, *rng.sample(fresh, rng.randint(0, min(3, len(fresh))))]  # told twice in one request
            if old and rng.random() < 0.3:
                batch += rng.sample(old, min(5, len(old)))  # replayed long after its 200
            rng.shuffle(batch)
            body = json.dumps({"events": batch})
            while True:
                link = link or http.client.HTTPConnection(LOOPBACK, self._port, timeout=20)
                try:
                    link.request("POST", "/v1/events", body)
                    reply = link.getresponse()
                    answer = json.loads(reply.read())
                    outcome = str(reply.status)
                except (OSError, http.client.HTTPException, ValueError):
                    outcome, link = "no answer", None
                with self._lock:
                    self.sent[outcome] += 1
                    self.copies += len(batch)
                if outcome == "200":
                    break
                time.sleep(rng.uniform(0.01, 0.1))
            with self._lock:
                assert not answer["rejected"], answer["rejected"]
                self.acknowledged.update(event["event_id"] for event in fresh)
                self.accepted += answer["accepted"]
                self.duplicates += answer["duplicates"]
            old = (old + fresh)[-500:]


def _event(sender: str, n: int, time_us: int) -> dict[str, Any]:
    return {
        "event_id": f"{sender}-{n}", "user_id": f"user-{sender}-{n // EVENTS_A_USER}", "item_id": f"i{n % 97}",
        "event_type": "click", "session_id": f"s-{sender}", "timestamp": time_us,
    }  # fmt: skip


def user_of(event_id: str) -> str:
    """The shop's id of the person behind an event of `Senders`."""
    sender, n = event_id.rsplit("-", 1)
    return f"user-{sender}-{int(n) // EVENTS_A_USER}"
