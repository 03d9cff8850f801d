"""The learned blend: one calibrated order over the candidates of all sources, before any ranker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.compiled import compiled


def evidence(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """What the blend reads of each source: 1 / (1 + rank / 10) where it has a positive score, float32 [N, S]."""
    return np.where(scores > 0, 1 / (1 + ranks / 10), 0).astype(np.float32)


@compiled
def _judge(
    scores: np.ndarray, ranks: np.ndarray, weights: np.ndarray, voices: np.ndarray, z: np.ndarray, best: np.ndarray
) -> None:
    one, ten, nothing = np.float32(1), np.float32(10), np.float32(0)
    loudest = np.full(len(z), np.float32(-2))
    # Added up source by source: a matrix product would round differently for other batch sizes.
    for s in range(len(weights)):
        for j in range(len(z)):
            known = one / (one + ranks[s, j] / ten) if scores[s, j] > nothing else nothing
            z[j] += known * weights[s]
            voice = known * voices[s] if voices[s] > nothing else voices[s]
            best[j] = s if voice > loudest[j] else best[j]
            loudest[j] = max(voice, loudest[j])


@dataclass(frozen=True)
class Blend:
    """Non-negative source weights of a logistic model: P(wanted | evidence of the sources)."""

    weights: np.ndarray  # float32 [S]
    intercept: float
    silent: np.ndarray | None = None  # bool [S]: sources that a surface leaves out

    def judge(self, scores: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of N candidates: the probability float32 [N] that each is wanted, and the source int64 [N] that speaks for it
        most. `scores` and `ranks` float32 [S, N].
        """
        n = scores.shape[1]
        z, best = np.full(n, self.intercept, np.float32), np.zeros(n, np.int64)
        voices = np.maximum(self.weights, np.float32(1e-6))
        if self.silent is not None:
            voices = np.where(self.silent, np.float32(-1), voices)
        _judge(scores, ranks, np.asarray(self.weights, np.float32), voices, z, best)
        return (1 / (1 + np.exp(-z))).astype(np.float32), best

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
