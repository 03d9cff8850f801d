"""What the page needs to know of a bundle: names and prices of items, people to be, words for features."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.engine.bundle import Manifest, sources_of
from longtail.engine.parts import SURFACES_FILE
from longtail.errors import InvalidBundle
from longtail.features.request import feature_list
from longtail.surfaces import Surfaces
from serving.playground.people import People

COLUMNS = ("title", "category", "brand", "price", "image_url")


@dataclass(frozen=True)
class Shelf:
    """A bundle's catalogue, people and vocabulary, read once; nothing in it changes."""

    manifest: Manifest
    items: pd.DataFrame
    people: People
    segments: list[str]
    sources: list[dict[str, str]]
    features: dict[str, str]
    surfaces: list[dict[str, Any]]

    @staticmethod
    def open(folder: Path) -> Shelf:
        """Read a bundle.

        Raises:
            InvalidBundle: the folder is no bundle, or a part of it cannot be read.
            InvalidInput: its surfaces have mistakes.
        """
        folder = Path(folder).resolve()
        manifest = Manifest.read(folder)
        try:
            path = folder / "catalogue" / "items.parquet"
            wanted = [c for c in ("item_id", *COLUMNS) if c in pq.read_schema(path).names]
            items = pd.read_parquet(path, columns=wanted).drop_duplicates("item_id").set_index("item_id")
            segments = list(json.loads((folder / "fallback.json").read_text())["segments"])
            people = People.read(folder, tops_of(items))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise InvalidBundle(f"{folder} cannot be read ({type(error).__name__}: {error}): train again") from error
        sources = sources_of(folder)
        features = {feature.name: feature.meaning for feature in feature_list([s["name"] for s in sources])}
        return Shelf(manifest, items, people, segments, sources, features, surfaces_of(folder))

    def details(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Title, category, brand, price and picture address of the items that are known, as far as they are known."""
        places = self.items.index.get_indexer(pd.Index(list(ids), dtype=object))
        found = self.items.iloc[places[places >= 0]]
        columns = {name: found[name].tolist() for name in found.columns}
        return {
            str(item): {name: values[n] for name, values in columns.items() if _known(values[n])}
            for n, item in enumerate(found.index)
        }

    @cached_property
    def categories(self) -> list[str]:
        """Every category path of the catalogue, in order."""
        if "category" not in self.items:
            return []
        return sorted(str(c) for c in self.items["category"].dropna().unique())

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Item ids of catalogue rows."""
        return [str(self.items.index[row]) for row in rows]


def surfaces_of(folder: Path) -> list[dict[str, Any]]:
    """The surfaces of a bundle and what each asks of a request."""
    path = folder / SURFACES_FILE
    known = (Surfaces.load(path) if path.is_file() else Surfaces.default()).surfaces
    return [surface.model_dump(include={"k", "anchor", "within", "made"}) | {"name": n} for n, surface in known.items()]


def tops_of(items: pd.DataFrame) -> pd.Categorical:
    """The first part of each item's category path; an item without a category has none."""
    if "category" not in items:
        return pd.Categorical([None] * len(items), categories=[])
    return pd.Categorical(items["category"].astype("string").str.split("/").str[0].astype(object))


def _known(value: object) -> bool:
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))
