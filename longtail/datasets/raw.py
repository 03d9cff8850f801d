"""What a reader hands over, before validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowException

from longtail.errors import InvalidInput

REJECT = "reject"  # an optional event column: why the reader knows that the row is no event


@dataclass(frozen=True)
class Raw:
    """Events and items in the columns of `longtail.schema`, not yet checked; further columns are kept.

    `events` is a frame, or the path of a Parquet file for logs too large for memory. `items` None: the catalogue is
    whatever the events mention. `pseudonymous`: the ids of people, sessions and devices are pseudonyms already.
    `exposures`: files of `engine.experiment_log.EXPOSURE_SCHEMA`.
    """

    events: pd.DataFrame | Path
    items: pd.DataFrame | None
    pseudonymous: bool = False
    exposures: tuple[Path, ...] = ()


def read_table(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Read a Parquet file that must hold the given columns and at least one row.

    Raises:
        InvalidInput: the file is absent, empty, no Parquet, or lacks a column.
    """
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist: the folder is not of the form this reader expects")
    if path.stat().st_size == 0:
        raise InvalidInput(f"{path} is empty: it needs at least one row")
    try:
        names = pq.read_schema(path).names
        missing = [c for c in required if c not in names]
        if missing:
            raise InvalidInput(f"{path} lacks column {missing[0]!r}: it has {', '.join(names)}")
        frame = pd.read_parquet(path)
    except (ArrowException, OSError) as error:
        raise InvalidInput(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if frame.empty:
        raise InvalidInput(f"{path} is empty: it needs at least one row")
    return frame


def as_id(values: pd.Series) -> pd.Series:
    """Ids as text, null where missing; whole numbers lose the `.0` that a float column gives them."""
    if pd.api.types.is_float_dtype(values.dtype) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("string").astype(object).where(values.notna(), None)


def order_in_group(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each row within its group in row order, and the size of the group: int64 [N] both."""
    codes, uniques = pd.factorize(groups)
    order = np.argsort(codes, kind="stable")
    size = np.bincount(codes, minlength=len(uniques))
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - np.repeat(start, size)
    return place, size[codes]
