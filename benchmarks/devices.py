"""The two-tower and its index on a CPU and on a GPU: the same training, the same search, in one run.

    python -m benchmarks.devices [--items 30000] [--users 10000] [--index-items 2000000] [--out FILE.json]

Training is on a made-up shop (`benchmarks/synthetic.py`). `batches alone` is what the same epoch takes without any
learning: batches are made by the CPU whatever the device, so that is what a GPU can at best come near. The index is
built over the vectors of such a shop, loaded as serving loads it, and asked for 500 items of one query, as serving
does, and of 256 at once; `exact` is a matrix product over all items and a top-k on the same device.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.synthetic import made_up_catalogue, made_up_log
from benchmarks.synthetic_retriever import SEGMENTS, Shop, clustered_vectors, mixed_queries, synthetic_requests
from longtail.events import Catalogue, Log
from longtail.retrieval.index import VectorIndex, gpus, recall
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.retrieval.two_tower_training import Trainer, repeatable

K = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=30_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-targets", type=int, default=TwoTowerConfig.batch_targets)
    parser.add_argument("--index-items", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    log, catalogue, segment = made_up_shop(args.items, args.users)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(f"CPU threads {torch.get_num_threads()}, GPU {name}, FAISS sees {gpus()}; {len(log):,} events, "
          f"{args.items:,} items", flush=True)  # fmt: skip
    config = TwoTowerConfig(epochs=args.epochs, patience=args.epochs, batch_targets=args.batch_targets)
    kinds = [("cpu", True), ("cpu", False)] + [("cuda", True), ("cuda", False)] * torch.cuda.is_available()
    rows: dict[str, dict] = {"training": {}, "index": {}}
    say("device", "numbers", "s an epoch", "batches alone, s", "ratio", "validation", "GPU, MB")
    say(*["---"] * 7)
    for device, half in kinds:
        row = train(log, catalogue, segment, replace(config, device=device, mixed_precision=half))
        numbers = "half" if half else "whole"
        rows["training"][f"{device} {numbers}"] = row
        say(device, numbers, f"{row['epoch_s']:.2f}", f"{row['batches_s']:.2f}",
            f"{row['epoch_s'] / row['batches_s']:.1f}", f"{row['validation']:.4f}", f"{row['gpu_mb']:.0f}")  # fmt: skip
    say("device", "load, s", "recall@100", "one query, ms", "256, ms", "exact: one, ms", "exact: 256, ms")
    say(*["---"] * 7)
    shop, rng = Shop.make(args.index_items, 0), np.random.default_rng(1)
    vectors = clustered_vectors(shop, config.dim, rng)
    queries = mixed_queries(vectors, shop, rng)
    with tempfile.TemporaryDirectory() as folder:
        VectorIndex.build(vectors, queries, gpu=False).save(Path(folder))
        for device in ["cpu"] + ["cuda"] * (gpus() > 0):
            row = search(Path(folder), vectors, queries, device)
            rows["index"][device] = row
            times = (f"{row[name]:.3f}" for name in ("one_ms", "many_ms", "exact_one_ms", "exact_many_ms"))
            say(device, f"{row['load_s']:.2f}", f"{row['recall']:.3f}", *times)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


def say(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def made_up_shop(items: int, users: int) -> tuple[Log, Catalogue, np.ndarray]:
    requests = synthetic_requests(users, items)
    rng = np.random.default_rng(10)
    catalogue = made_up_catalogue(Shop.make(items, 0), rng)
    return made_up_log(requests, catalogue, rng), catalogue, requests.segment


def train(log: Log, catalogue: Catalogue, segment: np.ndarray, config: TwoTowerConfig) -> dict[str, float]:
    """The second epoch and those after it: the first one warms up."""
    if config.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(log, catalogue, segment, config, Path(folder), 0, [str(n) for n in range(SEGMENTS)])
        seconds = []
        for _ in range(config.epochs):
            begin = time.perf_counter()
            with repeatable(trainer.device):
                trainer._epoch()
            seconds.append(time.perf_counter() - begin)
            trainer.run.epoch += 1
        begin = time.perf_counter()
        for batch in trainer.sequences.epoch(0):
            trainer._negatives(batch)
        alone = time.perf_counter() - begin
        memory = torch.cuda.max_memory_allocated() / 2**20 if config.device == "cuda" else 0.0
        return {"epoch_s": float(np.mean(seconds[1:])), "batches_s": alone, "validation": trainer.validate(),
                "gpu_mb": memory, "targets": len(log)}  # fmt: skip


def search(folder: Path, vectors: np.ndarray, queries: np.ndarray, device: str) -> dict[str, float]:
    begin = time.perf_counter()
    index = VectorIndex.load(folder, vectors, gpu=device == "cuda")
    seconds = time.perf_counter() - begin
    table, asked = torch.as_tensor(vectors, device=device), torch.as_tensor(queries, device=device)

    def exact(rows: torch.Tensor) -> np.ndarray:
        return torch.topk(rows @ table.T, min(K, len(vectors)), dim=1).indices.cpu().numpy()

    found, truth = index.search(queries[:200], 100)[0], exact(asked[:200])[:, :100]
    return {
        "load_s": seconds,
        "recall": recall(found, truth),
        "one_ms": milliseconds(lambda n: index.search(queries[n : n + 1], K), 200),
        "many_ms": milliseconds(lambda n: index.search(queries[:256], K), 10),
        "exact_one_ms": milliseconds(lambda n: exact(asked[n : n + 1]), 50),
        "exact_many_ms": milliseconds(lambda n: exact(asked[:256]), 5),
    }


def milliseconds(ask: Callable[[int], object], times: int) -> float:
    for n in range(3):
        ask(n)
    spent = []
    for n in range(times):
        begin = time.perf_counter()
        ask(n)
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent)) * 1e3


if __name__ == "__main__":
    main()
