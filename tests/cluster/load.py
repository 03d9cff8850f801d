"""Asks for lists until told to stop, and counts what came back: `python -m tests.cluster.load URL PEOPLE OUT`.

A process of its own, because it runs inside the node's namespaces. Each request opens a connection, so that whatever
stands behind the service's address gets its share. PEOPLE is a JSON list of user ids. It ends when there is a file
`OUT` with `.stop` as its suffix, and OUT says how it went.
"""

from __future__ import annotations

import collections
import itertools
import json
import sys
import threading
import time
import urllib.request
from pathlib import Path

CLIENTS = 3
PAUSE_S = 0.05
TIMEOUT_S = 10.0


def ask(url: str, user: str) -> dict:
    """One list.

    Raises:
        OSError, ValueError, LookupError: no answer, or none of the kind.
    """
    body = json.dumps({"instances": [{"user_id": user, "k": 5}]}).encode()
    request = urllib.request.Request(f"{url}/v1/models/recommender:predict", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        answer = json.load(reply)["predictions"][0]
    if not answer["items"]:
        raise LookupError("an empty list")
    return answer


def run(url: str, people: list[str], out: Path) -> None:
    """Ask with several clients at once until told to stop, then write the counts."""
    told, lock = threading.Event(), threading.Lock()
    counts: dict[str, collections.Counter] = {k: collections.Counter() for k in ("levels", "versions", "failures")}

    def client(n: int) -> None:
        for user in itertools.cycle(people[n::CLIENTS]):
            if told.is_set():
                return
            try:
                answer = ask(url, user)
            except (OSError, ValueError, LookupError) as error:
                with lock:
                    counts["failures"][f"{time.strftime('%X')} {type(error).__name__}: {error}"] += 1
            else:
                with lock:
                    counts["levels"][answer["level"]] += 1
                    counts["versions"][answer["model_version"]] += 1
            time.sleep(PAUSE_S)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in clients:
        thread.start()
    while not out.with_suffix(".stop").exists():
        time.sleep(0.1)
    told.set()
    for thread in clients:
        thread.join()
    out.write_text(json.dumps(counts))


if __name__ == "__main__":
    run(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
