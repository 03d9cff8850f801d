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
from longtail.engine.stored import StoredCatalogue
from longtail.errors import InvalidBundle
from longtail.events import Catalogue
from longtail.features.definitions import ITEM_SNAPSHOT
from longtail.features.item_table import ItemArrays
from longtail.reranking import BoundRules, ItemView
from longtail.reranking.exploration import doubt
from longtail.surfaces import BoundSurfaces, Surfaces

REASON = "picked for you"
SURFACES_FILE = "surfaces.yaml"


def write_catalogue(
    folder: Path, catalogue: Catalogue, snapshot: Mapping[str, np.ndarray], as_of: int, content: sp.csr_matrix
) -> None:
    """Write `catalogue/`: the items, their snapshot at `as_of` (microseconds; int64 [I] columns), content [I, V].

    What servers read lies beside them as arrays, see `StoredCatalogue` and `ItemArrays`.
    """
    out = Path(folder) / "catalogue"
    out.mkdir(parents=True, exist_ok=True)
    catalogue.frame.to_parquet(out / "items.parquet", index=False)
    columns: dict[str, Any] = {name: np.asarray(snapshot[name], np.int64) for name in ITEM_SNAPSHOT}
    np.savez_compressed(out / "item_features.npz", **columns, as_of=np.int64(as_of))
    unknown = doubt(columns["clicks_30d"], columns["impressions_30d"])
    StoredCatalogue.of(out, catalogue, columns["n_all"], as_of, unknown).save()
    ItemArrays.of(columns, catalogue, sp.csr_matrix(content)).save(out)


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
    catalogue: StoredCatalogue
    items: ItemArrays
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
        catalogue, items = open_catalogue(folder)
        try:
            fallback = _fallback(json.loads((folder / "fallback.json").read_text()), catalogue)
        except (OSError, ValueError, KeyError) as error:
            raise InvalidBundle(f"{folder} cannot be read ({type(error).__name__}: {error}): train again") from error
        surfaces = own_surfaces(folder)
        names = [s["name"] for s in sources]
        return Bundle(
            folder, manifest, catalogue, items, catalogue.as_of, catalogue.view, surfaces.bind(catalogue, names),
            fallback, names, [s.get("reason") or REASON for s in sources],
        )  # fmt: skip

    @property
    def rules(self) -> BoundRules:
        """What holds on the homepage."""
        return self.surfaces["homepage"].rules

    @property
    def version(self) -> str:
        """What tells this bundle from others."""
        return self.manifest.version

    @property
    def codes(self) -> IdTable:
        """Item index by item id."""
        return self.catalogue.codes

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


def own_surfaces(folder: Path) -> Surfaces:
    """The surfaces that a bundle folder holds, else the built-in ones.

    Raises:
        InvalidInput: `surfaces.yaml` has mistakes.
    """
    file = Path(folder) / SURFACES_FILE
    return Surfaces.load(file) if file.is_file() else Surfaces.default()


def open_catalogue(folder: Path) -> tuple[StoredCatalogue, ItemArrays]:
    """What servers read of `catalogue/` in a bundle folder.

    Raises:
        InvalidBundle: it is missing, unreadable, or its parts do not fit.
    """
    folder = Path(folder) / "catalogue"
    catalogue, items = StoredCatalogue.open(folder), ItemArrays.open(folder)
    if catalogue is None or items is None:
        catalogue, items = _arrays_of(folder)
    if len(catalogue) != len(items):
        raise InvalidBundle(f"{folder}: items and item features have different lengths: train again")
    return catalogue, items


def _arrays_of(folder: Path) -> tuple[StoredCatalogue, ItemArrays]:
    """What older bundles do not hold as arrays, made of what they hold."""
    try:
        catalogue = Catalogue.from_frame(pd.read_parquet(folder / "items.parquet"))
        with np.load(folder / "item_features.npz") as stored:
            snapshot = {name: stored[name].astype(np.int64) for name in ITEM_SNAPSHOT}
            as_of = int(stored["as_of"])
        content = sp.csr_matrix(sp.load_npz(folder / "content.npz"))
        if not all(len(column) == len(catalogue) for column in snapshot.values()):
            raise ValueError("items and item features have different lengths")
        unknown = doubt(snapshot["clicks_30d"], snapshot["impressions_30d"])
        stored_catalogue = StoredCatalogue.of(folder, catalogue, snapshot["n_all"], as_of, unknown)
        return stored_catalogue, ItemArrays.of(snapshot, catalogue, content)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InvalidBundle(f"{folder} cannot be read ({type(error).__name__}: {error}): train again") from error


def _fallback(raw: dict, catalogue: StoredCatalogue) -> Fallback:
    def known(ids: list[str]) -> np.ndarray:
        found = catalogue.find(ids)
        return found[found >= 0]

    segments = list(raw["segments"])
    # Whatever the filters take away from the popular items, every item of the shop stands behind them.
    popular = known(raw["popular"])
    named = np.zeros(len(catalogue), bool)
    named[popular] = True
    rest = catalogue.by_interactions[~named[catalogue.by_interactions]]
    return Fallback(np.concatenate([popular, rest]), [known(raw["segments"][s]) for s in segments], segments)
