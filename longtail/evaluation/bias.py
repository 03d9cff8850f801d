"""The bias report: what gets shown against the catalogue and what people chose, and how well each group is served."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.evaluation.bootstrap import RESAMPLES, Interval, intervals
from longtail.events import Catalogue
from longtail.schema import DAY_US

MOST = 15  # groups of a kind that are told apart, the largest; what is left is "others"
AGES_DAYS = (7, 30, 90, 365)
SPARE = 1.25  # a group is named when it surely gets more, or less, than what people chose of it by this factor
SMALL = 0.01  # shares below this are not worth a sentence
KINDS = {
    "category": "Category",
    "brand": "Supplier (brand)",
    "price": "Price band: fifths of the catalogue by price",
    "age": "Newness: time since the item was listed",
    "popularity": "Popularity: tenths of the items by what people chose before, 1 the most chosen",
}
Groups = dict[str, tuple[np.ndarray, list[str]]]


@dataclass(frozen=True)
class GroupShare:
    """A group's share of the catalogue's items, of what people had `chosen` before, and of the places `shown`."""

    kind: str
    name: str
    items: int
    catalogue: float
    chosen: float
    shown: Interval


@dataclass(frozen=True)
class Served:
    """How well a group of people is served: `metric` with its interval."""

    segment: str
    value: Interval


@dataclass(frozen=True)
class BiasReport:
    """`places` that were filled for `cases` requests; `chose` says what counts as chosen."""

    metric: str
    cases: int
    places: int
    chose: str
    groups: list[GroupShare]
    people: list[Served]

    def findings(self) -> list[str]:
        """What stands out, a sentence each: who surely gets more or less than was chosen, who is served worse."""
        found = []
        for g in self.groups:
            if max(g.chosen, g.shown.mean) < SMALL:
                continue
            if g.shown.low > SPARE * g.chosen:
                found.append((g.shown.low / max(g.chosen, 1e-9), "more", g))
            elif g.shown.high < g.chosen / SPARE:
                found.append((g.chosen / max(g.shown.high, 1e-9), "fewer", g))
        told = [
            f"{KINDS[g.kind].split(':')[0]} {g.name} gets {way} places ({g.shown.mean:.1%}) than people chose of it "
            f"({g.chosen:.1%})."
            for _, way, g in sorted(found, key=lambda f: -f[0])
        ]
        overall = next((s.value for s in self.people if s.segment == "overall"), None)
        worse = [s for s in self.people if overall and s.value.cases and s.value.high < overall.low]
        told += [
            f"People of the group {s.segment} are served worse: {self.metric} {s.value.mean:.3f}, everybody's is "
            f"{overall.mean:.3f}."
            for s in worse
            if overall
        ]
        return told

    def to_json(self) -> str:
        """All figures; one that does not exist is null."""
        content = {**asdict(self), "findings": self.findings(), "kinds": KINDS}
        return json.dumps(_plain(content), indent=1)

    @staticmethod
    def from_json(text: str) -> BiasReport:
        """What `to_json` wrote."""
        data = json.loads(text)
        groups = [GroupShare(**{**g, "shown": _interval(g["shown"])}) for g in data["groups"]]
        people = [Served(p["segment"], _interval(p["value"])) for p in data["people"]]
        return BiasReport(data["metric"], data["cases"], data["places"], data["chose"], groups, people)


def item_groups(catalogue: Catalogue, chosen: np.ndarray, now: int) -> Groups:
    """Kind -> (code int [I] per item, -1 unknown, names). `chosen` int64 [I] counts; `now` microseconds."""
    found: Groups = {}
    for kind, coded, words in (
        ("category", catalogue.top_category, catalogue.top_categories),
        ("brand", catalogue.brand, catalogue.brands),
    ):
        if len(words):
            found[kind] = _largest(coded, [str(n) for n in words])
    price = catalogue.price
    known = np.isfinite(price)
    if known.any():
        edges = np.unique(np.quantile(price[known], [0.2, 0.4, 0.6, 0.8]))
        bounds = [f"{edge:.4g}" for edge in edges]
        names = [f"up to {bounds[0]}", *(f"{a} to {b}" for a, b in zip(bounds, bounds[1:], strict=False))]
        codes = np.where(known, np.searchsorted(edges, price, side="left"), -1)
        found["price"] = codes, [*names, f"over {bounds[-1]}"]
    created = catalogue.created_us
    if (created >= 0).any():
        codes = np.where(created >= 0, np.searchsorted(AGES_DAYS, (now - created) / DAY_US), -1)
        between = [f"{a} to {b} days" for a, b in zip(AGES_DAYS, AGES_DAYS[1:], strict=False)]
        found["age"] = codes, [f"up to {AGES_DAYS[0]} days", *between, f"over {AGES_DAYS[-1]} days"]
    order = np.lexsort((np.arange(len(chosen)), -chosen))
    decile = np.empty(len(chosen), np.int64)
    decile[order] = np.arange(len(chosen)) * 10 // max(len(chosen), 1)
    found["popularity"] = decile, [str(n) for n in range(1, 11)]
    return found


def bias_report(
    lists: np.ndarray, chosen: np.ndarray, groups: Groups, people: Mapping[str, np.ndarray], metric: str,
    chose: str = "what people chose before", resamples: int = RESAMPLES, seed: int = 0,
) -> BiasReport:  # fmt: skip
    """Who is shown, and who is served well.

    Args:
        lists: int64 [B, k] shown items padded with -1.
        chosen: int64 [I] how often each item was chosen before.
        groups: as `item_groups` makes them; items of no known group are left out of the shares of that kind.
        people: segment -> `metric` of its cases, float [B], NaN outside; "overall" is everybody.
    """
    shares = []
    for kind, (codes, names) in groups.items():  # codes int [I]
        known, n = codes >= 0, len(names)
        catalogue = np.bincount(codes[known], minlength=n) / max(int(known.sum()), 1)
        weights = chosen[known].astype(np.float64)
        bought = np.bincount(codes[known], weights=weights, minlength=n) / max(float(weights.sum()), 1.0)
        filled = lists >= 0
        place = np.where(filled, codes[np.where(filled, lists, 0)], -1)
        of_case = np.stack([(place == g).sum(axis=1) for g in range(n)], axis=1).astype(np.float64)
        total = (place >= 0).sum(axis=1, keepdims=True)
        of_case = np.divide(of_case, total, out=np.full_like(of_case, np.nan), where=total > 0)
        found = intervals(of_case, resamples=resamples, seed=seed)
        sizes = np.bincount(codes[known], minlength=n)
        shares += [
            GroupShare(kind, names[g], int(sizes[g]), float(catalogue[g]), float(bought[g]), found[g])
            for g in range(n)
            if sizes[g]
        ]
    named = list(people)
    values = np.stack([np.asarray(people[name], np.float64) for name in named], axis=1)
    served = [Served(n, v) for n, v in zip(named, intervals(values, resamples=resamples, seed=seed), strict=True)]
    return BiasReport(metric, len(lists), int((lists >= 0).sum()), chose, shares, served)


def render(report: BiasReport, title: str = "Who gets shown, and who is served") -> str:
    """The report as HTML that needs no other file."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    template = environment.from_string(Path(__file__).with_name("bias.html.j2").read_text(encoding="utf-8"))
    kinds = {kind: [g for g in report.groups if g.kind == kind] for kind in KINDS}
    widest = max((max(g.catalogue, g.chosen, g.shown.mean) for g in report.groups), default=1.0) or 1.0
    return template.render(title=title, report=report, kinds={k: v for k, v in kinds.items() if v}, words=KINDS,
                           widest=widest)  # fmt: skip


def write_bias(report: BiasReport, folder: Path) -> None:
    """Write `bias.json` and `bias.html` into an existing folder; each appears whole or not at all."""
    for name, text in (("bias.json", report.to_json()), ("bias.html", render(report))):
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, folder / name)


def _largest(codes: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The groups with the most items keep their name, the rest together are `others`."""
    if len(names) <= MOST:
        return codes, list(names)
    kept = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(names)), kind="stable")[: MOST - 1]
    place = np.full(len(names) + 1, MOST - 1)
    place[kept], place[-1] = np.arange(MOST - 1), -1  # code -1 reads the last entry
    return place[codes], [*(names[c] for c in kept), "others"]


def _interval(data: Mapping[str, Any]) -> Interval:
    mean, low, high = (float("nan") if data[k] is None else data[k] for k in ("mean", "low", "high"))
    return Interval(mean, low, high, data["cases"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
