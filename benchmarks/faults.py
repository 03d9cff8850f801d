"""Break the servers one way after another while people keep asking, and count what they saw of it.

    make faults        (python -m benchmarks.faults [--bundle DIR] [--only NAME ...] [--out FILE.json])

Promised: no failed request, no empty list, no unsafe item, whatever breaks; and the full rung again soon after.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson
import psutil

from benchmarks.load import Answer, Verdict, body_of, steady
from benchmarks.serving import bundle_of, people_of
from longtail.engine.parts import Bundle
from serving.collector.local import LocalCollector
from serving.local import LocalServing
from serving.process import LOOPBACK, free_port, spawn, stop, tail, wait_until

RATE = 20.0
STALL_S = 5.0
CALM_S = 4.0  # so long every list is full before a fault counts as over
PATIENCE_S = 90.0
AGE = 10
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Skipped(Exception):
    """This fault cannot be made on this machine; the message says why."""


@dataclass
class World:
    """The running servers, where requests go, and what the people asking saw since the last fault."""

    serving: LocalServing
    bundle: Path
    scratch: Path
    addresses: list[tuple[str, int]]
    unsafe: frozenset[str]
    users: list[str]
    region: str | None
    verdict: Verdict = field(default_factory=Verdict)
    last_at: float = 0.0
    spare: list[subprocess.Popen] = field(default_factory=list)

    def bodies(self) -> Iterator[bytes]:
        """Requests of changing people, all young and in one region, so that unsafe items can be told."""
        context = {"age": AGE} | ({"region": self.region} if self.region else {})
        for n in range(10**9):
            yield body_of(user_id=self.users[n % len(self.users)], k=10, context=context)

    def hear(self, answer: Answer) -> None:
        self.last_at = max(self.last_at, answer.at)
        self.verdict.hear(answer, self.unsafe)

    def pid(self, name: str) -> int:
        """The process of a server; `stub` is Triton's python backend."""
        if name == "triton":
            return self.serving.triton.process.pid
        if name == "stub":
            children = psutil.Process(self.pid("triton")).children(recursive=True)
            alive = [c for c in children if c.status() != psutil.STATUS_ZOMBIE]
            return next(c.pid for c in alive if "stub" in " ".join(c.cmdline()))
        return self.serving.processes[name].pid

    def recommender(self, environment: dict[str, str] | None = None) -> tuple[str, int]:
        """Start another recommender beside the one that runs; returns its address once it answers."""
        words = [str(w) for w in self.serving.processes["recommender"].args]
        port = free_port()
        words[words.index("--http_port") + 1] = str(port)
        path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
        log = self.scratch / f"recommender-{port}.log"
        process = spawn(words, log, {**threads, **(environment or {})})
        self.spare.append(process)
        if not wait_until(lambda: ready(port), process, PATIENCE_S, 0.2):
            raise RuntimeError(f"the second recommender did not start:\n{tail(log)}")
        return LOOPBACK, port


def ready(port: int) -> bool:
    """Whether the recommender there says so."""
    with contextlib.suppress(OSError):
        url = f"http://{LOOPBACK}:{port}/v2/models/recommender/ready"
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == HTTPStatus.OK
    return False


Fault = Callable[[World], Awaitable[None]]


def kill(name: str) -> Fault:
    async def act(world: World) -> None:
        os.kill(world.pid(name), signal.SIGKILL)

    return act


def stall(name: str) -> Fault:
    async def act(world: World) -> None:
        pid = world.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(STALL_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the supervisor may have put another in its place
                os.kill(pid, signal.SIGCONT)

    return act


async def corrupt_sessions(world: World) -> None:
    """Garbage over the session store while it is open."""
    found = sorted(world.serving.state.rglob("live.db"))
    if not found:
        raise Skipped("these servers keep no session store in a file")
    size = max(found[0].stat().st_size, 4096)
    with found[0].open("r+b") as file:
        file.write(np.random.default_rng(0).bytes(size))


async def remove_registry(world: World) -> None:
    """Feast's registry, away while it serves."""
    found = sorted(world.serving.state.rglob("registry.db"))
    if not found:
        raise RuntimeError("there is no Feast registry to remove")
    for path in found:
        path.unlink()


async def corrupt_bundle(world: World) -> None:
    """A bundle with one altered byte, offered to servers that run."""
    bad = copied(world, "corrupt")
    victim = next((bad / "ranker").rglob("*.ubj"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content)
    world.serving.offer(bad)
    await asyncio.sleep(8)
    world.serving.offer(world.bundle)


async def swap_bundle(world: World) -> None:
    """An equal bundle under another version takes over, then the first one again."""
    import json

    other = copied(world, "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["version"] += "b"
    (other / "manifest.json").write_text(json.dumps(manifest))
    world.serving.offer(other)
    await asyncio.sleep(12)
    world.serving.offer(world.bundle)
    await asyncio.sleep(8)


async def full_disk(world: World) -> None:
    """No room left where impressions are logged: a tiny file system is mounted over the folder."""
    folder = world.serving.state / "impressions"
    if os.geteuid() != 0:
        raise Skipped("mounting a tiny disk needs root")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise Skipped("a tiny disk cannot be mounted here")
    try:
        (folder / "filler").write_bytes(b"\0" * 60_000)
        await asyncio.sleep(8)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


async def clock_jump(world: World) -> None:
    """A recommender whose clock leaps a day ahead and then two back."""
    if not FAKETIME.is_file():
        raise Skipped("libfaketime is not installed (Debian: apt install faketime)")
    control = world.scratch / "clock"
    control.write_text("+0")
    environment = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(control), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    address = await asyncio.to_thread(world.recommender, environment)
    before, world.addresses[:] = list(world.addresses), [address]
    world.verdict = Verdict()
    for leap in ("+1d", "-1d", "+0"):
        control.write_text(leap)
        await asyncio.sleep(3)
    world.addresses[:] = before


async def kill_replica(world: World) -> None:
    """kill -9 of one of two recommenders; a balancer tries the other one until it is back."""
    address = await asyncio.to_thread(world.recommender)
    world.addresses.append(address)
    await asyncio.sleep(2)
    world.verdict = Verdict()
    os.kill(world.pid("recommender"), signal.SIGKILL)
    await asyncio.sleep(1)  # the supervisor has not looked yet, or it is starting one
    back = partial(ready, world.serving.http_port)
    if not await asyncio.to_thread(wait_until, back, world.spare[-1], PATIENCE_S, 0.2):
        raise RuntimeError(f"the recommender was not started again:\n{tail(world.serving.log('recommender'))}")
    world.addresses.pop()


def copied(world: World, name: str) -> Path:
    """A copy of the bundle; large files are shared by hard links but for what a fault alters."""
    target = world.scratch / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(world.bundle, target, copy_function=os.link if _same_disk(world) else shutil.copy2)
    for path in [*target.glob("manifest.json"), *(target / "ranker").rglob("*.ubj")]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return target


def _same_disk(world: World) -> bool:
    return world.bundle.stat().st_dev == world.scratch.stat().st_dev


FAULTS: dict[str, Fault] = {
    "kill Triton": kill("triton"),
    "kill its stub": kill("stub"),
    "kill the retriever": kill("retriever"),
    "stall Triton 5 s": stall("triton"),
    "stall its stub 5 s": stall("stub"),
    "stall the retriever 5 s": stall("retriever"),
    "corrupt the session store": corrupt_sessions,
    "remove the Feast registry": remove_registry,
    "offer a corrupt bundle": corrupt_bundle,
    "swap the bundle": swap_bundle,
    "full disk for the event log": full_disk,
    "clock jump": clock_jump,
    "kill -9 one of two recommenders": kill_replica,
}
WITH_REDIS = {"stop Redis": "stop", "stall Redis 5 s": "hang"}


def redis_fault(redis: object, how: str) -> Fault:
    async def act(world: World) -> None:
        getattr(redis, how)()
        await asyncio.sleep(STALL_S)
        await asyncio.to_thread(getattr(redis, {"stop": "start", "hang": "wake"}[how]))

    return act


@contextlib.asynccontextmanager
async def world_of(bundle: Path, live: str | None = None) -> AsyncIterator[World]:
    """Servers of a bundle on loopback with steady load on them."""
    opened = Bundle.open(bundle, contents=False)
    regions = sorted(opened.view.region_codes)
    region = regions[0] if regions else None
    code = opened.view.region_code(region)
    view = opened.view
    fits = view.everywhere if code < 0 else view.everywhere | ((view.regions[:, code // 64] >> (code % 64)) & 1 == 1)
    safe = view.in_stock & (view.min_age <= AGE) & fits
    unsafe = frozenset(np.asarray(opened.catalogue.item_ids)[~safe].tolist())
    with TemporaryDirectory(prefix="longtail-faults-", dir=bundle.parent) as scratch:
        state = Path(scratch) / "state"
        serving = LocalServing(
            bundle, state, clock="data", impressions=state / "impressions", live=live,
            collector=None if live else LocalCollector(state, state / "key"),
        )  # fmt: skip
        await asyncio.to_thread(serving.start)
        world = World(
            serving, bundle, Path(scratch), [(LOOPBACK, serving.http_port)], unsafe, people_of(bundle, 500, 1), region
        )
        stopped = asyncio.Event()
        load = asyncio.create_task(steady(world.addresses, world.bodies(), RATE, stopped, world.hear))
        try:
            await settled(world)
            yield world
        finally:
            stopped.set()
            await load
            for process in world.spare:
                stop(process)
            await asyncio.to_thread(serving.stop)


async def settled(world: World, since: float = 0.0) -> float | None:
    """Wait until all lists are full for a while; when the last one that was not was asked for, None if never again."""
    deadline = time.perf_counter() + PATIENCE_S
    begin = max(since, time.perf_counter())
    while time.perf_counter() < deadline:
        await asyncio.sleep(0.2)
        quiet_since = max(begin, world.verdict.last_not_full)
        if world.last_at - quiet_since > CALM_S:
            return world.verdict.last_not_full
    return None


async def suffer(world: World, name: str, act: Fault) -> dict[str, object]:
    """One fault from a calm start to a calm end."""
    await settled(world)
    world.verdict = Verdict()
    begin = time.perf_counter()
    try:
        await act(world)
    except Skipped as why:
        return {"fault": name, "skipped": str(why)}
    last = await settled(world)
    verdict = world.verdict
    recovered = None if last is None else round(max(0.0, last - begin), 1)
    return {
        "fault": name, "requests": verdict.answers, "failed": verdict.failed, "empty": verdict.empty,
        "unsafe": verdict.unsafe, "levels": verdict.levels, "recovered_s": recovered, "problems": verdict.problems,
    }  # fmt: skip


async def run(bundle: Path, only: list[str]) -> list[dict[str, object]]:
    """Every fault, or those whose names contain one of `only`."""

    def wanted(name: str) -> bool:
        return not only or any(word.lower() in name.lower() for word in only)

    rows = []
    chosen = {name: act for name, act in FAULTS.items() if wanted(name)}
    if chosen:
        async with world_of(bundle) as world:
            for name, act in chosen.items():
                rows.append(await suffer(world, name, act))
                show(rows[-1])
    chosen_redis = [name for name in WITH_REDIS if wanted(name)]
    if chosen_redis:
        from tests.features.redis_server import RedisServer, why_no_redis

        missing = why_no_redis()
        if missing:
            for name in chosen_redis:
                rows.append({"fault": name, "skipped": f"{missing} (Debian: apt install redis-server)"})
                show(rows[-1])
            return rows
        redis = RedisServer()
        redis.start()
        try:
            async with world_of(bundle, redis.url) as world:
                for name in chosen_redis:
                    rows.append(await suffer(world, name, redis_fault(redis, WITH_REDIS[name])))
                    show(rows[-1])
        finally:
            redis.stop()
    return rows


def show(row: dict[str, object]) -> None:
    """One line a fault."""
    if "skipped" in row:
        print(f"{row['fault']:<34} skipped: {row['skipped']}", flush=True)
        return
    back = "NOT AGAIN" if row["recovered_s"] is None else f"{row['recovered_s']:5.1f} s"
    counts = f"failed {row['failed']}, empty {row['empty']}, unsafe {row['unsafe']} of {row['requests']:>4}"
    print(f"{row['fault']:<34} {counts}; full again after {back}; {row['levels']}", flush=True)
    if row["failed"]:
        print(f"    {row['problems']}", flush=True)


def main() -> None:
    """Exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="bundle to serve; none: a made-up one")
    parser.add_argument("--only", nargs="*", default=[], help="faults whose names contain one of these words")
    parser.add_argument("--items", type=int, default=5_000, help="items of the made-up shop")
    parser.add_argument("--users", type=int, default=2_000, help="people of the made-up shop")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark"), help="where made-up bundles are kept")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    rows = asyncio.run(run(bundle_of(args).resolve(), args.only))
    if args.out:
        args.out.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    broken = [str(r["fault"]) for r in rows if any(r.get(key) for key in ("failed", "empty", "unsafe"))]
    late = [str(r["fault"]) for r in rows if "skipped" not in r and r["recovered_s"] is None]
    if broken or late:
        sys.exit(f"promises broken by: {', '.join(broken) or 'none'}; never full again: {', '.join(late) or 'none'}")
    skipped = [str(r["fault"]) for r in rows if "skipped" in r]
    print(
        "no request failed, no list was empty, no unsafe item was shown"
        + (f"; NOT TRIED: {', '.join(skipped)}" if skipped else "")
    )


if __name__ == "__main__":
    from longtail.cli.terminal import one_line_errors

    with one_line_errors():
        main()
