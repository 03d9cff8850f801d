"""A recommender and a collector that do as they are told: for what real ones cannot be made to do on demand.

The lists follow the protocol down to the trace: what was clicked draws items of its category up.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOURCES = (
    "two_tower", "ease", "item_knn", "next_5", "content", "popular_segment", "trending", "sessions", "copurchase",
    "repeats",
)  # fmt: skip
REASONS = {
    "two_tower": "picked for you", "ease": "people with your taste chose it", "next_5": "often comes next",
    "content": "similar to what you looked at", "popular_segment": "popular where you are", "trending": "rising now",
    "repeats": "you chose it before",
}  # fmt: skip
FEATURES = ("pair_n", "item_pop_7d", "item_price", "item_ctr_30d", "user_basket", "item_age", "item_trend_3_30",
            "item_n_30d", "item_conversion_30d", "item_since_last")  # fmt: skip


class StandIn:
    """Both servers on one port. `items` are (item_id, category) pairs; `twist` changes an answer before it is sent."""

    def __init__(self, items: Sequence[tuple[str, str]], collects: bool = True) -> None:
        self.items, self.collects = list(items), collects
        self.asked: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.twist: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.lag = 0  # so many lists after an event still do not know of it
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> StandIn:
        """Listen; after `stop`, on the same port again."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._open.add(self.connection)

            def do_GET(self) -> None:
                self.reply(200, {"ready": True})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path.endswith(":predict"):
                    outer.asked.append(body["instances"][0])
                    self.reply(200, outer.twist({"predictions": [outer.list_of(body["instances"][0])]}))
                else:
                    outer.events += body["events"]
                    self.reply(200, {"accepted": len(body["events"]), "duplicates": 0, "rejected": []})

            def reply(self, status: int, content: Any) -> None:
                if isinstance(content, int):
                    status, content = content, {"error": f"told to say {content}"}
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in self._open:  # a process that dies takes its connections with it
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def list_of(self, instance: dict[str, Any]) -> dict[str, Any]:
        """One list, the same for the same question."""
        user, k = str(instance.get("user_id")), instance.get("k", 20)
        seen = [e["item_id"] for e in self.events if e.get("user_id") == user]
        if seen and self.lag:
            self.lag -= 1
            seen = seen[:-1]
        seen += [e["item_id"] for e in instance.get("context", {}).get("events", [])]
        category = dict(self.items)
        liked = [category.get(item, "") for item in seen]
        rng = random.Random(f"{user}{instance.get('surface')}")
        worth = {item: rng.gauss(0, 1) + 1.5 * liked.count(c) for item, c in self.items}
        best = sorted(worth, key=lambda item: -worth[item])[:k]
        rng = random.Random(str(best))
        traced = []
        for place, item in enumerate(best):
            names = rng.sample(SOURCES, rng.randint(1, 6))
            traced.append(
                {
                    "item_id": item, "blend": round(rng.random() * 0.3, 4), "score": round(worth[item], 4),
                    "rank_before_rules": max(1, place + 1 + rng.choice([-2, -1, 0, 0, 0, 0, 1, 2])),
                    "sources": {n: {"score": rng.random(), "rank": int(rng.paretovariate(0.7))} for n in names},
                    "features": {name: round(rng.gauss(3, 2), 3) for name in FEATURES},
                    "rules": rng.choice([[], [], ["diversity"], ["boost:garden-weeks"], ["boost:autumn", "diversity"]]),
                }
            )  # fmt: skip
        items = [
            {"item_id": t["item_id"], "score": t["score"], "source": s, "reason": REASONS.get(s, "picked for you"),
             "propensity": 1.0}
            for t in traced for s in [min(t["sources"], key=lambda n: t["sources"][n]["rank"])]
        ]  # fmt: skip
        stages = {name: round(rng.uniform(*span), 3) for name, span in {
            "people": (0.2, 0.9), "retriever": (1.5, 4), "features": (1, 2), "ranker": (1.5, 3), "rerank": (0.2, 0.6)
        }.items()}  # fmt: skip
        return {
            "request_id": f"{rng.getrandbits(64):016x}", "items": items, "model_version": "20261121-142953-67798a34",
            "variant": "champion", "level": "full", "made": "live",
            "timings_ms": stages | {"total": round(sum(stages.values()), 3)},
            "trace": {
                "candidates": 480, "by_source": {name: rng.randint(20, 120) for name in SOURCES},
                "dropped": {"stock": 15, "region": 13, "age": 18}, "rules": {t["item_id"]: t["rules"] for t in traced},
                "items": traced, "hops": {"retriever": "ok", "ranker": "ok"},
            },
        }  # fmt: skip
