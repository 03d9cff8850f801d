"""Time and memory of retrieval alone: each source, the blend over them, and the whole, beside the bare tower and index.

    python -m benchmarks.retrieval [--items 2000000] [--requests 1000] [--candidates 500] [--out FILE.json]

The retriever is a made-up one (`benchmarks/synthetic_retriever.py`), kept in `runs/benchmark` for the next run; any
other one is measured with `--retriever FOLDER`. One thread, one request at a time. `tower` is ONNX Runtime on inputs
that are ready, `index` FAISS on a query that is ready, `numbers` the rows of the tables that a request reads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from serving.lean import keep_out

keep_out()

import faiss  # noqa: E402

from benchmarks.synthetic_retriever import synthetic_requests  # noqa: E402
from longtail.events import Requests  # noqa: E402
from longtail.retrieval import Retriever  # noqa: E402
from longtail.retrieval.base import Answer, CandidateSource  # noqa: E402
from longtail.retrieval.two_tower import TwoTower  # noqa: E402

Times = dict[str, list[tuple[float, float]]]
Clock = tuple[float, float]


def clock() -> Clock:
    """Seconds by the wall, and of this thread's processor time: the second knows no neighbours on the machine."""
    return time.perf_counter(), time.thread_time()


def since(start: Clock) -> tuple[float, float]:
    now = clock()
    return now[0] - start[0], now[1] - start[1]


class TimedAnswer(Answer):
    def __init__(self, answer: Answer, spent: list[float]) -> None:
        self.answer, self.spent = answer, spent

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        start = clock()
        found = self.answer.top(k)
        self.add(start)
        return found

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        start = clock()
        found = self.answer.at(rows, items)
        self.add(start)
        return found

    def add(self, start: Clock) -> None:
        wall, cpu = since(start)
        self.spent[0] += wall
        self.spent[1] += cpu


class TimedSource(CandidateSource):
    """A source that notes how long it took, over all that a request asks of it."""

    def __init__(self, source: CandidateSource) -> None:
        self.source, self.name, self.reason, self.spent = source, source.name, source.reason, [0.0, 0.0]

    def answer(self, requests: Requests) -> Answer:
        start = clock()
        answer = TimedAnswer(self.source.answer(requests), self.spent)
        answer.add(start)
        return answer

    def save(self, folder: Path) -> None:
        self.source.save(folder)


def measure(retriever: Retriever, requests: Requests, candidates: int) -> tuple[Times, int]:
    """Times of each part for each request, and how many candidates there were before the cut, on average."""
    ones = [requests.take(np.array([b])) for b in range(len(requests))]
    for one in ones[:20]:
        retriever.candidates(one, candidates)
    times: Times = defaultdict(list)
    for one in ones:
        start = clock()
        retriever.candidates(one, candidates)
        times["whole"].append(since(start))
    timed = [TimedSource(source) for source in retriever.sources]
    pieces = Retriever(timed, retriever.blend, retriever.depth, retriever.repeats)
    found = 0
    for one in ones:
        for source in timed:
            source.spent[:] = 0.0, 0.0
        start = clock()
        found += len(pieces.candidates(one).rows)
        whole = since(start)
        for source in timed:
            times[source.name].append((source.spent[0], source.spent[1]))
        own = np.sum([source.spent for source in timed], axis=0)
        times["union, ranks, blend"].append((whole[0] - own[0], whole[1] - own[1]))
    for source in retriever.sources:
        if isinstance(source, TwoTower):
            for one in ones:
                users = source.user_vectors(one)
                start = clock()
                source.index.search(users, retriever.depth)
                times["bare index"].append(since(start))
                inputs = source.inputs(one, 0)
                start = clock()
                source.session.run(None, inputs)
                times["bare tower"].append(since(start))
    return times, found // len(ones)


def memory_mb() -> dict[str, float]:
    """Resident memory of this process: what is its own, and what it shares with others that map the same files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split(":")[0]: float(line.split()[1]) for line in lines}
    return {"resident": kb["Rss"] / 1024, "own": kb["Anonymous"] / 1024}


def percentiles(seconds: np.ndarray) -> dict[str, float]:
    return {f"p{p}_ms": round(float(np.percentile(seconds, p) * 1e3), 3) for p in (50, 95, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--batch", type=int, default=256, help="requests at once, as in training")
    parser.add_argument("--retriever", type=Path, help="a folder of our own instead of a made-up one")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.retriever or Path("runs/benchmark") / f"retriever-{args.items}"
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"making a retriever of {args.items:,} items in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "benchmarks.synthetic_retriever", folder, "--items", str(args.items)],
                       check=True)  # fmt: skip
    faiss.omp_set_num_threads(1)
    requests = synthetic_requests(max(args.requests, args.batch), args.items)
    before = memory_mb()
    start = time.perf_counter()
    retriever = Retriever.load(folder)
    loaded = time.perf_counter() - start
    first = requests.take(np.array([0]))
    start = time.perf_counter()
    retriever.candidates(first, args.candidates)
    compiled = time.perf_counter() - start
    after = memory_mb()
    times, found = measure(retriever, requests.take(np.arange(args.requests)), args.candidates)
    touched = memory_mb()
    batch = requests.take(np.arange(args.batch))
    start = clock()
    retriever.candidates(batch, args.candidates)
    together = since(start)
    disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    report = {
        "items": args.items, "requests": args.requests, "candidates_before_the_cut": found,
        "load_s": round(loaded, 2), "first_request_s": round(compiled, 2), "disk_mb": round(disk),
        "memory_mb": {"before": before, "loaded": after, "after_requests": touched},
        "batch_ms_a_request": {"wall": together[0] * 1e3 / args.batch, "cpu": together[1] * 1e3 / args.batch},
        "parts": {name: {"wall": percentiles(np.array(t)[:, 0]), "cpu": percentiles(np.array(t)[:, 1])}
                  for name, t in times.items()},
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))
    print(f"{args.items:,} items, {args.requests} requests, {found} candidates before the cut")
    print(f"load {loaded:.2f} s, first request {compiled:.2f} s, {disk:,.0f} MB on disk")
    million = args.items / 1e6
    for name, mb in report["memory_mb"].items():
        print(f"memory {name}: {mb['resident']:,.0f} MB resident, of it {mb['own']:,.0f} MB its own")
    print(f"a million items: {(touched['own'] - before['own']) / million:,.0f} MB of its own, "
          f"{(touched['resident'] - before['resident']) / million:,.0f} MB resident")  # fmt: skip
    print(f"batch of {args.batch}: {together[1] * 1e3 / args.batch:.2f} ms CPU a request")
    print(f"{'':22s}{'wall':>9s}{'':18s}{'CPU':>9s}\n{'milliseconds':22s}" + "      p50      p95      p99" * 2)
    for name, part in report["parts"].items():
        values = [part[kind][f"p{p}_ms"] for kind in ("wall", "cpu") for p in (50, 95, 99)]
        print(f"{name:22s}" + "".join(f"{value:9.3f}" for value in values))


if __name__ == "__main__":
    main()
