"""FAISS index over item vectors: its kind and parameters follow the catalogue, its recall is measured before use."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import faiss
import numpy as np

from longtail.compiled import compiled, frozen, prefetch
from longtail.errors import InvalidBundle, InvalidInput
from longtail.retrieval.best import finish, push

FLAT_UP_TO = 2_000_000  # numbers in all vectors: below, brute force takes less than half a millisecond
MIN_RECALL = 0.95
TUNED_RECALL = 0.98
LARGE_RECALL = 0.955  # where the index has to read more than this many vectors for it, about a quarter millisecond:
LARGE_READ = 15_000
_RECALL_AT = 100
# So much more is fetched than is asked for, since the index's coarser vectors misplace items near the cut.
_SPARE_SHARE, _SPARE_LEAST = 1 / 3, 16
_POINTS = 64  # per list that k-means reads; more change recall by less than a tenth of a percent
_GPU_MOST = 2048  # neighbours of a query, and lists it reads, that FAISS has room for on a GPU
_GPU_SCRATCH = 256 << 20  # bytes; FAISS would take 1.5 GB
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
    device: str  # where it searches


class VectorIndex:
    """Nearest items by inner product. Build or load it, then `search`.

    What FAISS finds is scored again with the item vectors themselves, so that the index may hold coarser ones: above
    `FLAT_UP_TO` numbers it keeps a byte for each instead of four.

    Where FAISS has a GPU, the inverted lists of a large catalogue are searched there, and hold the item vectors
    themselves; what is built, measured and kept is the same without one.
    """

    def __init__(self, index: faiss.Index, figures: IndexFigures, vectors: np.ndarray, gpu: bool = False) -> None:
        self._index = index
        self._vectors = frozen(vectors, np.float32)
        self._on_gpu = _Gpu.of(index, self._vectors) if gpu and figures.kind == "ivf" and gpus() else None
        self.figures = replace(figures, device="gpu" if self._on_gpu else "cpu")

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
        `flat`, `hnsw`, `ivf` or `auto`. efSearch or nprobe grows until recall reaches
        0.98 (0.955 of a catalogue so large that the search would take long), or to `max_effort`.

        Raises:
            InvalidInput: bad vectors, an unknown kind, or recall@100 below `min_recall`.
        """
        started = time.perf_counter()
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InvalidInput("item vectors must be a finite float32 [items, dim] matrix: retrain the two-tower")
        kind = choose_kind(*vectors.shape) if kind == "auto" else kind
        index = _empty_index(kind, *vectors.shape)
        if len(vectors):
            index.train(vectors)
            # Insertion order decides the graph: one thread keeps an HNSW the same from build to build.
            with _threads(1 if kind == "hnsw" else None):
                index.add(vectors)
        sample = _sample_queries(vectors, queries, seed)
        n, dim = vectors.shape
        figures = IndexFigures(kind, n, dim, 0, 1.0, len(sample), 0.0, "cpu")
        built = VectorIndex(index, figures, vectors)
        reached, effort = built._tune(vectors, sample, max_effort)
        if reached < min_recall:
            raise InvalidInput(
                f"recall@100 of the {kind} index is {reached:.3f}, below {min_recall}: raise the search effort "
                f"(now {effort}) or build it with kind='flat'"
            )
        seconds = time.perf_counter() - started
        figures = replace(figures, effort=effort, recall_at_100=reached, build_seconds=seconds)
        return VectorIndex(index, figures, vectors, gpu)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best items of queries float32 [B, d]: (int64 [B, k] padded with -1, float32 [B, k] padded with -inf).

        Scores are the exact inner products of `inner_products`. Best first, ties to the smaller item.
        """
        n, take = len(queries), min(k, self.figures.items)
        ids, scores = np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32)
        if not n or not take:
            return ids, scores
        spare = 0 if self._on_gpu else int(take * _SPARE_SHARE) + _SPARE_LEAST
        found = self._nearest(np.ascontiguousarray(queries, np.float32), min(take + spare, self.figures.items))
        _rescore(np.ascontiguousarray(queries, np.float32), found, self._vectors, take, ids, scores)
        return ids, scores

    def _nearest(self, queries: np.ndarray, k: int) -> np.ndarray:
        """The k items that the index thinks nearest, int64 [B, k] in any order, -1 where there are fewer."""
        if self._on_gpu:
            return self._on_gpu.search(queries, k)
        # One by one: FAISS takes other paths for a batch than for a query, and finds other items at the margin.
        found = [self._index.search(queries[b : b + 1], k)[1] for b in range(len(queries))]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _tune(self, vectors: np.ndarray, sample: np.ndarray, max_effort: int | None) -> tuple[float, int]:
        """Smallest effort of a ladder that reaches the recall it should: (recall@100, effort)."""
        k, kind = min(_RECALL_AT, len(vectors)), self.figures.kind
        if not k or not len(sample):
            return 1.0, 0
        truth = faiss.knn(sample, vectors, k, faiss.METRIC_INNER_PRODUCT)[1]
        ceiling = {"flat": 0, "hnsw": 2048}.get(kind, getattr(self._index, "nlist", 1))
        ceiling = ceiling if max_effort is None else min(ceiling, max_effort)
        effort = min({"flat": 0, "hnsw": 128}.get(kind, 8), ceiling)
        while True:
            _set_effort(self._index, kind, effort)
            found = self.search(sample, k)[0]
            reached = recall(found, truth)
            large = kind == "ivf" and len(vectors) * effort > LARGE_READ * self._index.nlist
            if reached >= (LARGE_RECALL if large else TUNED_RECALL) or effort >= ceiling:
                return reached, effort
            effort = min(effort + effort // 4 + 1, ceiling)

    def save(self, folder: Path) -> None:
        """Write index.faiss and index.json into an existing folder."""
        faiss.write_index(self._index, str(folder / f"{_FAISS_FILE}.part"))
        os.replace(folder / f"{_FAISS_FILE}.part", folder / _FAISS_FILE)
        part = folder / f"{_META_FILE}.part"
        part.write_text(json.dumps(asdict(self.figures), indent=1))
        os.replace(part, folder / _META_FILE)

    @staticmethod
    def load(folder: Path, vectors: np.ndarray, mmap: bool = True, gpu: bool = True) -> VectorIndex:
        """Read the index of item vectors float32 [I, d], memory-mapped where its kind allows.

        Raises:
            InvalidBundle: a file is absent, or files and vectors disagree.
        """
        folder = Path(folder)
        for name in (_FAISS_FILE, _META_FILE):
            if not (folder / name).is_file():
                raise InvalidBundle(f"{folder} has no {name}: build the index again")
        figures = IndexFigures(**json.loads((folder / _META_FILE).read_text()))
        # The other mapping that FAISS has, IO_FLAG_MMAP, opens inverted lists twice as slow as memory.
        index = faiss.read_index(str(folder / _FAISS_FILE), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
        if not (index.ntotal, index.d) == (figures.items, figures.dim) == vectors.shape:
            raise InvalidBundle(f"{folder}: item vectors and index are not of one build: build the index again")
        _set_effort(index, figures.kind, figures.effort)
        return VectorIndex(index, figures, vectors, gpu)


def choose_kind(n_items: int, dim: int) -> str:
    """`flat` while brute force is quick, inverted lists above.

    `hnsw` is there by name: as good, but several times slower to build, and not mapped as a whole.
    """
    return "flat" if n_items * dim <= FLAT_UP_TO else "ivf"


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the items of `truth` int64 [B, k] that are in `found` int64 [B, k'], averaged over queries."""
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, truth, strict=True)]))


def gpus() -> int:
    """GPUs that the installed FAISS can use; 0 for faiss-cpu."""
    return int(getattr(faiss, "get_num_gpus", lambda: 0)())


class _Gpu:
    """The lists of an index on the first GPU, as many of them read as without one."""

    # The scratch memory of a GPU is shared by all indexes of the process: a thread searches at a time.
    _lock = threading.Lock()

    def __init__(self, index: faiss.Index) -> None:
        self._index = index

    @staticmethod
    def of(index: faiss.IndexIVF, vectors: np.ndarray) -> _Gpu:
        # Bytes need more of a GPU's shared memory than it has when a query asks for a thousand items.
        lists = faiss.IndexIVFFlat(index.quantizer, index.d, index.nlist, faiss.METRIC_INNER_PRODUCT)
        lists.is_trained = True
        with _Gpu._lock:
            on_gpu = faiss.index_cpu_to_gpu(_resources(), 0, lists)
            on_gpu.add(vectors)
        on_gpu.nprobe = min(index.nprobe, _GPU_MOST)
        return _Gpu(on_gpu)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        with self._lock:
            return self._index.search(queries, min(k, _GPU_MOST))[1]


@cache
def _resources() -> faiss.StandardGpuResources:
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH)
    return resources


def _empty_index(kind: str, n: int, dim: int) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        return index
    if kind == "ivf":
        lists = int(max(1, min(3 * np.sqrt(n), n / 39)))  # k-means wants 39 points a centroid
        centres = faiss.IndexFlatIP(dim)
        kind_of_code = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(centres, dim, lists, kind_of_code, faiss.METRIC_INNER_PRODUCT, False)
        centres.this.disown()  # the index frees it
        index.own_fields = True
        index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = 1234, 10, _POINTS
        return index
    raise InvalidInput(f"index kind {kind!r} is not one of flat, hnsw, ivf, auto")


def _set_effort(index: faiss.Index, kind: str, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    elif kind == "ivf":
        index.nprobe = effort


def _sample_queries(vectors: np.ndarray, queries: np.ndarray | None, seed: int, n: int = 500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if queries is not None and len(queries):
        rows = rng.permutation(len(queries))[:n]
        return np.ascontiguousarray(queries[np.sort(rows)], np.float32)
    if not len(vectors):
        return vectors
    picked = vectors[rng.integers(len(vectors), size=min(n, len(vectors)))]
    return (picked + rng.normal(0, picked.std() + 1e-6, picked.shape)).astype(np.float32)


@compiled(fastmath={"reassoc"})
def _dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    # Lanes are added up in whatever order this processor's vectors have: the same one in every call.
    total = np.float32(0)
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@compiled
def _inner_products(
    queries: np.ndarray, rows: np.ndarray, vectors: np.ndarray, items: np.ndarray, out: np.ndarray
) -> None:
    for j in range(len(rows)):
        prefetch(vectors, items, j)
        out[j] = _dot(queries[rows[j]], vectors[np.uint32(items[j])]) if items[j] >= 0 else 0


@compiled
def _rescore(
    queries: np.ndarray, found: np.ndarray, vectors: np.ndarray, take: int, ids: np.ndarray, scores: np.ndarray
) -> None:
    for b in range(len(queries)):
        heap, best, n = scores[b, :take], ids[b, :take], 0
        for j in range(len(found[b])):
            item = found[b, j]
            prefetch(vectors, found[b], j)
            if item >= 0:
                n = push(heap, best, n, _dot(queries[b], vectors[np.uint32(item)]), item)
        finish(heap, best, n)


def inner_products(queries: np.ndarray, rows: np.ndarray, vectors: np.ndarray, items: np.ndarray) -> np.ndarray:
    """queries[rows[j]] . vectors[items[j]] of each pair, float32 [n]; 0 for the item -1.

    `queries` float32 [B, d], `vectors` float32 [I, d]. A pair's value does not depend on the pairs around it.
    """
    out = np.empty(len(rows), np.float32)
    rows, items = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(items, np.int64)
    _inner_products(np.ascontiguousarray(queries, np.float32), rows, frozen(vectors, np.float32), items, out)
    return out


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
