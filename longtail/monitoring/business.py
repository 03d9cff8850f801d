"""What the shop lives on: clicks per place, buyers, money, each with the standard error of the day."""

from __future__ import annotations

import math

from longtail.monitoring.judging import Measured
from longtail.monitoring.log import Log

# A click belongs to the list whose request it names; one that names none belongs to where it says it happened.
CLICKS = """
SELECT click.who, coalesce(list.surface, CASE WHEN click.request IS NULL THEN click.surface END) AS surface,
    coalesce(list.segment, CASE WHEN click.request IS NULL THEN click.region END) AS segment
FROM (SELECT who, request, surface, region FROM told WHERE kind = 'click') click
LEFT JOIN (
    SELECT request, any_value(surface) AS surface, any_value(segment) AS segment FROM lists GROUP BY request
) list ON click.request = list.request
"""


def measure(log: Log, least_places: int) -> list[Measured]:
    """CTR by surface and segment, conversion, revenue per person, value of a purchase."""
    return [*_ctr(log, "surface", least_places), *_ctr(log, "segment", least_places), *_people(log), _purchases(log)]


def _ctr(log: Log, by: str, least: int) -> list[Measured]:
    # Clicks of one person go together: the error is that of a ratio of sums over people (delta method).
    rows = log.rows(f"""
        SELECT part, count(*), sum(c), sum(i), sum(c * c), sum(c * i), sum(i * i) FROM (
            SELECT {by} AS part, who, coalesce(sum(c), 0)::DOUBLE AS c, coalesce(sum(i), 0)::DOUBLE AS i FROM (
                SELECT {by}, who, count(*) AS i, 0 AS c FROM shown GROUP BY ALL
                UNION ALL SELECT {by}, who, 0 AS i, count(*) AS c FROM ({CLICKS}) GROUP BY ALL
            ) GROUP BY ALL
        ) WHERE part IS NOT NULL GROUP BY part HAVING sum(i) > 0 ORDER BY part
    """)
    out = []
    for part, n, c, i, cc, ci, ii in rows:
        name = f"{by} {part}"
        if i < least or n < 2:
            out.append(Measured("ctr", name, math.nan, why_not=f"only {i:.0f} places were shown"))
            continue
        rate = c / i
        left = max(cc - 2 * rate * ci + rate * rate * ii, 0.0)
        out.append(Measured("ctr", name, rate, math.sqrt(left * n / (n - 1)) / i))
    return out


def _people(log: Log) -> list[Measured]:
    n, bought, money, squares = log.one("""
        SELECT count(*), coalesce(sum(bought), 0), coalesce(sum(money), 0), coalesce(sum(money * money), 0) FROM (
            SELECT who, max(bought) AS bought, sum(money) AS money FROM (
                SELECT who, 0 AS bought, 0.0 AS money FROM shown
                UNION ALL
                SELECT who, CASE WHEN kind = 'purchase' AND coalesce(value, 0) >= 0 THEN 1 ELSE 0 END,
                    CASE WHEN kind = 'purchase' THEN coalesce(value, 0) ELSE 0 END FROM told
            ) WHERE who IS NOT NULL GROUP BY who
        )
    """)
    if n < 2:
        return [Measured(name, "", math.nan, why_not="nobody came") for name in ("conversion", "revenue")]
    rate, mean = bought / n, money / n
    spread = math.sqrt(max(squares / n - mean * mean, 0.0) / (n - 1))
    return [
        Measured("conversion", "", rate, math.sqrt(rate * (1 - rate) / n)),
        Measured("revenue", "", mean, spread),
    ]


def _purchases(log: Log) -> Measured:
    n, mean, spread = log.one(
        "SELECT count(*), avg(ln(value)), stddev_samp(ln(value)) FROM told WHERE kind = 'purchase' AND value > 0"
    )
    if n < 10:
        return Measured("purchase_value", "", math.nan, why_not=f"only {n} purchases")
    value = math.exp(mean)
    return Measured("purchase_value", "", value, value * spread / math.sqrt(n))
