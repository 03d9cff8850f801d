"""What the ranker reads of the items, computed once per snapshot and laid out so that a candidate is one short read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.compiled import frozen
from longtail.errors import InvalidBundle
from longtail.events import Catalogue
from longtail.features.definitions import DECAY_UNIT, HALF_LIVES, ITEM_SNAPSHOT, ITEM_WINDOWS

FOLDER = "item_table"
CHUNK = 200_000  # items at a time: bounds memory, changes no value
# Columns of `ItemArrays.facts`.
FIRST, LAST, CREATED, CATEGORY, BRAND = range(5)


@dataclass(frozen=True)
class ItemArrays:
    """I items in rows.

    `matrix` float32 [I, n]: the features of the group item in their order, zero where they need the time of a request;
    `facts` int64 [I, 5]: `first_us`, `last_us`, `created_us` and the codes of category and brand; the content csr
    [I, V] as `content_indptr` int64 [I + 1], `content_indices` int32 and `content_data` float32. All are read-only.
    """

    matrix: np.ndarray
    facts: np.ndarray
    content_indptr: np.ndarray
    content_indices: np.ndarray
    content_data: np.ndarray

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def arrays(self) -> ItemArrays:
        """Itself: what is stored stands where a table would be computed."""
        return self

    @staticmethod
    def of(snapshot: Mapping[str, np.ndarray], catalogue: Catalogue, content: sp.csr_matrix) -> ItemArrays:
        """Compute them from a snapshot, int64 [I] per column of `ITEM_SNAPSHOT`."""
        n = len(catalogue)
        listed = {"price": catalogue.price, "margin": catalogue.margin, "created_us": catalogue.created_us}
        matrix = np.empty((n, len(ITEM_COLUMNS)), np.float32)
        for a in range(0, n, CHUNK):
            part = slice(a, a + CHUNK)
            columns = _columns({k: v[part] for k, v in snapshot.items()}, {k: v[part] for k, v in listed.items()})
            for place, (_, _, values) in enumerate(columns):
                matrix[part, place] = values
        facts = np.empty((n, 5), np.int64)
        facts[:, FIRST], facts[:, LAST] = snapshot["first_us"], snapshot["last_us"]
        facts[:, CREATED] = listed["created_us"]
        facts[:, CATEGORY], facts[:, BRAND] = catalogue.category, catalogue.brand
        return ItemArrays(
            frozen(matrix, np.float32), frozen(facts, np.int64), frozen(content.indptr, np.int64),
            frozen(content.indices, np.int32), frozen(content.data, np.float32),
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write `item_table/` into a folder, one array a file."""
        out = Path(folder) / FOLDER
        out.mkdir(parents=True, exist_ok=True)
        for name in self.__dataclass_fields__:
            np.save(out / f"{name}.npy", getattr(self, name))
        (out / "columns.json").write_text(json.dumps([name for name, _ in ITEM_COLUMNS]))

    @staticmethod
    def open(folder: Path) -> ItemArrays | None:
        """Map what `save` wrote; None where there is none, or where it holds other columns than this version computes.

        Raises:
            InvalidBundle: the files do not fit each other.
        """
        out = Path(folder) / FOLDER
        if not (out / "columns.json").is_file():
            return None
        try:
            if json.loads((out / "columns.json").read_text()) != [name for name, _ in ITEM_COLUMNS]:
                return None
            found = ItemArrays(**{n: _mapped(out / f"{n}.npy", t) for n, t in TYPES.items()})
        except (OSError, ValueError) as error:
            raise InvalidBundle(f"{out} cannot be read ({type(error).__name__}: {error}): train again") from error
        nnz = found.content_indptr[-1] if len(found.content_indptr) else -1
        lengths = {len(found.matrix), len(found.facts), len(found.content_indptr) - 1}
        if len(lengths) != 1 or {len(found.content_indices), len(found.content_data)} != {nnz}:
            raise InvalidBundle(f"{out}: its arrays have different lengths: train again")
        return found


TYPES = {
    "matrix": np.float32, "facts": np.int64, "content_indptr": np.int64, "content_indices": np.int32,
    "content_data": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class ItemTable:
    """The item snapshot in force, with what the catalogue says of the items.

    `snapshot` int64 [I] per column of `ITEM_SNAPSHOT`; `content` csr float32 [I, V], rows of unit length.
    """

    snapshot: Mapping[str, np.ndarray]
    catalogue: Catalogue
    content: sp.csr_matrix

    @cached_property
    def arrays(self) -> ItemArrays:
        """What `assemble` reads, computed when it is first needed."""
        return ItemArrays.of(self.snapshot, self.catalogue, self.content)


def _mapped(path: Path, dtype: type) -> np.ndarray:
    try:
        return frozen(np.load(path, mmap_mode="r"), dtype)
    except ValueError:  # an empty file cannot be mapped
        return frozen(np.load(path), dtype)


def _log(counts: np.ndarray) -> np.ndarray:
    return np.log1p(np.asarray(counts, np.float64)).astype(np.float32)


def _columns(
    s: Mapping[str, np.ndarray], listed: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, str, np.ndarray | float]]:
    """Name, meaning and values of each item feature; 0 stands where the values need the time of the request."""
    for d in ITEM_WINDOWS:
        yield f"item_n_{d}d", f"log interactions in {d} days", _log(s[f"n_{d}d"])
    yield "item_n_all", "log interactions ever", _log(s["n_all"])
    for name in ("buy_7d", "buy_30d", "buy_90d", "buy_all", "carts_30d", "returns_90d", "users_all"):
        yield f"item_{name}", f"log {ITEM_SNAPSHOT[name]}", _log(s[name])
    pop = {h: (s[f"pop_{h}d"] / DECAY_UNIT).astype(np.float32) for h in HALF_LIVES}
    for h in HALF_LIVES:
        yield f"item_pop_{h}d", f"interactions, halved every {h} days", pop[h]
    for fast, slow in ((3, 7), (3, 30), (7, 30), (14, 60), (60, 365)):
        yield f"item_trend_{fast}_{slow}", f"popularity at {fast} days over {slow} days", pop[fast] / (pop[slow] + 1)
    for d in (7, 30):
        rate = (s[f"clicks_{d}d"] + 1) / (s[f"impressions_{d}d"] + 20)
        yield f"item_ctr_{d}d", f"clicks per impression in {d} days, smoothed", rate
    rate = (s["buy_30d"] + 1) / (s["clicks_30d"] + 20)
    yield "item_conversion_30d", "purchases per click in 30 days, smoothed", rate
    rate = s["repeat_users"] / np.maximum(s["users_all"], 1)
    yield "item_repeat_rate", "share of its people who came back to it", rate
    yield "item_age", "days since its first interaction", 0
    yield "item_since_last", "days since its last interaction", 0
    yield "item_listed", "days since it entered the catalogue", 0
    # What a purchase brought on average stands in for a price that the catalogue does not tell.
    paid = np.where(s["spend_all"] > 0, s["spend_all"] / np.maximum(s["quantity_all"], 1), np.nan)
    price = np.where(np.isnan(listed["price"]), paid, listed["price"])
    yield "item_price", "log price", np.log1p(np.maximum(price, 0))
    yield "item_margin", "margin as a share of the price", listed["margin"]
    quantity = s["quantity_all"] / 100 / np.maximum(s["n_all"], 1)
    yield "item_quantity", "log mean quantity", np.log1p(quantity)


_NOTHING = np.empty(0, np.int64)
ITEM_COLUMNS = [
    (name, meaning)
    for name, meaning, _ in _columns(
        dict.fromkeys(ITEM_SNAPSHOT, _NOTHING), dict.fromkeys(("price", "margin"), _NOTHING)
    )
]
