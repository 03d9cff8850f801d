"""What a GPU computes must be what a CPU would have: the two-tower, its checkpoint, and the index."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.retrieval.index import VectorIndex, gpus, recall
from longtail.retrieval.two_tower import TwoTower, TwoTowerConfig
from tests.retrieval.test_two_tower import ITEMS, QUICK, SHORT, cyclic_log, killed, requests, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use; none was found"),
]
faiss_gpu = pytest.mark.skipif(not gpus(), reason="needs faiss-gpu in the place of faiss-cpu, and a GPU")
SAMPLED = replace(QUICK, full_softmax_items=1, in_batch_negatives=64, uniform_negatives=16)


@pytest.mark.parametrize("config", [QUICK, replace(QUICK, mixed_precision=False), SAMPLED],
                         ids=["half", "whole", "sampled"])  # fmt: skip
def test_a_tower_trained_on_a_gpu_is_as_good_and_serves_without_one(config: TwoTowerConfig, tmp_path: Path) -> None:
    on_cpu = train(tmp_path / "cpu", replace(config, device="cpu"))
    on_gpu = train(tmp_path / "gpu", replace(config, device="cuda"))
    assert on_gpu["device"] == "cuda" and on_cpu["device"] == "cpu"
    assert on_gpu["validation_ndcg"] == pytest.approx(on_cpu["validation_ndcg"], abs=0.05)
    asked = requests(cyclic_log(seed=5), np.arange(100))
    newest = asked.history.item[asked.history.indptr[1:] - 1]
    ids, _ = TwoTower.load(tmp_path / "gpu").retrieve(asked, 1)
    assert np.mean(ids[:, 0] == (newest + 1) % ITEMS) > 0.95


def vectors(folder: Path) -> np.ndarray:
    return np.load(folder / "item_vectors.npy")


@pytest.mark.parametrize("config", [SHORT, replace(SAMPLED, epochs=5)], ids=["full", "sampled"])
def test_the_same_seed_trains_the_same_tower(config: TwoTowerConfig, tmp_path: Path) -> None:
    log = cyclic_log(users=20_000)
    for name in ("one", "two"):
        train(tmp_path / name, replace(config, device="cuda", batch_targets=20_000), log)
    np.testing.assert_array_equal(vectors(tmp_path / "one"), vectors(tmp_path / "two"))


def test_a_killed_training_goes_on_to_the_same_tower(tmp_path: Path) -> None:
    killed(tmp_path / "killed", replace(SHORT, device="cuda"))
    train(tmp_path / "killed", replace(SHORT, device="cuda"))
    train(tmp_path / "whole", replace(SHORT, device="cuda"))
    np.testing.assert_array_equal(vectors(tmp_path / "killed"), vectors(tmp_path / "whole"))


@faiss_gpu
def test_a_gpu_finds_at_least_what_the_same_index_finds_without_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items, queries = rng.normal(size=(40_000, 32)).astype(np.float32), rng.normal(size=(64, 32)).astype(np.float32)
    truth = np.argsort(-(queries @ items.T), axis=1)[:, :100]
    built = VectorIndex.build(items, queries, kind="ivf")
    assert built.figures.kind == "ivf" and built.figures.device == "gpu"
    built.save(tmp_path)
    without = VectorIndex.load(tmp_path, items, gpu=False)
    assert without.figures.device == "cpu"
    for index in (built, VectorIndex.load(tmp_path, items)):
        ids, scores = index.search(queries, 100)
        assert recall(ids, truth) >= recall(without.search(queries, 100)[0], truth) - 0.001
        np.testing.assert_allclose(scores, np.take_along_axis(queries @ items.T, ids, 1), rtol=1e-4, atol=1e-4)
        one_by_one = np.concatenate([index.search(queries[b : b + 1], 100)[0] for b in range(len(queries))])
        np.testing.assert_array_equal(one_by_one, ids)


@faiss_gpu
def test_a_gpu_gives_its_most_and_answers_several_threads() -> None:
    rng = np.random.default_rng(0)
    items, queries = rng.normal(size=(6_000, 64)).astype(np.float32), rng.normal(size=(40, 64)).astype(np.float32)
    index = VectorIndex.build(items, queries, kind="ivf")
    ids, _ = index.search(queries[:1], 5_000)
    assert (ids[0, :1_500] >= 0).all() and (ids[0, 2_048:] == -1).all()
    expected = [index.search(query[None], 50)[0] for query in queries]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: index.search(queries[n % 40][None], 50)[0], range(400)))
    for n, ids in enumerate(found):
        np.testing.assert_array_equal(ids, expected[n % 40])


@faiss_gpu
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_other_kinds_stay_where_they_are(kind: str) -> None:
    items = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    assert VectorIndex.build(items, kind=kind).figures.device == "cpu"
