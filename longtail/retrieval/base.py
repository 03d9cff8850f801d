"""The contract of a candidate source: one method to fit, one to answer, and what an answer can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from longtail.events import Requests


class Answer(ABC):
    """What one source says of one batch of requests."""

    @abstractmethod
    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best items of each request: (int64 [B, k] padded with -1, float32 [B, k] padded with -inf), best first.

        Ties go to the smaller item index, so that answers do not depend on the batch they were computed in.
        """

    @abstractmethod
    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Score float32 [n] of the pairs (rows[j], items[j]); 0 where the source knows nothing."""


class CandidateSource(ABC):
    """Proposes items for requests. Implementations hold only arrays, so that they save, memory-map and pickle."""

    kind: ClassVar[Literal["neighbours", "vectors", "list"]]
    name: str
    reason: str  # shown to people: why an item of this source is in their list

    @abstractmethod
    def answer(self, requests: Requests) -> Answer:
        """Ask for a whole batch at once. An unknown user, an empty history and an empty batch are all valid."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the source's arrays into an existing, empty folder."""

    def retrieve(self, requests: Requests, k: int) -> tuple[np.ndarray, np.ndarray]:
        """`answer(requests).top(k)`."""
        return self.answer(requests).top(k)
