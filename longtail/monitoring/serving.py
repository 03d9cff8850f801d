"""How lists were made: which sources filled them, how many came from a lower rung of the ladder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from longtail.monitoring.judging import Measured
from longtail.monitoring.log import Log

LEAST_SHARE = 0.01  # a source that fills less may well be silent for a day


def measure(log: Log, sources: Sequence[str], usual: Mapping[str, float], least_lists: int) -> list[Measured]:
    """The share of places by source, and of lists below the full rung by surface.

    `usual` is each source's share in the training reference; those below `LEAST_SHARE` there are not watched.
    """
    return [*_sources(log, sources, usual), *_levels(log, least_lists)]


def _sources(log: Log, sources: Sequence[str], usual: Mapping[str, float]) -> list[Measured]:
    name = "source_share"
    counts = dict(log.rows("SELECT source, count(*) FROM shown WHERE source IS NOT NULL GROUP BY source"))
    total = sum(counts.values())
    if not total:
        return [Measured(name, "", math.nan, why_not="the log does not say which source an item came from")]
    lists = max(int(log.one("SELECT count(*) FROM lists")[0]), 1)
    out = []
    for source in sources:
        if usual.get(source, 1.0) < LEAST_SHARE:
            continue
        p = counts.get(source, 0) / total
        # The places of one list go together: there are no more than that many independent looks.
        out.append(Measured(name, source, p, math.sqrt(p * (1 - p) / lists), usual.get(source, math.nan)))
    return out


def _levels(log: Log, least: int) -> list[Measured]:
    rows = log.rows("""
        SELECT surface, count(*), count(*) FILTER (level <> 'full') FROM lists
        WHERE level IS NOT NULL GROUP BY surface ORDER BY surface
    """)
    out = []
    for surface, n, low in rows:
        p, few = low / n, n < least
        why = f"only {n} lists" if few else ""
        error = math.sqrt(p * (1 - p) / n)
        out.append(Measured("degraded_lists", surface or "", math.nan if few else p, error, why_not=why))
    return out or [Measured("degraded_lists", "", math.nan, why_not="the log does not say how lists were made")]
