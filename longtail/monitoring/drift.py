"""Features and predictions as they were served, against those of the training reference."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from longtail.engine.baked import BakedPeople
from longtail.engine.impressions import Impression, each_row
from longtail.engine.parts import Bundle
from longtail.features.request import feature_list
from longtail.monitoring.judging import Measured
from longtail.monitoring.log import PARTS, iso
from longtail.monitoring.reference import Reference
from longtail.schema import DAY_US

# They say what day it is, and how long ago the snapshot was taken: the ages have checks of their own.
CALENDAR = (
    "context_weekday", "item_age", "item_since_last", "item_listed", "user_age", "user_since_last", "user_interval",
)  # fmt: skip
LEAST = 100  # items: fewer say nothing
TENTHS = np.arange(1, 10) / 10
SPREAD = 24  # files at least, of those of a day, that the sample is taken from


@dataclass(frozen=True)
class Served:
    """Lists that a bundle made in full, of one day: `rows` [M]; of N shown items `request` int64 [N] into `rows`,
    `item` int64 [N], `features` float32 [N, F] and `score` float32 [N] as they were served; `known` bool [N]: they were
    shown to somebody whom the bundle knows."""

    rows: list[Impression]
    request: np.ndarray
    item: np.ndarray
    features: np.ndarray
    score: np.ndarray
    known: np.ndarray
    why_not: str = ""


def sample(folder: Path, day: int, bundle: Bundle, most: int, seed: int = 0) -> Served:
    """At most `most` shown items with their features from the impression log of a day (midnight, microseconds).

    They come from files all over the day, a part of each, so that a log of gigabytes costs a few of its files.
    """
    width = len(feature_list(bundle.sources))
    files = sorted(p for p in (Path(folder) / "impressions").glob(PARTS) if p.parent.name[5:] == iso(day))
    rng = np.random.default_rng([seed, day // DAY_US])
    rows: list[Impression] = []
    parts: list[tuple[np.ndarray, ...]] = []
    found, why = 0, Counts()
    for path in (files[n] for n in rng.permutation(len(files))):
        left = math.ceil(most / max(min(len(files), SPREAD), 1))  # of this file
        table = pq.ParquetFile(path).read()
        for row, features in each_row(table.take(rng.permutation(table.num_rows)[:left])):
            reason = _unfit(row, features, bundle, width)
            if reason:
                why.add(reason)
                continue
            part = _shown(row, features, bundle)
            rows.append(row)
            parts.append((np.full(len(part[0]), len(rows) - 1), *part))
            found += len(part[0])
            left -= len(part[0])
            if left <= 0 or found >= most:
                break
        if found >= most:
            break
    if not parts:
        none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, width), np.float32), np.empty(0, np.float32)
        return Served([], *none, np.empty(0, bool), why.most(len(files)))
    request, item, features, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    people = BakedPeople.open(bundle.folder).ids.find([row.user_id or "" for row in rows]) >= 0
    known = (people & np.array([row.user_id is not None for row in rows]))[request]
    return Served(rows, request, item, features, score, known)


class Counts(dict[str, int]):
    """How often lists were passed over, by reason."""

    def add(self, reason: str) -> None:
        """One more."""
        self[reason] = self.get(reason, 0) + 1

    def most(self, files: int) -> str:
        """The commonest reason."""
        return max(self, key=lambda r: self[r]) if self else "the log holds no lists of the day"


def _unfit(row: Impression, features: np.ndarray, bundle: Bundle, width: int) -> str:
    if row.model_version != bundle.version:
        return "the lists of the day are another bundle's"
    if row.level != "full" or row.made != "live":
        return "no list of the day was made in full at its time"
    if not len(row.candidates) or features.shape != (len(row.candidates), width):
        return "the impression log holds no features: serve with `--impression-features shown`"
    return ""


def _shown(row: Impression, features: np.ndarray, bundle: Bundle) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item, features, score) of the shown items that the ranker scored."""
    codes = bundle.codes.find(row.items)
    order = np.argsort(row.candidates, kind="stable")
    at = order[np.searchsorted(row.candidates[order], codes).clip(max=len(order) - 1)]
    known = np.flatnonzero(row.candidates[at] == codes)
    return codes[known], features[at[known]], np.asarray(row.score, np.float32)[known]


def measure(served: Served, reference: Reference | None, sources: Sequence[str], least: int) -> list[Measured]:
    """How unlike every feature and the scores are to training, and how many items lack a feature; nothing below `least`
    lists.

    Whom the bundle does not know, features of the person are missing for, or 0, and they are more each day that it is
    not trained again. So features, and what training lacked of them, are weighed by the day's own shares of people
    known and new.
    """
    names = [f.name for f in feature_list(sources)]
    if reference is None or len(served.rows) < least or reference.features.shape[1] != len(names):
        why = "the bundle holds no training reference: train again" if reference is None else served.why_not
        why = why or f"only {len(served.rows)} lists were made in full"
        return [
            Measured(n, "", math.nan, why_not=why) for n in ("feature_drift", "feature_missing", "prediction_drift")
        ]
    out = []
    then_known = reference.features[:, names.index("user_n_all")] > 0
    groups = [(served.known, then_known), (~served.known, ~then_known)]
    groups = [(mine, theirs) for mine, theirs in groups if theirs.sum() >= LEAST]
    judged = sum((mine for mine, _ in groups), np.zeros(len(served.known), bool))
    as_many = _as_many(groups)
    for n, name in enumerate(names):
        now, then = served.features[:, n], reference.features[:, n]
        lacking, lacked = np.isnan(now), np.isnan(then)
        out.append(_missing(name, lacking[judged], sum(mine.sum() * lacked[theirs].mean() for mine, theirs in groups)))
        if name not in CALENDAR:
            edges = tenths(then[~lacked]) if not lacked.all() else np.empty(0)
            out.append(_unlike("feature_drift", name, now[judged], then[as_many], edges))
    out.append(_unlike("prediction_drift", "", served.score, reference.score, tenths(reference.score)))
    return out


def _missing(name: str, lacking: np.ndarray, usual: float) -> Measured:
    """`usual`: how many of these items would lack it, had each group of people as many as in training."""
    if len(lacking) < LEAST:
        return Measured("feature_missing", name, math.nan, why_not="hardly any item went to people as in training")
    return Measured("feature_missing", name, float(lacking.mean()), training=float(usual / len(lacking)))


def _unlike(check: str, part: str, now: np.ndarray, then: np.ndarray, edges: np.ndarray) -> Measured:
    now, then = now[~np.isnan(now)], then[~np.isnan(then)]
    if len(now) < LEAST or len(then) < LEAST:
        return Measured(check, part, math.nan, why_not="hardly any item has it")
    return Measured(check, part, distance(now, then, edges))


def _as_many(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Rows of the reference, about as many as it has, in which each group (bool [N] of today, bool [M] of the
    reference) has the share that it has today; int64."""
    total, today = sum(theirs.sum() for _, theirs in groups), sum(mine.sum() for mine, _ in groups)
    found = [np.empty(0, np.int64)]
    for mine, theirs in groups:
        rows = np.flatnonzero(theirs)
        at = np.linspace(0, len(rows) - 1, round(total * mine.sum() / max(today, 1)))
        found.append(rows[at.astype(np.int64)])
    return np.concatenate(found)


def tenths(then: np.ndarray) -> np.ndarray:
    """The inner edges of the tenths of a sample, float [9] at most: values that fill several tenths share one.

    Left to itself, Evidently lays bins of equal width over both samples together: one item with a rare value, shown or
    sold out, moves all edges, and a value that many items share falls into the bin beside although nobody changed.
    """
    return np.unique(np.quantile(then, TENTHS, method="inverted_cdf"))


def distance(now: np.ndarray, then: np.ndarray, edges: np.ndarray) -> float:
    """Evidently's Jensen-Shannon distance of two samples, float [N] and [M], over the bins between `edges`: 0 where
    they are alike, .83 where they have nothing in common.

    A small distance d is a population stability index of 8 d^2. That index has the logarithm of each bin's share, which
    knows no bound: where all that is left in a bin is one item, and it is sold out, the index alone calls a drift.

    Evidently's test alone: a whole report spends nearly all of its time on pictures.
    """
    os.environ.setdefault("ITERATIVE_DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.calculations.stattests.jensenshannon import jensenshannon_stat_test
        from evidently.legacy.core import ColumnType

        series = (pd.Series(np.searchsorted(edges, values)) for values in (then, now))
        return float(jensenshannon_stat_test.func(*series, ColumnType.Categorical, 0.0)[0])
