"""The two stages judged as ONE system, beside the simple systems and each source alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from longtail.errors import InvalidInput
from longtail.evaluation.bootstrap import RESAMPLES, Interval, intervals
from longtail.evaluation.frontier import Frontier, Point
from longtail.evaluation.metrics import Truth, check_lists, coverage, diversity, exposure, gini, novelty, per_case
from longtail.evaluation.slices import make_slices

Role = Literal["system", "baseline", "source"]


@dataclass(frozen=True)
class SystemFigures:
    """One system's figures.

    `slices`: slice -> metric -> interval; `catalogue`: coverage, Gini, novelty, diversity at the largest k;
    `gain`: interval of (main system - this one) on the primary metric, None for the main system itself.
    """

    name: str
    role: Role
    slices: dict[str, dict[str, Interval]]
    catalogue: dict[str, float]
    gain: Interval | None = None


@dataclass(frozen=True)
class Report:
    """All figures of one evaluation; `systems` in the order given, the main one named by `main`.

    `meanings`: slice -> what it holds; `exposure`: system -> share of all showings that the most shown 1, 2, 5, ...% of
    the catalogue get, at `EXPOSURE_SHARES`; `unseen`: nothing that is judged had been learned from; `frontiers`: what
    the goals of money cost.
    """

    main: str
    primary: str
    ks: tuple[int, ...]
    cases: int
    n_items: int
    systems: list[SystemFigures]
    meanings: dict[str, str]
    exposure: dict[str, list[float]]
    importance: dict[str, float] = field(default_factory=dict)
    unseen: bool = True
    frontiers: list[Frontier] = field(default_factory=list)

    def system(self, name: str) -> SystemFigures:
        """The figures of one system."""
        return next(s for s in self.systems if s.name == name)

    def figures(self) -> dict[str, float]:
        """Flat means of the main system for a tracker or a manifest: `ndcg@10`, `tail items/ndcg@10`, `coverage`."""
        found = self.system(self.main)
        flat = dict(found.catalogue)
        for part, metrics in found.slices.items():
            for metric, value in metrics.items():
                flat[metric if part == "overall" else f"{part}/{metric}"] = value.mean
        return flat

    def to_json(self) -> str:
        """The report as JSON; a figure that does not exist is null."""
        return json.dumps(_plain(asdict(self)), indent=1)

    @staticmethod
    def from_json(text: str) -> Report:
        """What `to_json` wrote."""
        data = json.loads(text)
        data["ks"] = tuple(data["ks"])
        data["systems"] = [
            SystemFigures(
                s["name"], s["role"],
                {p: {m: _interval(v) for m, v in metrics.items()} for p, metrics in s["slices"].items()},
                {n: float("nan") if v is None else v for n, v in s["catalogue"].items()},
                None if s["gain"] is None else _interval(s["gain"]),
            )
            for s in data["systems"]
        ]  # fmt: skip
        data["frontiers"] = [
            Frontier(f["goal"], f["k"], tuple(
                Point(p["share"], *(_interval(p[name]) for name in ("ndcg", "brings", "gain", "cost")))
                for p in f["points"]
            ))
            for f in data.get("frontiers", [])
        ]  # fmt: skip
        return Report(**data)


EXPOSURE_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def judge(
    lists_by_system: Mapping[str, np.ndarray],
    truth: Truth,
    *,
    main: str,
    n_items: int,
    item_popularity: np.ndarray,
    cold_user: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    ks: Sequence[int] = (10, 20),
    primary: str = "ndcg@10",
    roles: Mapping[str, Role] | None = None,
    importance: Mapping[str, float] | None = None,
    unseen: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Judge every system on the same cases.

    Args:
        lists_by_system: name -> int64 [B, k] padded with -1, best first.
        main: the system that the report is about; its gain over each other system is measured in pairs.
        item_popularity: int64 [I] interactions in the training part.
        cold_user: bool [B], people without a history.
        groups: int [I] category codes, for the diversity within a list.
        roles: "baseline" or "source" of the systems that are not the main kind; "system" otherwise.
        importance: feature -> share of the ranker's gain, passed through to the page.
        unseen: False where the main system learned from cases that it is judged by; the page then says so.

    Raises:
        InvalidInput: no such main system or metric, lists of another number of cases, or an item twice in a list.
    """
    if main not in lists_by_system:
        raise InvalidInput(f"no lists of the system {main!r}: have {', '.join(lists_by_system)}")
    top = max(ks)
    lists = {name: check_lists(found)[:, :top] for name, found in lists_by_system.items()}
    parts = make_slices(truth, item_popularity, cold_user)
    if not parts:
        raise InvalidInput("no test case wants anything: nothing can be judged, use a longer log or an earlier cut")
    systems = list(lists)
    by_system: dict[str, dict[str, dict[str, Interval]]] = {name: {} for name in systems}
    gains: dict[str, Interval | None] = {}
    for part in parts:
        cases = {name: per_case(lists[name][part.cases], part.truth, ks) for name in systems}
        metrics = list(cases[main])
        if primary not in metrics:
            raise InvalidInput(f"no metric {primary!r}: choose one of {', '.join(metrics)}")
        columns = [cases[name][metric] for name in systems for metric in metrics]
        if part.name == "overall":
            columns += [cases[main][primary] - cases[name][primary] for name in systems]
        found = iter(intervals(np.stack(columns, axis=1), resamples=resamples, seed=seed))
        for name in systems:
            by_system[name][part.name] = {metric: next(found) for metric in metrics}
        gains |= {name: next(found) for name in systems} if part.name == "overall" else {}
    gains[main] = None
    role = dict(roles or {})
    return Report(
        main, primary, tuple(ks), len(parts[0].cases), n_items,
        [
            SystemFigures(name, role.get(name, "system"), by_system[name],
                          _catalogue(lists[name], n_items, item_popularity, groups), gains[name])
            for name in systems
        ],
        {p.name: p.meaning for p in parts},
        {name: _concentration(lists[name], n_items) for name in systems},
        dict(importance or {}),
        unseen,
    )  # fmt: skip


def _catalogue(lists: np.ndarray, n_items: int, popularity: np.ndarray, groups: np.ndarray | None) -> dict[str, float]:
    out = {
        "coverage": coverage(lists, n_items),
        "gini": gini(exposure(lists, n_items)),
        "novelty": _mean(novelty(lists, popularity)),
        "filled": float((lists >= 0).mean()) if lists.size else 0.0,
    }
    if groups is not None:
        out["diversity"] = _mean(diversity(lists, groups))
    return out


def _concentration(lists: np.ndarray, n_items: int) -> list[float]:
    shown = np.sort(exposure(lists, n_items))[::-1]
    total = max(int(shown.sum()), 1)
    return [float(shown[: max(1, round(share * n_items))].sum() / total) for share in EXPOSURE_SHARES]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _interval(data: dict[str, Any]) -> Interval:
    mean, low, high = (float("nan") if data[k] is None else data[k] for k in ("mean", "low", "high"))
    return Interval(mean, low, high, data["cases"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
