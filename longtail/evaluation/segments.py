"""Groups of people that are judged apart: by how much they did before, where they are, and on what device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from longtail.evaluation.metrics import Truth, per_case
from longtail.evaluation.slices import make_slices

HISTORY = ((0, 0, "no history"), (1, 4, "1 to 4 events"), (5, 19, "5 to 19 events"), (20, None, "20 events or more"))
MOST = 20  # regions, or devices, that are told apart: the largest


def user_segments(
    lengths: np.ndarray, region: np.ndarray, regions: Sequence[str], device: np.ndarray, devices: Sequence[str]
) -> dict[str, np.ndarray]:
    """Segment -> bool [B] of its cases; only those that hold one.

    `lengths` int64 [B] events of the history; `region` and `device` int [B] index into their names, -1 unknown.
    """
    found = {}
    for low, high, name in HISTORY:
        found[f"history: {name}"] = (lengths >= low) & (lengths <= (high if high is not None else np.inf))
    for kind, codes, names in (("region", region, regions), ("device", device, devices)):
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        for code in np.argsort(-counts, kind="stable")[:MOST]:
            found[f"{kind}: {names[code]}"] = codes == code
    return {name: cases for name, cases in found.items() if cases.any()}


def slice_cases(
    lists: np.ndarray, truth: Truth, popularity: np.ndarray, cold_user: np.ndarray,
    segments: Mapping[str, np.ndarray], metric: str,
) -> dict[str, np.ndarray]:  # fmt: skip
    """`metric` of each case by slice: float64 [B], NaN outside of it; the slices of `make_slices` and the segments."""
    k = int(metric.rpartition("@")[2])
    found = {}
    for part in make_slices(truth, popularity, cold_user):
        values = np.full(len(truth), np.nan)
        values[part.cases] = per_case(lists[part.cases], part.truth, (k,))[metric]
        found[part.name] = values
    for name, cases in segments.items():
        found[name] = np.where(cases, found["overall"], np.nan)
    return found
