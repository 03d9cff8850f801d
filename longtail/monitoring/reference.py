"""The training reference: what serving is compared with, written beside the model that it describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.errors import InvalidBundle
from longtail.events import Catalogue
from longtail.features.request import feature_list
from longtail.monitoring.data import LEAST, hours, missing
from longtail.monitoring.log import open_log
from longtail.ranking.two_stage import Shown
from longtail.schema import DAY_US

FOLDER = "reference"
ABOUT, FEATURES, EXPOSURE = "reference.json", "features.parquet", "exposure.npy"
PREDICTION = "prediction"
DAYS = 28  # newest days of the training log that tell what is usual
NEW_DAYS = 28  # how long an item is new


@dataclass(frozen=True)
class About:
    """Times in microseconds: the newest event that the ranker, the index, and the stored features know of.

    `sources`: share of the shown places by source. `new_items`: that of items listed in the `NEW_DAYS` before.
    `hours`: events by hour of the day. `missing`: share of events that lack a column. `places`: how many places a day
    are compared, half of those of a usual day in the training log.
    """

    model_until: int
    index_until: int
    features_until: int
    sources: dict[str, float]
    new_items: float
    hours: list[int]
    missing: dict[str, float]
    places: int


@dataclass(frozen=True)
class Reference:
    """`features` float32 [N, F], columns as in `feature_list`, and `score` float32 [N] of items that the bundle would
    have shown in the newest window before it was made; `exposure` int64 [I], the places that each item got there."""

    about: About
    features: np.ndarray
    score: np.ndarray
    exposure: np.ndarray

    @staticmethod
    def read(bundle: Path) -> Reference | None:
        """The reference of a bundle folder; None in one that was made without.

        Raises:
            InvalidBundle: it is not readable.
        """
        folder = Path(bundle) / FOLDER
        if not (folder / ABOUT).is_file():
            return None
        try:
            about = About(**json.loads((folder / ABOUT).read_text()))
            table = pq.read_table(folder / FEATURES)
            columns = [table[name].to_numpy() for name in table.column_names]
            features = np.column_stack(columns[:-1]).astype(np.float32)
            return Reference(about, features, columns[-1].astype(np.float32), np.load(folder / EXPOSURE))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise InvalidBundle(f"{folder} cannot be read ({type(error).__name__}: {error}): train again") from error


def write_reference(
    folder: Path, shop: Path, shown: Shown, lists: np.ndarray, catalogue: Catalogue, sources: Sequence[str], until: int,
    moment: int, learned: int,
) -> None:  # fmt: skip
    """Write a reference into `folder`: of the imported shop `shop`, whose log ends at `until` (microseconds), and a
    ranker that knows of what came before `learned`.

    `shown` is what the ranker saw of items that it would have shown at `moment` or in the days after it, `lists` int64
    [B, k] all that it would have shown, padded with -1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f.name for f in feature_list(sources)]
    table = pa.table({name: shown.features[:, n] for n, name in enumerate(names)} | {PREDICTION: shown.score})
    pq.write_table(table, folder / FEATURES, compression="zstd")
    exposure = np.bincount(lists[lists >= 0], minlength=len(catalogue)).astype(np.int64)
    np.save(folder / EXPOSURE, exposure)
    created = catalogue.created_us
    new = (created > 0) & (created >= moment - NEW_DAYS * DAY_US)
    share = np.bincount(shown.source, minlength=len(sources)) / max(len(shown.source), 1)
    with open_log(shop, until - DAYS * DAY_US, until, []) as log:
        lack = {name: lacks / of for name, (lacks, of) in missing(log).items() if of >= LEAST}
        by_hour = hours(log)
        daily = [n for (n,) in log.rows(f"SELECT count(*) FROM shown GROUP BY time // {DAY_US}")]
    about = About(
        model_until=learned, index_until=until, features_until=until,
        sources=dict(zip(sources, share.round(6).tolist(), strict=True)),
        new_items=float(exposure[new].sum() / max(exposure.sum(), 1)), hours=by_hour.tolist(), missing=lack,
        places=int(np.clip(np.median(daily) / 2 if daily else 2_000, 100, 20_000)),
    )  # fmt: skip
    (folder / ABOUT).write_text(json.dumps(asdict(about), indent=1))
