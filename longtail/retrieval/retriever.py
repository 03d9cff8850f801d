"""All sources behind one call: candidates with every source's score, provenance and a blended order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.errors import InvalidBundle
from longtail.events import Requests
from longtail.events.log import ROW
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.blend import Blend, ranks_within
from longtail.retrieval.candidates import Candidates
from longtail.retrieval.lists import ListSource, RepeatSource
from longtail.retrieval.neighbours import NeighbourSource
from longtail.retrieval.session_knn import SessionNeighbours
from longtail.retrieval.two_tower import TwoTower
from longtail.retrieval.vectors import SpectralSource

KINDS = {
    c.__name__: c for c in (NeighbourSource, ListSource, RepeatSource, SessionNeighbours, SpectralSource, TwoTower)
}


@dataclass
class Retriever:
    """Sources and the blend over them. `depth`: how many items each source proposes."""

    sources: Sequence[CandidateSource]
    blend: Blend
    depth: int = 120
    repeats: bool = True  # False: what the user already has is not proposed again

    @property
    def names(self) -> list[str]:
        """Source names, in the order of the score columns."""
        return [s.name for s in self.sources]

    @property
    def reasons(self) -> list[str]:
        """A plain-words reason per source."""
        return [s.reason for s in self.sources]

    def candidates(
        self,
        requests: Requests,
        n: int | None = None,
        also: tuple[np.ndarray, np.ndarray] | None = None,
        weights: np.ndarray | None = None,
    ) -> Candidates:
        """Union of all sources' proposals, the best `n` of each request by the blend (None: all).

        `also` and `weights` as in `Ask`. Scores and ranks of a source at weight 0 are there all the same.
        """
        blend = self.blend if weights is None else self.blend.scaled(weights)
        silent = np.zeros(len(self.sources), bool) if weights is None else np.asarray(weights) == 0
        history = requests.history
        extra = 0 if self.repeats or not len(requests) else int(history.lengths.max(initial=0))
        answers = [s.answer(requests) for s in self.sources]
        had = None if self.repeats else np.unique(history.rows * ROW + history.item)
        keys = []
        for answer, mute in zip(answers, silent, strict=True):
            if mute:
                continue
            ids, _ = answer.top(self.depth + extra)
            row, place = np.nonzero(ids >= 0)
            key = row * ROW + ids[row, place]
            if had is not None:
                fresh = ~np.isin(key, had)
                row, key = row[fresh], key[fresh]
                place = np.arange(len(row)) - np.searchsorted(row, row)
                key = key[place < self.depth]
            keys.append(key)
        if also is not None:
            key = also[0] * ROW + also[1]
            keys.append(key if had is None else key[~np.isin(key, had)])
        key = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.int64)
        rows, items = key // ROW, key % ROW
        scores = np.zeros((len(rows), len(answers)), np.float32)
        ranks = np.zeros_like(scores)
        for s, answer in enumerate(answers):
            scores[:, s] = answer.at(rows, items)
            ranks[:, s] = ranks_within(rows, items, scores[:, s])
        out = Candidates(rows, items, scores, ranks, blend.score(scores, ranks), blend.best_source(scores, ranks))
        return out if n is None else out.take(ranks_within(rows, items, out.blend) < n)

    def save(self, folder: Path) -> None:
        """Write every source into a folder of its own, and the order that the score columns have."""
        folder.mkdir(parents=True, exist_ok=True)
        for source in self.sources:
            (folder / source.name).mkdir(exist_ok=True)
            source.save(folder / source.name)
        self.blend.save(folder / "blend.json")
        order = [{"name": s.name, "kind": type(s).__name__} for s in self.sources]
        config = {"sources": order, "depth": self.depth, "repeats": self.repeats}
        (folder / "config.json").write_text(json.dumps(config, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Retriever:
        """Read what `save` wrote; tables are memory-mapped.

        Raises:
            InvalidBundle: the folder is not a saved retriever, or names a kind of source this version doesn't know.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            sources = [KINDS[s["kind"]].load(folder / s["name"]) for s in config["sources"]]
        except (OSError, KeyError, ValueError) as error:
            raise InvalidBundle(f"{folder} is not a retriever of this version ({error}): train again") from error
        return cls(sources, Blend.load(folder / "blend.json"), config["depth"], config["repeats"])
