"""Everybody's history as the bundle holds it: plain arrays in files, mapped into memory and shared by all processes.

`people/` holds `ids.npy` (the ids as bytes of one width, ascending), `segment.npy`, `indptr.npy` and one file per
column of `Histories`, all in the order of the ids, and `about.json`. Nothing is read at opening: two million people
are there in milliseconds, and a person is found by binary search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.engine.ids import IdTable, as_bytes
from longtail.errors import InvalidBundle
from longtail.events import Histories, Log
from longtail.events.log import ragged_take

FOLDER = "people"
ABOUT = "about.json"
USERS_FILE = "users.parquet"
LAST = 100
COLUMNS = {
    "item": np.int32, "time": np.int64, "kind": np.int8, "strength": np.float32, "quantity": np.float32,
    "session": np.int32,
}  # fmt: skip


@dataclass(frozen=True)
class BakedPeople:
    """U people: `ids`, `segment` int32 [U] index into `segments` (-1 unknown), `history` of the `last` newest events.

    Row numbers are places in the order of the ids.
    """

    ids: IdTable
    segment: np.ndarray
    segments: list[str]
    history: Histories
    last: int

    def __len__(self) -> int:
        return len(self.segment)

    @staticmethod
    def open(bundle: Path) -> BakedPeople:
        """Map the people of a bundle folder.

        Raises:
            InvalidBundle: a file is missing, unreadable, or does not fit the others.
        """
        folder = Path(bundle) / FOLDER
        try:
            about = json.loads((folder / ABOUT).read_text())
            ids = IdTable(_mapped(folder, "ids"))
            segment, indptr = _mapped(folder, "segment"), _mapped(folder, "indptr")
            columns = {name: _mapped(folder, name) for name in COLUMNS}
            segments, last = [str(s) for s in about["segments"]], int(about["last"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidBundle(f"{folder} cannot be read ({type(error).__name__}: {error}): train again") from error
        fits = len(indptr) == len(ids) + 1 and len(segment) == len(ids)
        if not fits or any(len(c) != indptr[-1] or c.dtype != COLUMNS[n] for n, c in columns.items()):
            raise InvalidBundle(f"{folder}: ids, segments and events have different lengths: train again")
        return BakedPeople(ids, segment, segments, Histories(indptr, **columns), last)

    def histories(self, rows: np.ndarray) -> Histories:
        """The histories of the given rows int64 [B], -1 for people of whom nothing is known."""
        if len(rows) == 1:  # slices of the file, no copy: nearly every request
            start, stop = self.history.indptr[rows[0] : rows[0] + 2] if rows[0] >= 0 else (0, 0)
            cut = {name: getattr(self.history, name)[start:stop] for name in COLUMNS}
            return Histories(np.array([0, stop - start], np.int64), **cut)
        known = np.flatnonzero(rows >= 0)
        flat, known_indptr = ragged_take(self.history.indptr, rows[known])
        lengths = np.zeros(len(rows), np.int64)
        lengths[known] = np.diff(known_indptr)
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Histories(indptr, **{name: getattr(self.history, name)[flat] for name in COLUMNS})

    def segment_of(self, rows: np.ndarray) -> np.ndarray:
        """The segment int32 [B] of the given rows, -1 unknown."""
        out = np.full(len(rows), -1, np.int32)
        known = rows >= 0
        out[known] = self.segment[rows[known]]
        return out


def write_people(
    folder: Path, log: Log, user_ids: np.ndarray, segment: np.ndarray, segments: np.ndarray, last: int = LAST
) -> None:
    """Write `people/` (see the module) and `users.parquet` (id, segment name), a list for people and other programs.

    `user_ids` str [n_users] pseudonyms; `segment` int32 [n_users] index into `segments`, -1 unknown; `last` newest
    interactions of each are kept.
    """
    names = [str(s) for s in segments]
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array(segment.astype(np.int32), mask=segment < 0), pa.array(names, pa.string())
    )
    users = pa.table({"user_id": pa.array(user_ids, pa.string()), "segment": dictionary.dictionary_decode()})
    pq.write_table(users, Path(folder) / USERS_FILE)
    positives = log.positives
    indptr = positives.indptr()
    start = np.maximum(indptr[1:] - last, indptr[:-1])
    events = Histories(indptr, **{name: getattr(positives, name) for name in COLUMNS})
    write_histories(folder, as_bytes(user_ids), segment, names, replace(events, indptr=indptr), last, start)


def write_histories(
    folder: Path, ids: np.ndarray, segment: np.ndarray, segments: Sequence[str], history: Histories, last: int,
    start: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write `people/` of U people in any order: `ids` bytes [U], `segment` int32 [U], `history` of U rows.

    `start` int64 [U] leaves out what lies before it in the flat columns of `history`.
    """
    out = Path(folder) / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    order = np.argsort(ids, kind="stable")
    begin = (history.indptr[:-1] if start is None else start)[order]
    length = history.indptr[1:][order] - begin
    indptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    flat = np.arange(indptr[-1]) + np.repeat(begin - indptr[:-1], length)
    arrays = {"ids": ids[order], "segment": segment[order].astype(np.int32), "indptr": indptr}
    arrays |= {name: getattr(history, name)[flat].astype(dtype) for name, dtype in COLUMNS.items()}
    for name, values in arrays.items():
        np.save(out / f"{name}.npy", values)
    (out / ABOUT).write_text(json.dumps({"segments": list(segments), "last": int(last)}))


def _mapped(folder: Path, name: str) -> np.ndarray:
    # A plain view of the mapping: a slice of a memmap object costs a microsecond more. Empty files cannot be mapped.
    try:
        return np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
    except ValueError:
        return np.load(folder / f"{name}.npy")
