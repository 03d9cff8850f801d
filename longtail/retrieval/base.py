"""The contract of a candidate source: one method to fit, one to answer, and what an answer can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal, Protocol

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


class Group(Protocol):
    """Sources that are asked as one, for less than each alone; they fill the `columns` int64 [_] of all sources."""

    columns: np.ndarray

    def answer(self, requests: Requests) -> GroupAnswer:
        """As `CandidateSource.answer`."""


class GroupAnswer(Protocol):
    """What the sources of a group say of one batch of requests; other columns are left as they are."""

    def top(self, out: np.ndarray) -> object:
        """`Answer.top` of each source, without the scores, into int64 [_, B, k]."""

    def at(self, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> None:
        """`Answer.at` of each source into float32 [_, n]."""


class Alone:
    """One source as a group of its own."""

    def __init__(self, column: int, source: CandidateSource) -> None:
        self.columns, self._source = np.array([column]), source

    def answer(self, requests: Requests) -> GroupAnswer:
        """See `Group.answer`."""
        return _AloneAnswer(int(self.columns[0]), self._source.answer(requests))


class _AloneAnswer:
    def __init__(self, column: int, answer: Answer) -> None:
        self._column, self._answer = column, answer

    def top(self, out: np.ndarray) -> None:
        out[self._column] = self._answer.top(out.shape[2])[0]

    def at(self, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> None:
        out[self._column] = self._answer.at(rows, items)
