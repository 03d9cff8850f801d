"""The learned blend: one calibrated order over the candidates of all sources, before any ranker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def ranks_within(rows: np.ndarray, items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each candidate within its request, 0 for the best; float32 [N].

    `rows` ascending int64 [N]; ties go to the smaller item, so a rank does not depend on the batch.
    """
    if not len(rows):
        return np.empty(0, np.float32)
    order = np.lexsort((items, -scores, rows))
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    start_of = np.repeat(starts, np.diff(np.append(starts, len(rows))))
    out = np.empty(len(rows), np.float32)
    out[order] = np.arange(len(rows)) - start_of
    return out


def evidence(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """What the blend reads of each source: 1 / (1 + rank / 10) where it has a positive score, float32 [N, S]."""
    return np.where(scores > 0, 1 / (1 + ranks / 10), 0).astype(np.float32)


@dataclass(frozen=True)
class Blend:
    """Non-negative source weights of a logistic model: P(wanted | evidence of the sources)."""

    weights: np.ndarray  # float32 [S]
    intercept: float
    silent: np.ndarray | None = None  # bool [S]: sources that a surface leaves out

    def score(self, scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Probability float32 [N] that the candidate is wanted, from scores and ranks float32 [N, S]."""
        # Added up source by source: a matrix product would round differently for other batch sizes.
        z = np.full(len(scores), self.intercept, np.float32)
        known = evidence(scores, ranks)
        for s, weight in enumerate(self.weights):
            z = z + known[:, s] * weight
        return (1 / (1 + np.exp(-z))).astype(np.float32)

    def best_source(self, scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The source that speaks for the candidate most, int64 [N]."""
        voice = evidence(scores, ranks) * np.maximum(self.weights, 1e-6)
        if self.silent is not None:
            voice[:, self.silent] = -1
        return np.argmax(voice, axis=1).astype(np.int64)

    def scaled(self, factors: np.ndarray) -> Blend:
        """The blend of a surface: `factors` float32 [S] multiply the weights; a source at 0 has no say at all."""
        factors = np.asarray(factors, np.float32)
        return Blend(self.weights * factors, self.intercept, factors == 0)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"weights": self.weights.tolist(), "intercept": self.intercept}))

    @staticmethod
    def load(path: Path) -> Blend:
        """Read what `save` wrote."""
        raw = json.loads(path.read_text())
        return Blend(np.array(raw["weights"], np.float32), float(raw["intercept"]))

    @staticmethod
    def equal(n_sources: int) -> Blend:
        """The blend before anything was learned: all sources count alike."""
        return Blend(np.ones(n_sources, np.float32), -3.0)


def fit_blend(scores: np.ndarray, ranks: np.ndarray, wanted: np.ndarray, l2: float = 1.0) -> Blend:
    """Logistic regression with non-negative weights on (candidate, wanted or not) pairs; `wanted` bool [N]."""
    from scipy.optimize import minimize  # 30 MB that a server has no use for

    x = evidence(scores, ranks).astype(np.float64)
    y = wanted.astype(np.float64)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ theta[:-1] + theta[-1]
        p = 1 / (1 + np.exp(-z))
        value = np.sum(np.logaddexp(0, z) - y * z) + 0.5 * l2 * np.sum(theta[:-1] ** 2)
        return value, np.append(x.T @ (p - y) + l2 * theta[:-1], np.sum(p - y))

    start = np.append(np.ones(x.shape[1]), -3.0)
    bounds = [(0, None)] * x.shape[1] + [(None, None)]
    theta = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 200}).x
    return Blend(theta[:-1].astype(np.float32), float(theta[-1]))
