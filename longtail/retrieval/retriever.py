"""All sources behind one call: candidates with every source's score, provenance and a blended order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from longtail.errors import InvalidBundle
from longtail.events import Requests
from longtail.retrieval.base import Alone, CandidateSource, Group, GroupAnswer
from longtail.retrieval.blend import Blend
from longtail.retrieval.candidates import Candidates
from longtail.retrieval.gathering import Gathering, TableSource
from longtail.retrieval.lists import Lists, ListSource, RepeatSource
from longtail.retrieval.neighbours import NeighbourSource
from longtail.retrieval.session_knn import SessionNeighbours
from longtail.retrieval.two_tower import TwoTower
from longtail.retrieval.union import rank, ranks_of, turned, union
from longtail.retrieval.vectors import SpectralSource
from longtail.second_thread import Share, in_turn

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
        share: Share = in_turn,
    ) -> Candidates:
        """Union of all sources' proposals, the best `n` of each request by the blend (None: all).

        `also` and `weights` as in `Ask`. Scores and ranks of a source at weight 0 are there all the same. `share` does
        the sources' work, see `SecondThread`.
        """
        blend = self.blend if weights is None else self.blend.scaled(weights)
        silent = np.zeros(len(self.sources), bool) if blend.silent is None else blend.silent
        depth = self.depth if self.repeats else self.depth + int(requests.history.lengths.max(initial=0))
        proposed = np.full((len(self.sources), len(requests), depth), -1, np.int64)
        groups = self._groups if share is in_turn else self._finer_groups
        answers: dict[int, GroupAnswer] = {}

        def propose(n: int) -> None:
            group = groups[n]
            answers[n] = answer = group.answer(requests)
            if not silent[group.columns].all():
                answer.top(proposed)

        share(propose, range(len(groups)))
        proposed[silent] = -1
        rows, items = union(proposed, requests, self.depth, self.repeats, also)
        scores = np.empty((len(self.sources), len(rows)), np.float32)
        ranks = np.empty_like(scores)

        def judge(n: int) -> None:
            answers[n].at(rows, items, scores)
            rank(rows, scores, groups[n].columns, ranks)

        share(judge, range(len(groups))[::-1])
        wanted, best = blend.judge(scores, ranks)
        keep = np.arange(len(rows))
        if n is not None:
            keep = np.flatnonzero(ranks_of(rows, wanted[None])[0] < n)
            rows, items, wanted, best = rows[keep], items[keep], wanted[keep], best[keep]
        out = np.empty((2, len(keep), len(scores)), np.float32)
        turned(scores, ranks, keep, out[0], out[1])
        return Candidates(rows, items, out[0], out[1], wanted, best)

    @cached_property
    def _groups(self) -> list[Group]:
        """Sources that add up rows of tables as one, each other one alone, the lists as one."""
        return self._grouped(1)

    @cached_property
    def _finer_groups(self) -> list[Group]:
        """The same, the tables in three groups, so that two threads end at about the same time."""
        return self._grouped(3)

    def _grouped(self, n: int) -> list[Group]:
        # Those at both ends are compiled loops: the thread that begins with one lets another begin at once.
        numbered = list(enumerate(self.sources))
        tables = [(s, source.way) for s, source in numbered if isinstance(source, TableSource)]
        others = [Alone(s, source) for s, source in numbered if not isinstance(source, TableSource | ListSource)]
        parts = [tables[i::n] for i in range(n)]
        first, *rest = (Gathering([way for _, way in part], _columns(part)) for part in parts)
        return [first, *others[::-1], *rest, self._lists]

    @cached_property
    def _lists(self) -> Lists:
        lists = [(s, source) for s, source in enumerate(self.sources) if isinstance(source, ListSource)]
        return Lists([source for _, source in lists], _columns(lists))

    def save(self, folder: Path) -> None:
        """Write every source into a folder of its own, and the order that the score columns have."""
        save_retriever(folder, self.sources, self.blend, self.depth, self.repeats)

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


def _columns(numbered: Sequence[tuple[int, object]]) -> np.ndarray:
    return np.array([s for s, _ in numbered], np.int64)


def save_retriever(
    folder: Path, sources: Iterable[CandidateSource], blend: Blend, depth: int = 120, repeats: bool = True
) -> None:
    """Write what `Retriever.load` reads. Sources may come one by one, so that they need not fit into memory together.

    A table that sources next to each other share is written once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order, written = [], None
    for source in sources:
        own = folder / source.name
        own.mkdir(exist_ok=True)
        if isinstance(source, NeighbourSource) and written is not None and source.table is written.table:
            source.save_beside(own, written.name)
        else:
            source.save(own)
            written = source if isinstance(source, NeighbourSource) else None
        order.append({"name": source.name, "kind": type(source).__name__})
    blend.save(folder / "blend.json")
    config = {"sources": order, "depth": depth, "repeats": repeats}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
