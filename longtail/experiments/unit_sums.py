"""A metric's moments from the tables of `log.UnitLog`: day by day, by slice, and by the age of a unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longtail.experiments.log import UnitLog, Window
from longtail.experiments.metrics import Metric
from longtail.experiments.moments import Moments
from longtail.schema import DAY_US

HISTORY = "CASE WHEN before.unit IS NULL THEN 'new' ELSE 'known' END"
# The cumulated sum with this day minus the one before it: so squares of sums add up over days.
STEPS = """
SELECT variant, day, sum(x - x0), sum(d - d0), sum(x * x - x0 * x0), sum(x * d - x0 * d0), sum(d * d - d0 * d0),
    sum((x - x0) * c), sum((d - d0) * c)
FROM (
    SELECT variant, day, c, least(sum(x) OVER upto, {cap}) AS x, least(coalesce(sum(x) OVER past, 0), {cap}) AS x0,
        sum(d) OVER upto AS d, coalesce(sum(d) OVER past, 0) AS d0
    FROM (
        SELECT unit, variant, day, coalesce(c, 0) AS c, {x} AS x, {d} AS d
        FROM unit_day JOIN units USING (unit) LEFT JOIN covariate USING (unit)
    )
    WINDOW upto AS (PARTITION BY unit ORDER BY day ROWS UNBOUNDED PRECEDING),
        past AS (PARTITION BY unit ORDER BY day ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) GROUP BY ALL
"""
TOTALS = """
SELECT {by}, variant, count(*), sum(x), sum(d), sum(c), sum(x * x), sum(x * d), sum(d * d), sum(x * c), sum(d * c),
    sum(c * c)
FROM (
    SELECT units.*, {label} least(coalesce(s.x, 0), {cap}) AS x, {one} AS d, coalesce(c, 0) AS c
    FROM units LEFT JOIN (SELECT unit, sum({x}) AS x, sum({d}) AS d FROM {sums} GROUP BY unit) s USING (unit)
    LEFT JOIN covariate USING (unit) {more}
    WHERE NOT crossed {where}
) GROUP BY ALL
"""
AGES = """
SELECT variant, age, sum(x), sum(d), sum(x * x), sum(x * d), sum(d * d)
FROM (SELECT variant, age, least({x}, {cap}) AS x, {d} AS d FROM unit_age JOIN units USING (unit)
    WHERE first <= {end} - (age + 1) * {day})
GROUP BY ALL
"""


class MetricSums:
    """One metric over the tables that `log.units` and `log.sums` made. `cap` is what a unit's sum counts at most.

    The covariate is the metric of the days before; of a ratio metric it is the numerator less what the denominator
    would make one expect.
    """

    def __init__(self, log: UnitLog, metric: Metric, window: Window, variants: Sequence[str]) -> None:
        self._con, self._metric, self._window, self._variants = log.con, metric, window, list(variants)
        self._x, self._d = metric.numerator, metric.denominator or "0"
        self.cap = self._cap("unit_day")
        before = f"least({self._x}, {_number(self._cap('before'))})"
        if metric.denominator:
            found = self._con.execute(f"SELECT sum({before}) / nullif(sum({self._d}), 0) FROM before").fetchone()
            before = f"{before} - {self._d} * {(found and found[0]) or 0.0!r}"
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE covariate AS SELECT unit, {before} AS c FROM before")

    def daily(self) -> Moments:
        """Everything up to the end of each day, moments of shape [variants, days]."""
        shape = (len(self._variants), self._window.days)
        n, c, cc = (np.zeros(shape) for _ in range(3))
        came = self._con.execute(
            "SELECT variant, entered, count(*), sum(coalesce(c, 0)), sum(coalesce(c, 0) ** 2) FROM units "
            "LEFT JOIN covariate USING (unit) WHERE NOT crossed GROUP BY ALL"
        ).fetchall()
        for variant, day, *values in came:
            at = self._variants.index(variant), day
            n[at], c[at], cc[at] = values
        steps = np.zeros((*shape, 7))
        query = STEPS.format(cap=_number(self.cap), x=self._x, d=self._d)
        for variant, day, *values in self._con.execute(query).fetchall():
            steps[self._variants.index(variant), day] = values
        n, c, cc, steps = (np.cumsum(a, axis=1) for a in (n, c, cc, steps))
        x, d, xx, xd, dd, xc, dc = np.moveaxis(steps, -1, 0)
        if self._metric.denominator is None:
            d, xd, dd, dc = n, x, n, c
        return _moments(n, x, d, c, xx, xd, dd, xc, dc, cc)

    def slices(self, by: str) -> dict[str, Moments]:
        """Moments of shape [variants] for each part of `by`: history, surface, device or region."""
        history = by == "history"
        return self._totals(
            by="part", label=f"{HISTORY if history else by} AS part,", sums="unit_day",
            more="LEFT JOIN before USING (unit)" if history else "", where="" if history else f"AND {by} IS NOT NULL",
        )  # fmt: skip

    def by_age(self) -> Moments:
        """Each day since a unit's first exposure by itself, of the units whose day is over: [variants, days]."""
        shape = (len(self._variants), self._window.days)
        n = np.zeros((shape[0], shape[1] + 1))
        over = f"({self._window.end} - first) // {DAY_US}"
        whole = f"SELECT variant, {over}, count(*) FROM units WHERE NOT crossed GROUP BY ALL"
        for variant, days, count in self._con.execute(whole).fetchall():
            n[self._variants.index(variant), days] = count
        n = np.cumsum(n[:, ::-1], axis=1)[:, ::-1][:, 1:]
        sums = np.zeros((*shape, 5))
        query = AGES.format(cap=_number(self.cap), x=self._x, d=self._d, end=self._window.end, day=DAY_US)
        for variant, age, *values in self._con.execute(query).fetchall():
            sums[self._variants.index(variant), age] = values
        x, d, xx, xd, dd = np.moveaxis(sums, -1, 0)
        if self._metric.denominator is None:
            d, xd, dd = n, x, n
        return _moments(n, x, d, 0 * n, xx, xd, dd, 0 * n, 0 * n, 0 * n)

    def _aged(self, low: int, high: int, whole: int) -> Moments:
        """The days [low, high) since the first exposure, of units that have been in for `whole` days: [variants]."""
        return self._totals(
            by="'all'", label="", sums=f"(SELECT * FROM unit_age WHERE age >= {low} AND age < {high})", more="",
            where=f"AND first <= {self._window.end - whole * DAY_US}",
        ).get("all", self._none())  # fmt: skip

    def early_and_late(self) -> tuple[int, Moments, Moments, Moments] | None:
        """Days h, the moments [variants] of the first h days and of the next h days since first exposure, and those of
        late minus early unit by unit; of units that have been in for 2 h days. None when there are none in each arm."""
        half = min(7, self._window.days // 3)
        early, late = self._aged(0, half, 2 * half), self._aged(half, 2 * half, 2 * half)
        if half < 1 or (early.n < 2).any():
            return None
        # A ratio metric's change is taken along its line: numerator less the common ratio times the denominator.
        common = 0.0
        if self._metric.denominator:
            both = early.n @ early.mean[:, :2] + late.n @ late.mean[:, :2]
            common = float(both[0] / both[1]) if both[1] else 0.0
        change = f"({self._x} - {common!r} * {self._d}) * CASE WHEN age < {half} THEN -1 ELSE 1 END"
        sums = f"(SELECT unit, {change} AS step FROM unit_age WHERE age < {2 * half})"
        where = f"AND first <= {self._window.end - 2 * half * DAY_US}"
        query = TOTALS.format(by="'all'", label="", cap="'inf'::DOUBLE", one="1", x="step", d="0", sums=sums, more="",
                              where=where)  # fmt: skip
        return half, early, late, self._read(query)["all"]

    def _totals(self, **parts: str) -> dict[str, Moments]:
        one = "coalesce(s.d, 0)" if self._metric.denominator else "1"
        return self._read(TOTALS.format(cap=_number(self.cap), x=self._x, d=self._d, one=one, **parts))

    def _read(self, query: str) -> dict[str, Moments]:
        found: dict[str, np.ndarray] = {}
        for part, variant, *values in self._con.execute(query).fetchall():
            rows = found.setdefault(str(part), np.zeros((len(self._variants), 10)))
            rows[self._variants.index(variant)] = values
        return {part: _moments(*(rows[:, i] for i in range(10))) for part, rows in sorted(found.items())}

    def _none(self) -> Moments:
        return _moments(*np.zeros((10, len(self._variants))))

    def _cap(self, table: str) -> float:
        """What a unit's numerator counts at most: 1 for a yes or no, else a quantile over all units, or no limit."""
        if self._metric.of == "any":
            return 1.0
        if self._metric.winsorise is None:
            return np.inf
        found = self._con.execute(
            f"SELECT quantile_cont(coalesce(x, 0), {self._metric.winsorise}) FROM units LEFT JOIN "
            f"(SELECT unit, sum({self._x}) AS x FROM {table} GROUP BY unit) USING (unit) WHERE NOT crossed"
        ).fetchone()
        # Where hardly anybody buys, that quantile is 0: it would take all there is away.
        return float(found[0]) if found and found[0] is not None and found[0] > 0 else np.inf


def make_ages(log: UnitLog, window: Window, metric: Metric) -> None:
    """Make `unit_age`: the metric's sums by whole days since each unit's first exposure."""
    from longtail.experiments.log import COLUMNS

    columns = [metric.numerator, *([metric.denominator] if metric.denominator else [])]
    sums = ", ".join(f"CAST({COLUMNS[c]} AS DOUBLE) AS {c}" for c in dict.fromkeys(columns))
    log.con.execute(f"""
        CREATE OR REPLACE TEMP TABLE unit_age AS SELECT unit, (time - first) // {DAY_US} AS age, {sums}
        FROM did JOIN units USING (unit) WHERE NOT crossed AND time >= first AND time < {window.end} GROUP BY ALL
    """)


def _moments(
    n: np.ndarray, x: np.ndarray, d: np.ndarray, c: np.ndarray, xx: np.ndarray, xd: np.ndarray, dd: np.ndarray,
    xc: np.ndarray, dc: np.ndarray, cc: np.ndarray,
) -> Moments:  # fmt: skip
    cross = np.stack([np.stack([xx, xd, xc], -1), np.stack([xd, dd, dc], -1), np.stack([xc, dc, cc], -1)], -2)
    return Moments.from_sums(n, np.stack([x, d, c], -1), cross)


def _number(value: float) -> str:
    return "'inf'::DOUBLE" if np.isinf(value) else repr(float(value))
