"""Latency of one request by stage, beside the raw compute inside it, measured in the same run.

    python benchmarks/latency.py BUNDLE [--requests 500] [--candidates 500] [--out FILE.json]

Servers run as `longtail serve` runs them; one client asks for one list at a time. `raw` is what no server can avoid:
the sources' own work (with the vector index, where the bundle has one, shown alone), assembling the features, and
XGBoost's `inplace_predict` of the served rows, called in this process between requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq

from serving.lean import keep_out

keep_out()

from longtail.engine.bundle import ranker_name  # noqa: E402
from longtail.engine.impressions import Impression, read_impressions  # noqa: E402
from longtail.engine.parts import Bundle  # noqa: E402
from longtail.events import Histories, Requests  # noqa: E402
from longtail.retrieval import Retriever  # noqa: E402
from serving.local import LocalServing  # noqa: E402


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}_ms": round(float(np.percentile(values, p)), 2) for p in (50, 95, 99)}


def ask(connection: http.client.HTTPConnection, user_id: str, k: int) -> tuple[float, dict]:
    body = json.dumps({"instances": [{"user_id": user_id, "k": k, "trace": True}]})
    start = time.perf_counter()
    connection.request("POST", "/v1/models/recommender:predict", body, {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())["predictions"][0]
    return (time.perf_counter() - start) * 1e3, answer


def as_requests(rows: list[Impression]) -> list[Requests]:
    """The requests that were served, from the impression log."""
    out = []
    for row in rows:
        n = len(row.history_item)
        ones = np.ones(n, np.float32)
        history = Histories(
            np.array([0, n]), np.array(row.history_item, np.int32), np.array(row.history_time, np.int64),
            np.ones(n, np.int8), ones, ones, np.zeros(n, np.int32),
        )  # fmt: skip
        segment = np.array([row.segment], np.int32)
        out.append(Requests(np.array([row.time]), np.array([-1], np.int32), segment, history))
    return out


def raw(bundle: Path, served: list[tuple[Impression, np.ndarray]], candidates: int) -> dict[str, list[float]]:
    """Milliseconds of the unavoidable parts, per request."""
    import xgboost

    retriever = Retriever.load(bundle / "retrieval")
    booster = xgboost.Booster(model_file=bundle / "ranker" / ranker_name(bundle) / "1" / "xgboost.ubj")
    booster.set_param({"nthread": 1})
    tower = next((s for s in retriever.sources if s.kind == "vectors"), None)
    out: dict[str, list[float]] = {"retrieval": [], "xgboost": []} | ({"vector_index": []} if tower else {})
    for request, (_, features) in zip(as_requests([row for row, _ in served]), served, strict=True):
        start = time.perf_counter()
        retriever.candidates(request, candidates)
        middle = time.perf_counter()
        booster.inplace_predict(features)
        out["retrieval"].append((middle - start) * 1e3)
        out["xgboost"].append((time.perf_counter() - middle) * 1e3)
        if tower:
            start = time.perf_counter()
            tower.retrieve(request, retriever.depth)
            out["vector_index"].append((time.perf_counter() - start) * 1e3)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    users = pq.read_table(args.bundle / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
    users = [str(u) for u in np.random.default_rng(0).choice(users, args.requests)]
    stages: dict[str, list[float]] = {}
    total, levels = [], set()
    with TemporaryDirectory() as state:
        log = Path(state) / "impressions"
        extra = ["--candidates", str(args.candidates), "--impression_features", "candidates"]
        begin = time.perf_counter()
        with LocalServing(args.bundle, Path(state), clock="data", impressions=log, extra=extra) as serving:
            started = time.perf_counter() - begin
            connection = http.client.HTTPConnection("127.0.0.1", serving.http_port)
            for user in users[:20]:
                ask(connection, user, args.k)
            for user in users:
                ms, answer = ask(connection, user, args.k)
                total.append(ms)
                levels.add(answer["level"])
                for name, value in answer["timings_ms"].items():
                    stages.setdefault(name, []).append(value)
        served = [(row, features) for row, features in read_impressions(log) if len(features)][-len(users) :]
    bare = raw(args.bundle, served, args.candidates)
    catalogue = len(Bundle.open(args.bundle, contents=False).catalogue)
    report = {
        "items": catalogue, "requests": len(users), "levels": sorted(levels), "start_s": round(started, 1),
        "candidates": round(float(np.mean([len(f) for _, f in served])), 1),
        "end_to_end": percentiles(total), "stages": {n: percentiles(v) for n, v in stages.items()},
        "raw": {n: percentiles(v) for n, v in bare.items()},
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))
    print(f"{catalogue} items, {report['candidates']} candidates, {len(users)} requests, levels {report['levels']}")
    table = {"end to end": report["end_to_end"]} | report["stages"] | {f"raw {n}": v for n, v in report["raw"].items()}
    for name, values in table.items():
        print(f"{name:20s}" + "".join(f"{key[:-3]:>6s} {value:8.2f} ms" for key, value in values.items()))


if __name__ == "__main__":
    main()
