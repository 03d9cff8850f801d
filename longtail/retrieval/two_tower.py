"""Two-tower candidate source: the user vector by ONNX Runtime from the recent history, items from a FAISS index.

Training (torch) is in `two_tower_training`; nothing here imports it, so a server needs no torch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime

from longtail.compiled import frozen
from longtail.errors import InvalidBundle
from longtail.events import Catalogue, Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.index import VectorIndex
from longtail.retrieval.two_tower_content import ContentVocabulary
from longtail.retrieval.vectors import VectorAnswer

_BLOCK = 1024  # requests at once: bounds the memory of a big batch
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
    layers: int = 2
    heads: int = 2
    last: int = 50  # events of the history that the user tower reads
    dropout: float = 0.2
    id_dropout: float = 0.1  # share of items whose id vector is hidden in a step, so that content learns to carry
    temperature: float = 0.07
    full_softmax_items: int = 20_000  # up to here every item is a negative
    in_batch_negatives: int = 1024
    uniform_negatives: int = 1024
    strength_power: float = 0.5  # weight of a target = event strength to this power
    propensity_floor: float = 0.0  # > 0: weight also by 1 / max(propensity, floor) where it was logged
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


@dataclass(frozen=True)
class TowerInputs:
    """What the user tower reads of B requests, besides the vectors of `item`: arrays as in `encode`."""

    item: np.ndarray  # int64 [B, L], -1 beyond the length
    kind: np.ndarray  # int64 [B, L]
    gap: np.ndarray  # int64 [B, L] bucket of the time since the event before
    length: np.ndarray  # int64 [B]
    since: np.ndarray  # int64 [B] bucket of the time from the newest event to the request
    segment: np.ndarray  # int64 [B], 0 unknown
    hour: np.ndarray  # int64 [B]
    weekday: np.ndarray  # int64 [B]


def gap_bucket(gap_us: np.ndarray) -> np.ndarray:
    """Bucket int64 of a time difference in microseconds."""
    return np.searchsorted(GAP_EDGES_US, gap_us, side="right").astype(np.int64)


def clock(time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hour of the day and day of the week (UTC), int64."""
    hours = np.asarray(time_us, np.int64) // _HOUR_US
    return hours % 24, (hours // 24) % 7


def encode(requests: Requests, last: int, segments: int) -> TowerInputs:
    """Inputs of the newest `last` events of each request; segments unknown to the tower count as unknown."""
    history, b = requests.history, len(requests)
    keep = np.flatnonzero(history.age() < last)
    rows, length = history.rows[keep], np.minimum(history.lengths, last)
    column = np.arange(len(keep)) - np.repeat(np.cumsum(length) - length, length)
    item, kind = np.full((b, last), -1, np.int64), np.zeros((b, last), np.int64)
    gap = np.full((b, last), GAP_UNKNOWN, np.int64)
    item[rows, column], kind[rows, column] = history.item[keep], history.kind[keep]
    time = history.time[keep]
    gap[rows[1:], column[1:]] = np.where(column[1:] == 0, GAP_UNKNOWN, gap_bucket(np.diff(time)))
    since = np.full(b, GAP_UNKNOWN, np.int64)
    known = length > 0
    since[known] = gap_bucket(requests.time[known] - history.time[history.indptr[1:][known] - 1])
    segment = np.where((requests.segment >= 0) & (requests.segment < segments), requests.segment + 1, 0)
    return TowerInputs(item, kind, gap, length.astype(np.int64), since, segment.astype(np.int64), *clock(requests.time))


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
        self._session = _session(folder / "user_tower.onnx")

    def save(self, folder: Path) -> None:
        """Copy the trained files."""
        for name in _FILES:
            shutil.copyfile(self._folder / name, Path(folder) / name)

    def answer(self, requests: Requests) -> Answer:
        return VectorAnswer(self.user_vectors(requests), self.index, self.item_vectors)

    def user_vectors(self, requests: Requests) -> np.ndarray:
        """float32 [B, d]. Each row is computed alone, so that it does not depend on the batch it came in."""
        out = np.empty((len(requests), self.item_vectors.shape[1]), np.float32)
        for i in range(0, len(requests), _BLOCK):
            rows = np.arange(i, min(i + _BLOCK, len(requests)))
            inputs = encode(requests.take(rows), self.config["last"], self.config["segments"])
            known = (inputs.item >= 0)[..., None].astype(np.float32)
            feed = {"history": self.item_vectors[np.maximum(inputs.item, 0)] * known}
            feed |= {n: getattr(inputs, n) for n in _INPUTS}
            for b, row in enumerate(rows):
                out[row] = self._session.run(None, {n: a[b : b + 1] for n, a in feed.items()})[0][0]
        return out

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
