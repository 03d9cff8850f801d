"""What re-ranking knows of the items and of the person, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from longtail.events import Catalogue

UNKNOWN = -1
EMPTY = np.empty(0, np.int64)


@dataclass(frozen=True)
class ItemView:
    """Columns of the catalogue, one row per item index.

    `category`, `top_category`, `brand` int32 [I] (-1 unknown); `in_stock` bool [I]; `min_age` int32 [I];
    `regions` uint64 [I, W]: bit r % 64 of word r // 64 says whether the item may be shown in region r;
    `everywhere` bool [I]: no restriction; `created_us` int64 [I] (-1 unknown); `price`, `margin` float32 [I]
    (NaN unknown); `vectors` float32 [I, d] of unit length, or None; `doubt` float32 [I]: how little is known of an
    item, see `exploration.doubt`, None: nothing is said of it; `region_codes`: region name -> r.
    """

    category: np.ndarray
    top_category: np.ndarray
    brand: np.ndarray
    in_stock: np.ndarray
    min_age: np.ndarray
    regions: np.ndarray
    everywhere: np.ndarray
    created_us: np.ndarray
    price: np.ndarray
    margin: np.ndarray
    vectors: np.ndarray | None = None
    doubt: np.ndarray | None = None
    region_codes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.in_stock)

    @staticmethod
    def from_catalogue(
        catalogue: Catalogue, vectors: np.ndarray | None = None, doubt: np.ndarray | None = None
    ) -> ItemView:
        """The view of a catalogue. `vectors` [I, d] of any length are scaled to length one (zero rows stay zero)."""
        frame = catalogue.frame
        lists = [None if _missing(names) else [str(n) for n in names] for names in frame["regions"]]
        codes = {name: r for r, name in enumerate(sorted({n for names in lists if names for n in names}))}
        regions = np.zeros((len(frame), max(1, -(-len(codes) // 64))), np.uint64)
        for item, names in enumerate(lists):
            for r in (codes[n] for n in names or ()):
                regions[item, r // 64] |= np.uint64(1 << (r % 64))
        if vectors is not None:
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = (vectors / np.where(length > 0, length, 1)).astype(np.float32)
        return ItemView(
            catalogue.category, catalogue.top_category, catalogue.brand, frame["in_stock"].to_numpy(bool),
            frame["min_age"].to_numpy(np.int32), regions, np.array([names is None for names in lists], bool),
            catalogue.created_us, catalogue.price, catalogue.margin, vectors, doubt, codes,
        )  # fmt: skip

    def region_code(self, name: str | None) -> int:
        """Code of a region, -1 when unknown: then only items without a region limit are safe."""
        return self.region_codes.get(name, UNKNOWN) if name is not None else UNKNOWN

    def take(self, items: np.ndarray) -> ItemView:
        """The rows of the given items, in that order."""
        columns = ("category", "top_category", "brand", "in_stock", "min_age", "regions", "everywhere", "created_us",
                   "price", "margin")  # fmt: skip
        vectors = None if self.vectors is None else self.vectors[items]
        doubt = None if self.doubt is None else self.doubt[items]
        return replace(self, **{c: getattr(self, c)[items] for c in columns}, vectors=vectors, doubt=doubt)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


@dataclass(frozen=True)
class PersonView:
    """The person who asks, and what they ask from: `region` code of the view (-1 unknown), `age` in years (-1 unknown).

    An unknown region or age is treated as one that no restriction allows. Item indices int64 [n]: `bought`, `seen`, and
    `anchors`, the items that the list stands beside (a product page's, a cart's), which it never repeats. `within` int
    codes of the categories that the list keeps to, None: all.
    """

    region: int = UNKNOWN
    age: int = UNKNOWN
    bought: np.ndarray = field(default_factory=lambda: EMPTY)
    seen: np.ndarray = field(default_factory=lambda: EMPTY)
    anchors: np.ndarray = field(default_factory=lambda: EMPTY)
    within: np.ndarray | None = None
