"""Two-tower candidate source: the user vector by ONNX Runtime from the recent history, items from a FAISS index.

Training (torch) is in `two_tower_training`; nothing here imports it, so a server needs no torch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import onnxruntime
from pydantic import Field

from longtail.compiled import frozen
from longtail.errors import InvalidBundle
from longtail.events import Catalogue, Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.index import VectorIndex
from longtail.retrieval.two_tower_content import ContentVocabulary
from longtail.retrieval.vectors import VectorAnswer

_INPUTS = ("kind", "gap", "length", "since", "segment", "hour", "weekday")
_HOUR_US = 3_600_000_000
# One bucket per doubling, from a second to a year; 0 is "at the same second".
GAP_EDGES_US = (1_000_000 << np.arange(26)).astype(np.int64)
GAP_BUCKETS = len(GAP_EDGES_US) + 2  # the last one: unknown, or no event before
GAP_UNKNOWN = GAP_BUCKETS - 1
_FILES = (
    "user_tower.onnx", "item_vectors.npy", "content_table.npy", "content_tokens.npy", "index.faiss", "index.json",
    "config.json",
)  # fmt: skip


@dataclass(frozen=True)
class TwoTowerConfig:
    """What to train. Sizes are numbers of vectors, events or targets; times are seconds."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    dim: int = 64
    layers: Annotated[int, Field(ge=1)] = 2
    heads: int = 2
    last: int = 50  # events of the history that the user tower reads
    dropout: float = 0.2
    id_dropout: float = 0.1  # share of items whose id vector is hidden in a step, so that content learns to carry
    temperature: float = 0.07
    full_softmax_items: int = 20_000  # up to here every item is a negative
    in_batch_negatives: int = 1024
    uniform_negatives: int = 1024
    strength_power: float = 0.5  # weight of a target = event strength to this power
    half_life_days: float = 0.0  # > 0: a target counts half as much for each such time before the log's end
    batch_targets: int = 3200
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    epochs: int = 20
    epoch_targets: int = 2_000_000  # a longer log is sampled afresh for each epoch
    targets: int = 10_000_000  # in all epochs together, about: a longer log gets fewer epochs, at least one
    patience: int = 3  # epochs without a better validation before training stops
    validation_users: int = 1000
    max_seconds: float = 0.0  # > 0: plan for so many epochs as fit; another machine may then train another model
    vocabulary: int = 50_000
    index_kind: str = "auto"
    device: str = "auto"
    mixed_precision: bool = True


def gap_bucket(gap_us: np.ndarray) -> np.ndarray:
    """Bucket int64 of a time difference in microseconds."""
    return np.searchsorted(GAP_EDGES_US, gap_us, side="right").astype(np.int64)


def clock(time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hour of the day and day of the week (UTC), int64."""
    hours = np.asarray(time_us, np.int64) // _HOUR_US
    return hours % 24, (hours // 24) % 7


def encode(requests: Requests, b: int, last: int, segments: int, steps: int = 0) -> dict[str, np.ndarray]:
    """What the user tower reads of request b, besides its item vectors; segments it does not know count as unknown.

    Of the newest `last` events: `kind` and `gap` (bucket of the time since the event before) int64 [1, L], filled up to
    `steps` places. Of the request: `length`, `since` (bucket of the time from the newest event), `segment` (0 unknown),
    `hour`, `weekday` int64 [1].
    """
    h, stop = requests.history, requests.history.indptr[b + 1]
    start = max(h.indptr[b], stop - last)
    n = int(stop - start)
    kind, gap = np.zeros((1, max(n, steps, 1)), np.int64), np.full((1, max(n, steps, 1)), GAP_UNKNOWN, np.int64)
    now, segment = requests.time[b : b + 1], requests.segment[b]
    since = np.array([GAP_UNKNOWN])
    if n:
        kind[0, :n] = h.kind[start:stop]
        gap[0, 1:n] = gap_bucket(np.diff(h.time[start:stop]))
        since = gap_bucket(now - h.time[stop - 1])
    known = np.array([segment + 1 if 0 <= segment < segments else 0], np.int64)
    hour, weekday = clock(now)
    values = kind, gap, np.array([n]), since, known, hour, weekday
    return dict(zip(_INPUTS, values, strict=True))


class TwoTower(CandidateSource):
    """Vectors of users and items; reads the history in order, so a new user or session needs no training."""

    kind: ClassVar = "vectors"
    name = "two_tower"
    reason = "fits what you looked at recently"

    def __init__(self, folder: Path) -> None:
        self._open(Path(folder))

    @staticmethod
    def load(folder: Path) -> TwoTower:
        """Open a trained two-tower.

        Raises:
            InvalidBundle: a file is absent, or index and vectors are not of one build.
        """
        return TwoTower(folder)

    def __getstate__(self) -> dict:
        return {"folder": self._folder}

    def __setstate__(self, state: dict) -> None:
        self._open(state["folder"])

    def _open(self, folder: Path) -> None:
        for name in _FILES:
            if not (folder / name).is_file():
                raise InvalidBundle(f"{folder} has no {name}: train the two-tower again")
        self._folder = folder
        self.config: dict = json.loads((folder / "config.json").read_text())
        self.item_vectors = frozen(np.load(folder / "item_vectors.npy", mmap_mode="r"), np.float32)
        self.index = VectorIndex.load(folder, self.item_vectors)
        self.session = _session(folder / "user_tower.onnx")
        steps = next(i.shape[1] for i in self.session.get_inputs() if i.name == "history")
        self._steps = steps if isinstance(steps, int) else 0  # towers of earlier bundles read all places, filled or not

    def save(self, folder: Path) -> None:
        """Copy the trained files."""
        for name in _FILES:
            shutil.copyfile(self._folder / name, Path(folder) / name)

    def answer(self, requests: Requests) -> Answer:
        return VectorAnswer(self.user_vectors(requests), self.index, self.item_vectors)

    def user_vectors(self, requests: Requests) -> np.ndarray:
        """float32 [B, d]. Each row is computed alone, so that it does not depend on the batch it came in."""
        out = np.empty((len(requests), self.item_vectors.shape[1]), np.float32)
        for b in range(len(requests)):
            out[b] = self.session.run(None, self.inputs(requests, b))[0][0]
        return out

    def inputs(self, requests: Requests, b: int) -> dict[str, np.ndarray]:
        """What `session` reads of request b; `history` float32 [1, L, d] are vectors of the newest items."""
        feed = encode(requests, b, self.config["last"], self.config["segments"], self._steps)
        n = int(feed["length"][0])
        history = np.zeros((1, feed["kind"].shape[1], self.item_vectors.shape[1]), np.float32)
        stop = requests.history.indptr[b + 1]
        history[0, :n] = self.item_vectors[requests.history.item[stop - n : stop]]
        return feed | {"history": history}

    def encode_items(self, catalogue: Catalogue, as_of: int) -> np.ndarray:
        """Vectors float32 [I, d] of any items from their content alone, at a time in microseconds."""
        vocabulary = ContentVocabulary.from_dict(self.config["content"], np.load(self._folder / "content_tokens.npy"))
        table = np.load(self._folder / "content_table.npy", mmap_mode="r")
        return vocabulary.bag(catalogue, as_of).vectors(table)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
