"""What the engine keeps of a bundle in memory: items, item features, surfaces and the baked fallback lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from longtail.engine.bundle import Manifest, ranker_name, sources_of, verify
from longtail.engine.ids import IdTable
from longtail.errors import InvalidBundle
from longtail.events import Catalogue
from longtail.features.definitions import ITEM_SNAPSHOT
from longtail.features.request import ItemTable
from longtail.reranking import BoundRules, ItemView
from longtail.surfaces import BoundSurfaces, Surfaces

REASON = "picked for you"
SURFACES_FILE = "surfaces.yaml"


def write_catalogue(
    folder: Path, catalogue: Catalogue, snapshot: Mapping[str, np.ndarray], as_of: int, content: sp.csr_matrix
) -> None:
    """Write `catalogue/`: the items, their snapshot at `as_of` (microseconds; int64 [I] columns), content [I, V]."""
    out = Path(folder) / "catalogue"
    out.mkdir(parents=True, exist_ok=True)
    catalogue.frame.to_parquet(out / "items.parquet", index=False)
    columns: dict[str, Any] = {name: np.asarray(snapshot[name], np.int64) for name in ITEM_SNAPSHOT}
    np.savez(out / "item_features.npz", **columns, as_of=np.int64(as_of))
    sp.save_npz(out / "content.npz", sp.csr_matrix(content))


def write_fallback(
    folder: Path, item_ids: np.ndarray, popular: np.ndarray, by_segment: Mapping[str, np.ndarray]
) -> None:
    """Write `fallback.json`: the most popular items first, for everyone and per segment.

    `item_ids` str [I]; `popular` and each value of `by_segment` are item indices. The keys of `by_segment` are the
    segments' names in the order of their codes.
    """
    lists = {
        "popular": [str(item_ids[i]) for i in popular],
        "segments": {str(name): [str(item_ids[i]) for i in items] for name, items in by_segment.items()},
    }
    (Path(folder) / "fallback.json").write_text(json.dumps(lists))


@dataclass(frozen=True)
class Fallback:
    """Item indices int64, best first: `popular` for everyone, `by_segment[code]` for a segment."""

    popular: np.ndarray
    by_segment: list[np.ndarray]
    segments: list[str]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `sources` are names and `reasons` sentence fragments, in the order of the score columns."""

    folder: Path
    manifest: Manifest
    catalogue: Catalogue
    items: ItemTable
    as_of: int
    view: ItemView
    surfaces: BoundSurfaces
    fallback: Fallback
    sources: list[str]
    reasons: list[str]

    @staticmethod
    def open(folder: Path, contents: bool = True) -> Bundle:
        """Verify a bundle (see `verify`) and read what the engine needs of it.

        Raises:
            InvalidBundle: a part is missing, altered, unreadable, or does not fit the others.
            InvalidInput: `surfaces.yaml` has mistakes.
        """
        folder = Path(folder).resolve()
        manifest = verify(folder, contents)
        sources = sources_of(folder)
        try:
            catalogue = Catalogue.from_frame(pd.read_parquet(folder / "catalogue" / "items.parquet"))
            with np.load(folder / "catalogue" / "item_features.npz") as stored:
                snapshot = {name: stored[name].astype(np.int64) for name in ITEM_SNAPSHOT}
                as_of = int(stored["as_of"])
            content = sp.csr_matrix(sp.load_npz(folder / "catalogue" / "content.npz"))
            fallback = _fallback(json.loads((folder / "fallback.json").read_text()), catalogue, snapshot["n_all"])
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise InvalidBundle(f"{folder} cannot be read ({type(error).__name__}: {error}): train again") from error
        if not all(len(column) == len(catalogue) for column in snapshot.values()) or content.shape[0] != len(catalogue):
            raise InvalidBundle(f"{folder}/catalogue: items and item features have different lengths: train again")
        file = folder / SURFACES_FILE
        surfaces = Surfaces.load(file) if file.is_file() else Surfaces.default()
        names = [s["name"] for s in sources]
        return Bundle(
            folder, manifest, catalogue, ItemTable(snapshot, catalogue, content), as_of,
            ItemView.from_catalogue(catalogue), surfaces.bind(catalogue, names), fallback,
            names, [s.get("reason") or REASON for s in sources],
        )  # fmt: skip

    @property
    def rules(self) -> BoundRules:
        """What holds on the homepage."""
        return self.surfaces["homepage"].rules

    @property
    def version(self) -> str:
        """What tells this bundle from others."""
        return self.manifest.version

    @cached_property
    def item_ids(self) -> np.ndarray:
        """str object array [I]."""
        return self.catalogue.item_ids

    @cached_property
    def titles(self) -> np.ndarray:
        """What people call the items, str object array [I]; None where the catalogue does not say."""
        titles = self.catalogue.frame["title"].to_numpy(object, copy=True)
        titles[pd.isna(titles)] = None
        return titles

    @cached_property
    def codes(self) -> IdTable:
        """Item index by item id."""
        return IdTable.of(self.item_ids)

    @cached_property
    def ranker(self) -> str:
        """The name of the ranker's model: that of the folder under `ranker/`."""
        return ranker_name(self.folder)

    def segment_code(self, name: str | None) -> int:
        """Code of a segment, -1 unknown."""
        return self._segments.get(name, -1) if name is not None else -1

    @cached_property
    def _segments(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.fallback.segments)}


def _fallback(raw: dict, catalogue: Catalogue, interactions: np.ndarray) -> Fallback:
    codes = pd.Index(catalogue.item_ids)

    def known(ids: list[str]) -> np.ndarray:
        found = codes.get_indexer(pd.Index(ids, dtype=object)).astype(np.int64)
        return found[found >= 0]

    segments = list(raw["segments"])
    # Whatever the filters take away from the popular items, every item of the shop stands behind them.
    popular = known(raw["popular"])
    rest = np.setdiff1d(np.arange(len(catalogue), dtype=np.int64), popular)
    rest = rest[np.argsort(-interactions[rest], kind="stable")]
    return Fallback(np.concatenate([popular, rest]), [known(raw["segments"][s]) for s in segments], segments)
