"""The truth behind the simulated shop: who likes what, when, and what an item is. Tests only may read it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longtail.datasets.simulated_words import BRANDS, LEAVES, STYLES
from longtail.schema import DAY_US

DIM = len(STYLES)
NEVER = 10**6


@dataclass(frozen=True)
class Drift:
    """A change of the world that starts on a day: the test bench of monitoring.

    `tastes` 0..1 is how far every person's tastes move to new ones, `prices` and `traffic` are factors.
    """

    start_day: int
    tastes: float = 0.0
    prices: float = 1.0
    traffic: float = 1.0


@dataclass(frozen=True)
class Truth:
    """Tastes of U people and the nature of I items; days count from `start_us` (microseconds).

    `user_ids` str [U] and `item_ids` str [I] as they stand in the shop folder beside; `user_vector` and
    `user_vector_after` (from `drift_day` on) float32 [U, D], `item_vector` float32 [I, D], `quality` [I], `log_price`
    [I], `price_taste` [U] (preferred log price relative to the category), `price_weight` [U], `novelty` [U],
    `leaf`/`top`/`brand` int [I], `created_day`/`retired_day` int [I], `region` int [U], `sold_in` bool [G, I],
    `season_phase` (day of the year) and `season_size` [T], `center`/`scale` that standardise the utility,
    `examination` [k]: the chance that a place of a list is looked at.
    """

    start_us: int
    user_ids: np.ndarray
    item_ids: np.ndarray
    user_vector: np.ndarray
    user_vector_after: np.ndarray
    item_vector: np.ndarray
    quality: np.ndarray
    log_price: np.ndarray
    relative_price: np.ndarray
    price_taste: np.ndarray
    price_weight: np.ndarray
    novelty: np.ndarray
    leaf: np.ndarray
    top: np.ndarray
    brand: np.ndarray
    consumable: np.ndarray
    created_day: np.ndarray
    retired_day: np.ndarray
    region: np.ndarray
    sold_in: np.ndarray
    season_phase: np.ndarray
    season_size: np.ndarray
    examination: np.ndarray
    drift_day: int
    drift_prices: float
    center: float
    scale: float

    def save(self, folder: Path) -> None:
        """Write `truth.npz` into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        np.savez_compressed(folder / "truth.npz", **arrays)

    @staticmethod
    def load(folder: Path) -> Truth:
        """Read the truth beside a simulated shop (`shop/truth`)."""
        with np.load(Path(folder) / "truth.npz") as data:
            return Truth(**{k: (data[k].item() if data[k].ndim == 0 else data[k]) for k in data.files})

    def renamed(self, user_ids: list[str]) -> Truth:
        """The same people under other ids."""
        return replace(self, user_ids=np.array(user_ids))

    def utility(self, users: np.ndarray, items: np.ndarray, day: np.ndarray | float) -> np.ndarray:
        """Standardised utility, float32, of user and item indices that broadcast, on a (fractional) day."""
        taste = np.where(np.asarray(day) >= self.drift_day, 1, 0)
        vectors = self.user_vector[users] if not taste.any() else np.where(
            taste[..., None] == 1, self.user_vector_after[users], self.user_vector[users]
        )  # fmt: skip
        dot = np.einsum("...d,...d->...", vectors, self.item_vector[items])
        return self._rest(dot, users, items, day)

    def _rest(self, dot: np.ndarray, users: np.ndarray, items: np.ndarray, day: np.ndarray | float) -> np.ndarray:
        price = self.relative_price[items] + np.where(np.asarray(day) >= self.drift_day, np.log(self.drift_prices), 0)
        fit = -self.price_weight[users] * (price - self.price_taste[users]) ** 2
        top = self.top[items]
        season = self.season_size[top] * np.cos(2 * np.pi * (day - self.season_phase[top]) / 365.25)
        age = np.maximum(day - self.created_day[items], 0)
        fresh = self.novelty[users] * np.exp(-age / 21)
        return ((dot + fit + season + fresh + self.quality[items] - self.center) / self.scale).astype(np.float32)


def true_utility(truth: Truth, users: np.ndarray, items: np.ndarray, time: np.ndarray | int) -> np.ndarray:
    """How much each person wants each item, float32 [B, J], in standard deviations over all pairs.

    `users` int [B] and `items` int [J] are indices into `truth.user_ids` and `truth.item_ids`; `time` is microseconds,
    one number or int64 [B]. What is sold out or not sold in the region is not excluded: see `available`.
    """
    day = np.broadcast_to((np.asarray(time, np.float64) - truth.start_us) / DAY_US, len(users))
    late = day >= truth.drift_day
    vectors = np.where(late[:, None], truth.user_vector_after[users], truth.user_vector[users])
    return truth._rest(
        vectors @ truth.item_vector[items].T, np.asarray(users)[:, None], np.asarray(items)[None], day[:, None]
    )


def available(truth: Truth, users: np.ndarray, time: np.ndarray | int) -> np.ndarray:
    """bool [B, I]: the item exists at that time and is sold in the person's region."""
    day = np.broadcast_to((np.asarray(time, np.float64) - truth.start_us) / DAY_US, len(users))[:, None]
    return (truth.created_day <= day) & (truth.retired_day > day) & truth.sold_in[truth.region[users]]


def build_world(
    users: int, items: int, days: int, start_us: int, regions: int, list_size: int, drift: Drift | None, seed: int
) -> tuple[Truth, pd.DataFrame]:
    """The truth and the item frame (columns of the item contract, `regions` as region codes) of a shop."""
    rng = np.random.default_rng([seed, 1])
    paths = list(LEAVES)
    tops, leaf_top = np.unique([p.split("/")[0] for p in paths], return_inverse=True)
    leaf = rng.permutation(np.arange(items) % len(paths))
    home = rng.dirichlet(np.full(len(BRANDS), 0.12), len(tops))  # a brand lives in one or two departments
    brand = np.array([rng.choice(len(BRANDS), p=home[t]) for t in leaf_top[leaf]], np.int32)
    leaf_vector, brand_vector = (rng.normal(size=(n, DIM)) for n in (len(paths), len(BRANDS)))
    leaf_vector += 0.6 * rng.normal(size=(len(tops), DIM))[leaf_top]
    own = rng.normal(size=(items, DIM))
    item_vector = (0.62 * leaf_vector[leaf] + 0.35 * brand_vector[brand] + 0.7 * own) / np.sqrt(DIM)
    typical = np.log(np.array([LEAVES[p][0] for p in paths]))
    relative = rng.normal(0, 0.5, items)
    created = np.where(rng.random(items) < 0.65, -rng.integers(1, 700, items), rng.integers(0, max(days, 1), items))
    retired = np.where(rng.random(items) < 0.12, np.maximum(created, 0) + rng.integers(30, 400, items), NEVER)
    everywhere = rng.random(items) < 0.88
    sold_in = everywhere | (rng.random((regions, items)) < 0.5)
    sold_in[rng.integers(0, regions, items), np.arange(items)] = True
    truth = Truth(
        start_us, np.array([f"u{n:07d}" for n in range(users)]), np.array([f"i{n:06d}" for n in range(items)]),
        *_people(rng, users, leaf_vector, drift), item_vector.astype(np.float32),
        rng.gumbel(0, 0.32, items).astype(np.float32), (typical[leaf] + relative).astype(np.float32),
        relative.astype(np.float32), rng.normal(0, 0.6, users).astype(np.float32),
        rng.gamma(2, 0.15, users).astype(np.float32), rng.gamma(1.5, 0.25, users).astype(np.float32),
        leaf.astype(np.int32), leaf_top[leaf].astype(np.int32), brand,
        np.array([LEAVES[p][1] for p in paths])[leaf], created.astype(np.int32), retired.astype(np.int32),
        rng.choice(regions, users, p=_shares(regions)).astype(np.int32), sold_in,
        rng.uniform(0, 365, len(tops)), rng.uniform(0.05, 0.5, len(tops)),
        (1 / np.arange(1, list_size + 1) ** 0.7).astype(np.float32),
        drift.start_day if drift else NEVER, drift.prices if drift else 1.0, 0.0, 1.0,
    )  # fmt: skip
    sample = truth.utility(rng.integers(0, users, 20_000), rng.integers(0, items, 20_000), 0.0)
    truth = replace(truth, center=float(sample.mean()), scale=float(sample.std()) or 1.0)
    return truth, _item_frame(rng, truth, paths, item_vector, own)


def _shares(n: int) -> np.ndarray:
    weights = 0.6 ** np.arange(n)
    return weights / weights.sum()


def _people(
    rng: np.random.Generator, n: int, leaf_vector: np.ndarray, drift: Drift | None
) -> tuple[np.ndarray, np.ndarray]:
    """Taste vectors before and after the drift, float32 [n, D]: each loves a few categories, in their own style."""

    def draw() -> np.ndarray:
        loved = leaf_vector[rng.integers(0, len(leaf_vector), (n, 3))] * np.array([1.0, 0.7, 0.45])[:, None]
        mixed = loved.sum(1) + 1.1 * rng.normal(size=(n, DIM))
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True) * np.sqrt(DIM) * 1.3

    before, new = draw(), draw()
    x = drift.tastes if drift else 0.0
    return before.astype(np.float32), (np.sqrt(max(1 - x * x, 0.0)) * before + x * new).astype(np.float32)


def _item_frame(
    rng: np.random.Generator, truth: Truth, paths: list[str], vector: np.ndarray, own: np.ndarray
) -> pd.DataFrame:
    """Titles and texts whose adjectives follow the item's own vector, so that content says something about taste."""
    style = np.array(STYLES)
    first = np.argmax(np.abs(own), axis=1)
    rows = np.arange(len(vector))
    look = style[first, (own[rows, first] < 0).astype(int)]
    strongest = np.argsort(-np.abs(vector), axis=1)[:, :5]
    words = style[strongest, (np.take_along_axis(vector, strongest, 1) < 0).astype(int)]
    noun = [LEAVES[paths[c]][3][n] for c, n in zip(truth.leaf, rng.integers(0, 4, len(rows)), strict=True)]
    brand = np.array(BRANDS)[truth.brand]
    title = [f"{b} {a} {n}" for b, a, n in zip(brand, look, noun, strict=True)]
    category = np.array(paths)[truth.leaf]
    everywhere = np.all(truth.sold_in, axis=0).tolist()
    return pd.DataFrame(
        {
            "item_id": truth.item_ids,
            "title": title,
            "category": category,
            "brand": brand,
            "price": np.round(np.exp(truth.log_price.astype(np.float64)), 2),
            "margin": np.round(rng.beta(6, 10, len(rows)), 3),
            "in_stock": True,
            "created_at": pd.to_datetime(
                truth.start_us + truth.created_day.astype(np.int64) * DAY_US, unit="us", utc=True
            ),
            "regions": [
                None if e else list(np.flatnonzero(s)) for e, s in zip(everywhere, truth.sold_in.T, strict=True)
            ],
            "min_age": np.array([18 if LEAVES[p][2] else 0 for p in paths], np.int32)[truth.leaf],
            "text": [
                f"{t}. {' '.join(w.lower() for w in ws)} {c.replace('/', ' ').replace('-', ' ')}"
                for t, ws, c in zip(title, words, category, strict=True)
            ],
        }
    )
