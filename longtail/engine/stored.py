"""The catalogue as a bundle holds it: plain arrays in files, mapped into memory and shared by all processes.

`catalogue/arrays/` holds one file for each array and `about.json` the names behind the codes. Nothing is read at
opening, so that two million items are there at once: as Python strings they would take a gigabyte a process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longtail.engine.ids import IdTable, as_bytes
from longtail.errors import InvalidBundle
from longtail.events import Catalogue
from longtail.reranking import ItemView

FOLDER = "arrays"
ABOUT = "about.json"
VIEW = ("in_stock", "min_age", "regions", "everywhere", "created_us", "price", "margin")
CODES = ("category", "top_category", "brand")
ARRAYS = ("ids", "sorted_ids", "sorted_place", "title_start", "titles", "by_interactions", *CODES, *VIEW)
# What older bundles lack, and what stands in for it: nothing is known to come back, and nothing to be unknown.
LATER = ("return_rate", "doubt")


class StoredCatalogue(Catalogue):
    """A catalogue over stored arrays; the frame behind them is read only when somebody asks for it.

    `codes` finds item indices by id; `by_interactions` int32 [I] are all items, the one with the most interactions
    first; `view` is what re-ranking reads; `as_of` microseconds, when the item features were taken.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        given = {"_folder": folder, "_ids": arrays["ids"], "_arrays": arrays}
        given |= {name: arrays[name] for name in (*CODES, "by_interactions")}
        given |= {name: np.array(about[name], object) for name in ("categories", "top_categories", "brands")}
        given |= {"codes": IdTable(arrays["sorted_ids"], arrays["sorted_place"]), "as_of": int(about["as_of"])}
        columns = {name: arrays[name] for name in (*CODES, *VIEW)}
        given["view"] = ItemView(
            **columns, doubt=arrays["doubt"], region_codes={str(n): int(r) for n, r in about["regions"].items()}
        )
        self.__dict__.update(given)

    codes: IdTable
    by_interactions: np.ndarray
    view: ItemView
    as_of: int
    _folder: Path
    _ids: np.ndarray
    _arrays: Mapping[str, np.ndarray]

    @staticmethod
    def of(
        folder: Path, catalogue: Catalogue, interactions: np.ndarray, as_of: int, doubt: np.ndarray | None = None
    ) -> StoredCatalogue:
        """The same of a catalogue in memory; `interactions` int64 [I] ever, `doubt` as in `ItemView`."""
        view, ids = ItemView.from_catalogue(catalogue), as_bytes(catalogue.item_ids)
        codes = IdTable.of(catalogue.item_ids)
        titles = [b"" if pd.isna(t) else str(t).encode("utf-8", "replace") for t in catalogue.frame["title"]]
        arrays = {
            "ids": ids, "sorted_ids": codes.ids, "sorted_place": np.asarray(codes.place),
            "title_start": np.append(0, np.cumsum([len(t) for t in titles], dtype=np.int64)),
            "titles": np.frombuffer(b"".join(titles), np.uint8),
            "by_interactions": np.argsort(-np.asarray(interactions), kind="stable").astype(np.int32),
            "return_rate": catalogue.return_rate,
            "doubt": np.zeros(len(catalogue), np.float32) if doubt is None else doubt,
            **{name: getattr(view, name) for name in (*CODES, *VIEW)},
        }  # fmt: skip
        about = {name: getattr(catalogue, name).tolist() for name in ("categories", "top_categories", "brands")}
        return StoredCatalogue(folder, arrays, {**about, "regions": view.region_codes, "as_of": int(as_of)})

    def save(self) -> None:
        """Write the arrays into the folder of the catalogue."""
        out = self._folder / FOLDER
        out.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS + LATER:
            np.save(out / f"{name}.npy", self._arrays[name])
        about = {name: getattr(self, name).tolist() for name in ("categories", "top_categories", "brands")}
        (out / ABOUT).write_text(json.dumps({**about, "regions": self.view.region_codes, "as_of": self.as_of}))

    @staticmethod
    def open(folder: Path) -> StoredCatalogue | None:
        """Map what `save` wrote; None where there is none.

        Raises:
            InvalidBundle: the arrays cannot be read or do not fit each other.
        """
        out = folder / FOLDER
        if not (out / ABOUT).is_file():
            return None
        try:
            arrays = {name: mapped(out / f"{name}.npy") for name in ARRAYS}
            for name in LATER:
                file = out / f"{name}.npy"
                arrays[name] = mapped(file) if file.is_file() else np.zeros(len(arrays["ids"]), np.float32)
            found = StoredCatalogue(folder, arrays, json.loads((out / ABOUT).read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidBundle(f"{out} cannot be read ({type(error).__name__}: {error}): train again") from error
        lengths = {len(arrays[name]) - (name == "title_start") for name in ARRAYS + LATER if name != "titles"}
        if len(lengths) != 1 or arrays["title_start"][-1] != len(arrays["titles"]):
            raise InvalidBundle(f"{out}: its arrays have different lengths: train again")
        return found

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The item columns of the contract."""
        return pd.read_parquet(self._folder / "items.parquet")

    @property
    def item_ids(self) -> np.ndarray:
        """str object array [I], made anew."""
        return np.array(self.ids_of(np.arange(len(self))), object)

    @property
    def price(self) -> np.ndarray:
        """float32 [I], NaN where unknown."""
        return self.view.price

    @property
    def margin(self) -> np.ndarray:
        """float32 [I] share of the price, NaN where unknown."""
        return self.view.margin

    @property
    def return_rate(self) -> np.ndarray:
        """float32 [I]: the share of purchases that is expected to come back."""
        return self._arrays["return_rate"]

    @property
    def created_us(self) -> np.ndarray:
        """int64 [I] microseconds, -1 where unknown."""
        return self.view.created_us

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Item index int64 of each id, -1 for ids that the shop lacks."""
        return self.codes.find(ids)

    def ids_of(self, items: np.ndarray) -> list[str]:
        """The ids of item indices int64 [n]."""
        return [i.decode("utf-8", "surrogatepass") for i in self._ids[items].tolist()]

    def title(self, item: int) -> str:
        """What people call the item, empty where the catalogue does not say."""
        start, stop = self._arrays["title_start"][item : item + 2]
        return self._arrays["titles"][start:stop].tobytes().decode()


def mapped(path: Path) -> np.ndarray:
    """A stored array, as a plain view of the mapping: a slice of a memmap object costs a microsecond more."""
    try:
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except ValueError:  # an empty file cannot be mapped
        return np.load(path)
