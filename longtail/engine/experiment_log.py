"""The logs of experiments: who met which variant (`exposures/`), and whose item stood where in a duel (`drafts/`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from longtail.engine.daily_log import DailyLog
from longtail.metrics import DRAFTS, DRAFTS_DROPPED, EXPOSURES, EXPOSURES_DROPPED

_WHO = [
    ("time", pa.timestamp("us", tz="UTC")),
    ("experiment", pa.string()),
    ("user_id", pa.string()),
    ("session_id", pa.string()),
    ("request_id", pa.string()),
    ("surface", pa.string()),
]
EXPOSURE_SCHEMA = pa.schema([*_WHO, ("variant", pa.string()), ("device", pa.string()), ("region", pa.string())])
DRAFT_SCHEMA = pa.schema([*_WHO, ("items", pa.list_(pa.string())), ("team", pa.list_(pa.int8()))])


@dataclass(frozen=True, slots=True)
class Exposed:
    """A list that showed a person what a variant is; `time` in microseconds, ids are pseudonyms."""

    time: int
    experiment: str
    user_id: str | None
    session_id: str | None
    request_id: str
    surface: str
    variant: str
    device: str | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """An interleaved list and, for each item, whose choice it was: 0 the control's, 1 the other's."""

    time: int
    experiment: str
    user_id: str | None
    session_id: str | None
    request_id: str
    surface: str
    items: list[str]
    team: list[int]


class ExposureLog(DailyLog[Exposed]):
    """Exposures, see `DailyLog`."""

    name, written, dropped = "exposures", EXPOSURES, EXPOSURES_DROPPED

    def table(self, rows: Sequence[Exposed]) -> pa.Table:
        """The rows as a table of `EXPOSURE_SCHEMA`."""
        return _table(rows, EXPOSURE_SCHEMA)


class DraftLog(DailyLog[Drafted]):
    """Drafts, see `DailyLog`."""

    name, written, dropped = "drafts", DRAFTS, DRAFTS_DROPPED

    def table(self, rows: Sequence[Drafted]) -> pa.Table:
        """The rows as a table of `DRAFT_SCHEMA`."""
        return _table(rows, DRAFT_SCHEMA)


def _table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    columns: dict[str, list] = {f.name: [getattr(row, f.name) for row in rows] for f in fields(rows[0])}
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
