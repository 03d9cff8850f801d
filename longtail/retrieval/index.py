"""FAISS index over item vectors: its kind and parameters follow the catalogue, its recall is measured before use."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from longtail.errors import InvalidBundle, InvalidInput

FLAT_UP_TO = 100_000
MIN_RECALL = 0.95
TUNED_RECALL = 0.98
_RECALL_AT = 100
_FAISS_FILE, _META_FILE = "index.faiss", "index.json"


@dataclass(frozen=True)
class IndexFigures:
    """What was built: `effort` is efSearch of HNSW or nprobe of IVF (0 for flat); recall@100 is against brute force."""

    kind: str
    items: int
    dim: int
    effort: int
    recall_at_100: float
    sample_queries: int
    build_seconds: float
    device: str


class VectorIndex:
    """Nearest items by inner product. Build or load it, then `search`."""

    def __init__(self, index: faiss.Index, figures: IndexFigures) -> None:
        self._index = index
        self.figures = figures

    @staticmethod
    def build(
        vectors: np.ndarray,
        queries: np.ndarray | None = None,
        kind: str = "auto",
        gpu: bool = True,
        seed: int = 0,
        min_recall: float = MIN_RECALL,
        max_effort: int | None = None,
    ) -> VectorIndex:
        """Index item vectors float32 [I, d] and measure recall@100.

        `queries` float32 [Q, d] are what the index will be asked (item vectors with noise stand in for them); `kind` is
        `flat`, `hnsw`, `ivf` or `auto`. efSearch or nprobe doubles until recall reaches 0.98 or `max_effort`.

        Raises:
            InvalidInput: bad vectors, an unknown kind, or recall@100 below `min_recall`.
        """
        started = time.perf_counter()
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InvalidInput("item vectors must be a finite float32 [items, dim] matrix: retrain the two-tower")
        kind = choose_kind(len(vectors)) if kind == "auto" else kind
        index = _empty_index(kind, *vectors.shape)
        if len(vectors):
            index.train(vectors)
            # Insertion order decides the graph: one thread keeps an HNSW the same from build to build.
            with _threads(1 if kind == "hnsw" else None):
                index.add(vectors)
        on_gpu = gpu and kind != "hnsw" and gpus() > 0
        if on_gpu:
            index = faiss.index_cpu_to_all_gpus(index)
        sample = _sample_queries(vectors, queries, seed)
        recall, effort = _tune(index, kind, vectors, sample, max_effort)
        if recall < min_recall:
            raise InvalidInput(
                f"recall@100 of the {kind} index is {recall:.3f}, below {min_recall}: raise the search effort "
                f"(now {effort}) or build it with kind='flat'"
            )
        n, dim = vectors.shape
        seconds = time.perf_counter() - started
        device = "gpu" if on_gpu else "cpu"
        figures = IndexFigures(kind, n, dim, effort, recall, len(sample), seconds, device)
        return VectorIndex(index, figures)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best items of queries float32 [B, d]: (int64 [B, k] padded with -1, float32 [B, k] padded with -inf).

        Best first; ties within the k found go to the smaller item.
        """
        n, take = len(queries), min(k, self.figures.items)
        ids = np.full((n, k), -1, np.int64)
        scores = np.full((n, k), -np.inf, np.float32)
        if not n or not take:
            return ids, scores
        found, at = self._index.search(np.ascontiguousarray(queries, np.float32), take)
        found = np.where(at < 0, -np.inf, found).astype(np.float32)
        order = np.lexsort((at, -found))
        ids[:, :take] = np.take_along_axis(at, order, 1)
        scores[:, :take] = np.take_along_axis(found, order, 1)
        return ids, scores

    def save(self, folder: Path) -> None:
        """Write index.faiss and index.json into an existing folder."""
        index = self._index if self.figures.device == "cpu" else faiss.index_gpu_to_cpu(self._index)
        faiss.write_index(index, str(folder / f"{_FAISS_FILE}.part"))
        os.replace(folder / f"{_FAISS_FILE}.part", folder / _FAISS_FILE)
        part = folder / f"{_META_FILE}.part"
        part.write_text(json.dumps(asdict(self.figures), indent=1))
        os.replace(part, folder / _META_FILE)

    @staticmethod
    def load(folder: Path, mmap: bool = True, gpu: bool = False) -> VectorIndex:
        """Read an index, memory-mapped where its kind allows (all that FAISS can map), or moved to the GPUs.

        Raises:
            InvalidBundle: a file is absent or the two disagree.
        """
        folder = Path(folder)
        for name in (_FAISS_FILE, _META_FILE):
            if not (folder / name).is_file():
                raise InvalidBundle(f"{folder} has no {name}: build the index again")
        figures = IndexFigures(**json.loads((folder / _META_FILE).read_text()))
        on_gpu = gpu and figures.kind != "hnsw" and gpus() > 0
        flags = faiss.IO_FLAG_MMAP if mmap and not on_gpu else 0
        index = faiss.read_index(str(folder / _FAISS_FILE), flags)
        if (index.ntotal, index.d) != (figures.items, figures.dim):
            raise InvalidBundle(f"{folder}: index.faiss and index.json are not of one build: build the index again")
        if on_gpu:
            index = faiss.index_cpu_to_all_gpus(index)
        _set_effort(index, figures.kind, figures.effort)
        return VectorIndex(index, replace(figures, device="gpu" if on_gpu else "cpu"))


def choose_kind(n_items: int) -> str:
    """`flat` while brute force takes less than a millisecond, inverted lists above.

    `hnsw` is there by name: as good, but several times slower to build, not mapped as a whole, and not for a GPU.
    """
    return "flat" if n_items <= FLAT_UP_TO else "ivf"


def gpus() -> int:
    """GPUs that the installed FAISS can use; 0 for faiss-cpu."""
    return int(getattr(faiss, "get_num_gpus", lambda: 0)())


def _empty_index(kind: str, n: int, dim: int) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        return index
    if kind == "ivf":
        lists = int(max(1, min(4 * np.sqrt(n), n / 39)))  # k-means wants 39 points a centroid
        index = faiss.index_factory(dim, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 1234
        return index
    raise InvalidInput(f"index kind {kind!r} is not one of flat, hnsw, ivf, auto")


def _set_effort(index: faiss.Index, kind: str, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    elif kind == "ivf":
        index.nprobe = effort


def _tune(
    index: faiss.Index, kind: str, vectors: np.ndarray, sample: np.ndarray, max_effort: int | None
) -> tuple[float, int]:
    """Smallest effort of a doubling ladder that reaches TUNED_RECALL: (recall@100, effort)."""
    k = min(_RECALL_AT, len(vectors))
    if not k or not len(sample):
        return 1.0, 0
    truth = faiss.knn(sample, vectors, k, faiss.METRIC_INNER_PRODUCT)[1]
    ceiling = {"flat": 0, "hnsw": 2048}.get(kind, getattr(index, "nlist", 1))
    ceiling = ceiling if max_effort is None else min(ceiling, max_effort)
    effort = min({"flat": 0, "hnsw": 128}.get(kind, 8), ceiling)
    while True:
        _set_effort(index, kind, effort)
        found = index.search(sample, k)[1]
        recall = float(np.mean([len(np.intersect1d(f, t)) / k for f, t in zip(found, truth, strict=True)]))
        if recall >= TUNED_RECALL or effort >= ceiling:
            return recall, effort
        effort = min(2 * effort, ceiling)


def _sample_queries(vectors: np.ndarray, queries: np.ndarray | None, seed: int, n: int = 500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if queries is not None and len(queries):
        rows = rng.permutation(len(queries))[:n]
        return np.ascontiguousarray(queries[np.sort(rows)], np.float32)
    if not len(vectors):
        return vectors
    picked = vectors[rng.integers(len(vectors), size=min(n, len(vectors)))]
    return (picked + rng.normal(0, picked.std() + 1e-6, picked.shape)).astype(np.float32)


class _threads:
    """Run a block with a fixed number of FAISS threads (None leaves it)."""

    def __init__(self, n: int | None) -> None:
        self._n = n

    def __enter__(self) -> None:
        self._before = faiss.omp_get_max_threads()
        if self._n:
            faiss.omp_set_num_threads(self._n)

    def __exit__(self, *_: object) -> None:
        faiss.omp_set_num_threads(self._before)
