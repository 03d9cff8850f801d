"""What the steps share: folders that appear whole, and reading what an earlier step left in its folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from longtail.errors import InvalidInput
from longtail.events import Shop
from longtail.schema import DAY_US
from longtail.training import PAST, Proposals, TrainingConfig, TrainingSet, prepare

Figures = dict[str, Any]
VERDICT = "verdict.json"
SLICES = "slices.npz"  # of each case the deciding metric, by part of people and items
REFERENCE = "reference"  # features and scores that monitoring compares with
JUDGED = 3_000  # requests of the newest window that the evaluation answers


def say(line: str) -> None:
    """A line of progress; a step's output is its log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def fresh(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, put in its place at the end."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.parent / f".{out.name}.{os.getpid()}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        shutil.rmtree(out, ignore_errors=True)
        os.rename(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def end_of(shop: Shop) -> int:
    """Just after the newest event, microseconds."""
    return int(shop.log.time.max()) + 1


def fingerprint(shop: Path) -> str:
    """Identifies the events and items of an imported shop: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for name in ("events.parquet", "items.parquet"):
        with (shop / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def load(shop: Path, config: TrainingConfig) -> TrainingSet:
    """The training set of an imported shop; its windows end with the log.

    Raises:
        InvalidInput: not one window fits into the log.
    """
    loaded = Shop.load(shop)
    data = prepare(loaded, end_of(loaded), config)
    if not data.windows():
        days = (data.until - int(data.positives.time.min())) / DAY_US
        needed, fits = config.window_days / (1 - PAST), int(days * (1 - PAST))
        shorter = f", or set window_days to {fits}" if fits else ""
        raise InvalidInput(
            f"the log tells of {days:.1f} days, and training needs {needed:.1f} for a window of {config.window_days} "
            f"and a past before it: import a longer log{shorter}"
        )
    return data


def learned_windows(candidates: Path) -> list[tuple[int, int]]:
    """(start, stop) microseconds of the windows that the ranker learns from, as `build_candidates` chose them."""
    about = json.loads((candidates / "about.json").read_text())
    return [(int(start), int(stop)) for start, stop in about["windows"]]


def read_proposals(candidates: Path) -> Proposals:
    """What `build_candidates` wrote."""
    from longtail.ranking.ranker import TrainingRows

    about = json.loads((candidates / "about.json").read_text())
    with np.load(candidates / "training.npz") as stored:
        rows = TrainingRows(*(stored[name] for name in ("features", "gain", "sizes", "weight")))
        return Proposals(rows, stored["scores"], stored["ranks"], about["sources"], about["recall"])
