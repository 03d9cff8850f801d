"""What is asked of retrieval and what it answers, as plain arrays: neither side needs the other's libraries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ask:
    """What a batch of B requests wants of its candidates.

    `n` candidates a request, the best by the blend. `weights` float32 [S] multiply the blend's source weights (None:
    all 1); a source at 0 proposes nothing and is no evidence. `also` (request int64 [M], item int64 [M]) are candidates
    beside what the sources propose.
    """

    n: int
    weights: np.ndarray | None = None
    also: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Candidates:
    """N candidates of a batch, grouped by request.

    `rows` int64 [N] ascending; `items` int64 [N] ascending within a request; `scores`, `ranks` float32 [N, S]: what
    each source says of each candidate, whoever proposed it; `blend` float32 [N] probability; `best` int64 [N] the
    source that speaks for it most.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    blend: np.ndarray
    best: np.ndarray

    def take(self, keep: np.ndarray) -> Candidates:
        """The candidates of a mask or ascending positions; ranks stay those among all proposals."""
        return Candidates(*(getattr(self, f)[keep] for f in ("rows", "items", "scores", "ranks", "blend", "best")))
