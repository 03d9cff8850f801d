"""The servers under load, beside the raw compute inside a request, in one run.

    longtail benchmark serving --items 2000000 --candidates 500 [--bundle DIR] [--out figures.json]

One client says how long a request takes, end to end and by stage; several say how many requests the machine answers and
what they cost in CPU seconds; lists that were made before, a moment ago (`cached`) or by a nightly run (`precomputed`),
say what the edge alone costs. The raw compute is what no server can save: user tower, index search, feature gather and
XGBoost's own prediction for the same requests, one after the other. It asks one source; `whole` beside it asks all that
the servers ask, and their blend. Servers and raw compute take turns, so that both meet the same moods of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import psutil
import pyarrow.parquet as pq
import uvloop

from benchmarks.load import Answer, body_of, closed_loop, quantiles
from longtail.engine.lists import StoredList, open_lists
from longtail.errors import InvalidInput, LongtailError
from serving.local import LocalServing

WARM, TURNS = 200, 20  # a turn is shorter than the moods of a machine with neighbours
SURFACES = """
surfaces:
  homepage: {k: 20}
  kept: {k: 20, cache_s: 3600}
  email: {k: 20, made: precomputed}
"""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def people_of(bundle: Path, n: int, seed: int) -> list[str]:
    """`n` ids of people of the bundle."""
    ids = pq.read_table(bundle / "users.parquet", columns=["user_id"])["user_id"]
    chosen = np.random.default_rng(seed).integers(0, len(ids), n)
    return ids.take(chosen).to_pylist()


def processes(serving: LocalServing) -> dict[str, list[psutil.Process]]:
    """Every server with its children (Triton's python backend is a process of its own)."""
    found = {name: process.pid for name, process in serving.processes.items()}
    if serving.triton.process is not None:
        found["triton"] = serving.triton.process.pid
    out = {}
    for name, pid in found.items():
        top = psutil.Process(pid)
        out[name] = [top, *top.children(recursive=True)]
    return out


def cpu_seconds(servers: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """User and system seconds that each server has used so far."""
    return {name: sum(sum(p.cpu_times()[:2]) for p in group) for name, group in servers.items()}


def memory(servers: dict[str, list[psutil.Process]]) -> dict[str, dict[str, float]]:
    """Megabytes of each server: what is its own, and its share of the mapped files that it has touched.

    The second is page cache: the kernel takes it back when somebody needs the memory.
    """
    out = {}
    for name, group in servers.items():
        kb: Counter[str] = Counter()
        for process in group:
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
                key, value = line.split(":")
                kb[key] += int(value.split()[0])
        out[name] = {"own": round(kb["Pss_Anon"] / 1024, 1), "mapped": round((kb["Pss"] - kb["Pss_Anon"]) / 1024, 1)}
    return out


def checked(answers: Sequence[Answer]) -> dict[str, int]:
    """How many lists came on each rung, with the causes of those that are not full.

    Raises:
        LongtailError: an answer failed or was empty: its time would mean nothing.
    """
    levels: dict[str, int] = {}
    for answer in answers:
        if answer.status != 200:
            raise LongtailError(f"a request failed: {answer.status} {answer.problem or answer.body[:200]!r}")
        found = answer.prediction()
        if not found["items"]:
            raise LongtailError(f"an empty list was served: {found}")
        name = " ".join([found["level"], found["made"], *filter(None, [found.get("cause")])])
        levels[name] = levels.get(name, 0) + 1
    return levels


async def one_client(
    address: tuple[str, int], users: Sequence[str], k: int, others: Sequence[str], raw: Raw
) -> dict[str, Any]:
    """Times end to end without a trace, by stage with it, and the raw compute, in turns.

    `others` ask before, so that files are in memory.
    """
    await closed_loop([address], [body_of(user_id=user, k=k) for user in others], 1)
    raw(others)
    raw.forget()
    plain, traced = [], []
    for part in np.array_split(np.array(users), TURNS):
        plain += await closed_loop([address], [body_of(user_id=user, k=k) for user in part.tolist()], 1)
        raw(part.tolist())
        traced += await closed_loop([address], [body_of(user_id=u, k=k, trace=True) for u in part.tolist()], 1)
    stages: dict[str, list[float]] = {}
    proposed = []
    for answer in traced:
        found = answer.prediction()
        proposed.append(found["trace"]["candidates"])
        for stage, ms in found["timings_ms"].items():
            stages.setdefault(stage, []).append(ms)
    return {
        "candidates": round(float(np.mean(proposed)), 1), "levels": checked(plain),
        "end_to_end": quantiles([a.ms for a in plain]), "stages": {n: quantiles(v) for n, v in stages.items()},
        "raw": raw.report(),
    }  # fmt: skip


async def many_clients(
    serving: LocalServing, users: Sequence[str], k: int, clients: int, seconds: float, surface: str = "homepage"
) -> dict[str, Any]:
    """Requests a second, times and CPU seconds for each 1,000 requests, with `clients` that never pause."""
    bodies = [body_of(user_id=user, k=k, surface=surface) for user in users]
    address = ("127.0.0.1", serving.http_port)
    await closed_loop([address], bodies[:WARM], clients)
    servers = processes(serving)
    before, begin = cpu_seconds(servers), time.perf_counter()
    answers = await closed_loop([address], (bodies[n % len(bodies)] for n in range(10**9)), clients, seconds)
    took = time.perf_counter() - begin
    used = {name: after - before[name] for name, after in cpu_seconds(servers).items()}
    per_thousand = {name: round(s / len(answers) * 1e3, 2) for name, s in used.items()}
    return {
        "clients": clients, "requests": len(answers), "per_second": round(len(answers) / took, 1),
        **quantiles([a.ms for a in answers]), "levels": checked(answers),
        "cpu_s_per_1000": {"all": round(sum(per_thousand.values()), 2), **per_thousand},
    }  # fmt: skip


async def fill(url: str, bundle: Path, users: Sequence[str], answers: Sequence[Answer]) -> None:
    """Store answered lists as `longtail precompute` does, for the surface `email`."""
    from longtail.engine.parts import Bundle

    store, codes = open_lists(url), Bundle.open(bundle, contents=False).codes
    entries = []
    for user, found in zip(users, (a.prediction() for a in answers), strict=True):
        ids, *columns = [[item[name] for item in found["items"]] for name in ("item_id", "score", "source")]
        made = StoredList(ids, *columns, found["model_version"], time.time_ns() // 1000, codes.find(ids).tolist())
        entries.append((user, "email", made))
    await store.put(entries)


class Raw:
    """The compute inside requests of people, one at a time in this process.

    `whole` is the same with all sources and their blend in the place of tower and index.
    """

    def __init__(self, folder: Path, candidates: int) -> None:
        import xgboost as xgb

        from longtail.engine.baked import BakedPeople
        from longtail.engine.parts import Bundle
        from longtail.retrieval import Retriever

        self._bundle, self._people = Bundle.open(folder, contents=False), BakedPeople.open(folder)
        self._candidates = candidates
        self._retriever = Retriever.load(folder / "retrieval")
        self._tower = next(s for s in self._retriever.sources if s.name == "two_tower")
        self._booster = xgb.Booster(model_file=folder / "ranker" / self._bundle.ranker / "1" / "xgboost.ubj")
        self._booster.set_param({"nthread": 1})
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._parts: dict[str, list[float]] = {"tower": [], "index": [], "features": [], "xgboost": []}
        self._whole: list[float] = []

    def __call__(self, users: Sequence[str]) -> None:
        """Take the times of these people's requests."""
        from longtail.engine.people import unknown_features
        from longtail.events import Requests
        from longtail.features.request import Pairs, assemble

        user, categories = unknown_features(1)
        for row in self._people.ids.find(users):
            one = np.array([row])
            history, segment = self._people.histories(one), self._people.segment_of(one)
            request = Requests(np.array([self._bundle.as_of]), np.array([-1], np.int32), segment, history)
            begin = time.perf_counter()
            found = self._retriever.candidates(request, self._candidates)
            proposed = time.perf_counter() - begin
            pairs = Pairs(found.rows, found.items, found.scores, found.ranks)
            marks = [time.perf_counter()]
            vector = self._tower.user_vectors(request)
            marks.append(time.perf_counter())
            self._tower.index.search(vector, self._candidates)
            marks.append(time.perf_counter())
            features = assemble(request, user, categories, self._bundle.items, pairs)
            marks.append(time.perf_counter())
            self._booster.inplace_predict(features)
            marks.append(time.perf_counter())
            for name, start, stop in zip(self._parts, marks[:-1], marks[1:], strict=True):
                self._parts[name].append((stop - start) * 1e3)
            self._whole.append((proposed + marks[-1] - marks[2]) * 1e3)

    def report(self) -> dict[str, Any]:
        """Milliseconds by part and added up."""
        total = np.sum(list(self._parts.values()), axis=0)
        each = {name: quantiles(ms) for name, ms in self._parts.items()}
        return {**quantiles(total), "parts": each, "whole": quantiles(self._whole)}


def measure(args: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Every part of the benchmark on one bundle."""
    users = people_of(bundle, args.requests, 0)
    with TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        state = Path(scratch)
        surfaces = state / "surfaces.yaml"
        surfaces.write_text(SURFACES)
        begin = time.perf_counter()
        lists = f"sqlite:///{state}/lists.db"
        extra = ["--candidates", str(args.candidates), "--surfaces", str(surfaces), "--lists", lists]
        with LocalServing(bundle, state, clock="data", impressions=state / "impressions", extra=extra) as serving:
            started = time.perf_counter() - begin
            say(f"servers answer after {started:.1f} s")
            address = ("127.0.0.1", serving.http_port)
            report: dict[str, Any] = {"start_s": round(started, 1)}
            others = people_of(bundle, args.requests, 1)
            raw = Raw(bundle, args.candidates)
            report |= uvloop.run(one_client(address, users, args.k, others, raw))
            del raw  # of pages that it maps, too, the servers would be charged a part only
            say(f"one client: {report['end_to_end']}")
            report["load"] = asyncio.run(many_clients(serving, users, args.k, args.clients, args.seconds))
            say(f"{args.clients} clients: {report['load']['per_second']} requests/s")
            few = list(dict.fromkeys(users))[:500]
            filled = asyncio.run(closed_loop([address], [body_of(user_id=u, k=args.k, surface="kept") for u in few], 1))
            asyncio.run(fill(lists, bundle, few, filled))
            for name, surface in (("cached", "kept"), ("precomputed", "email")):
                for key, clients in ((name, 1), (f"{name}_load", 8)):
                    asked = many_clients(serving, few, args.k, clients, args.seconds / 4, surface)
                    report[key] = asyncio.run(asked)
            report["memory_mb"] = memory(processes(serving))
    p95 = report["end_to_end"]["p95_ms"]
    report["ratio_p95"] = round(p95 / report["raw"]["p95_ms"], 2)
    report["ratio_whole_p95"] = round(p95 / report["raw"]["whole"]["p95_ms"], 2)
    return report


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    rows: list[tuple[str, dict[str, float]]] = [("end to end", report["end_to_end"])]
    rows += [(f"  {name}", values) for name, values in report["stages"].items()]
    rows += [("raw compute", report["raw"])] + [(f"  {n}", v) for n, v in report["raw"]["parts"].items()]
    rows.append(("raw, all sources", report["raw"]["whole"]))
    names = {"load": f"{report['load']['clients']} clients"}
    for name in ("cached", "precomputed"):
        names |= {name: f"{name}, 1 client", f"{name}_load": f"{name}, 8"}
    rows += [(name, report[key]) for key, name in names.items()]
    lines = [f"{report['items']:,} items, {report['candidates']} candidates, levels {report['levels']}"]
    lines += [f"{'milliseconds':<24}{'p50':>9}{'p95':>9}{'p99':>9}"]
    lines += [f"{name:<24}" + "".join(f"{v[f'p{q}_ms']:9.2f}" for q in (50, 95, 99)) for name, v in rows]
    lines += [f"p95 end to end over raw compute: {report['ratio_p95']}, of all sources: {report['ratio_whole_p95']}"]
    for key, name in names.items():
        found = report[key]
        lines.append(f"{name}: {found['per_second']} requests/s, {found['cpu_s_per_1000']} CPU s for 1,000 requests, "
                     f"{found['levels']}")  # fmt: skip
    for kind in ("own", "mapped"):
        each = {name: found[kind] for name, found in report["memory_mb"].items()}
        million = sum(each.values()) / report["items"] * 1e6
        lines.append(f"memory, {kind}: {each} MB, {million:,.0f} MB a million items")
    lines += [f"start-up {report['start_s']} s"]
    return "\n".join(lines)


def bundle_of(args: argparse.Namespace) -> Path:
    """The bundle to measure: the one that was named, or a made-up one, which is kept for the next run."""
    if args.bundle:
        return args.bundle
    from benchmarks.synthetic import synthetic_bundle

    folder = args.folder / f"bundle-{args.items}-{args.users}"
    if not (folder / "manifest.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        say(f"making a bundle of {args.items:,} items in {folder}")
        begin = time.perf_counter()
        synthetic_bundle(folder, args.items, args.users, seed=0)
        say(f"made in {time.perf_counter() - begin:.0f} s")
    return folder


def main(given: list[str] | None = None) -> None:
    """Print the table; write the figures."""
    parser = argparse.ArgumentParser(prog="longtail benchmark serving", description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2_000_000, help="items of the made-up shop")
    parser.add_argument("--users", type=int, default=100_000, help="people of the made-up shop")
    parser.add_argument("--bundle", type=Path, help="measure this bundle instead of a made-up one")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark"), help="where made-up bundles are kept")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--k", type=int, default=20, help="places of a list")
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the run with several clients")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(given)
    if args.items < 100 or args.users < 1:
        raise InvalidInput("a made-up shop needs at least 100 items and one person")
    bundle = bundle_of(args)
    report = measure(args, bundle)
    report["items"] = pq.read_metadata(bundle / "catalogue" / "items.parquet").num_rows
    print(table(report))
    if args.out:
        args.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    from longtail.cli.terminal import one_line_errors

    with one_line_errors():
        main()
