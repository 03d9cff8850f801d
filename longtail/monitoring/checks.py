"""Every check by name: what it measures, how it is judged, why so, and what to do when it fires."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Literal

from longtail.monitoring.signal import Severity

Worse = Literal["up", "down", "both"]
Unit = Literal["share", "number", "PSI", "distance", "hours", "seconds", "days", "money", "deviations"]


@dataclass(frozen=True)
class Check:
    """How a check is judged unless the shop's YAML says otherwise.

    `bound`: the value, or its distance from the training reference where `against` is "training", must not go past it
    in the direction `worse`. `change`: how far, as a share, the value may go from the median of the days before, and
    then only if it is also `z` robust standard deviations away. A check with both fires when either does; where
    `together`, only when both do, and only days since the bundle was trained are days before.
    """

    name: str
    group: str
    part: str
    unit: Unit
    severity: Severity
    worse: Worse
    meaning: str
    why: str
    do: str
    bound: float = nan
    against: Literal["", "training"] = ""
    change: float = nan
    z: float = 5.0
    together: bool = False


_DATA, _POPULARITY, _BUSINESS = "data", "popularity", "business"
_MODEL, _SERVING = "model", "serving"

CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("events_volume", _DATA, "", "number", "critical", "both",
              "Events of the day, impressions left out.",
              "Half as many, or twice as many, as on the same weekdays before is no ordinary day for any shop.",
              "See whether the collector, a page or an app stopped sending, or sends twice; do not retrain before.",
              change=0.5),
        Check("events_hours", _DATA, "", "PSI", "warning", "up",
              "How unlike the day's spread over the hours is to that of the training log.",
              "0.25 is the usual line for a changed distribution; three missing hours of the evening reach it.",
              "Look for an outage in the hours that lack events, or for a clock or time zone that is wrong.",
              bound=0.25),
        Check("log_freshness", _DATA, "log", "hours", "critical", "up",
              "Hours between the newest row of the log and the end of the day (or now).",
              "A shop sleeps for some hours of the night, not for eight.",
              "See whether the collector seals, and whether the recommender writes its impression log.",
              bound=8.0),
        Check("event_delay", _DATA, "", "seconds", "warning", "up",
              "How late 95 of 100 events had come in at the latest.",
              "An hour late, events miss the next session, and a day that is read at night lacks them.",
              "Look at the senders' queues and at the collector's `longtail_collector_pending_events`.",
              bound=3600.0),
        Check("missing_values", _DATA, "column", "share", "warning", "up",
              "Share of events that lack a column, above the share in the training log.",
              "Five points more than in training do not come by chance in a day of thousands of events.",
              "Ask who sends the events what they changed.", bound=0.05, against="training"),
        Check("unknown_items", _DATA, "", "share", "warning", "up",
              "Share of events about items that the bundle's catalogue lacks.",
              "What the catalogue lacks cannot be recommended; a tenth of what people do is too much to be blind to.",
              "Refresh the index with today's catalogue; if it stays, the ids of events and catalogue differ.",
              bound=0.1),
        Check("quarantined_events", _DATA, "", "share", "critical", "up",
              "Share of the day's events that broke the event contract.",
              "Rows that break it come from a change in a sender; 2% are more than a few odd clients.",
              "Read the reasons in the quarantine; do not retrain before.", bound=0.02),
        Check("bot_traffic", _DATA, "", "share", "critical", "up",
              "Share of events by people who act faster, or more often, than people do (`bots` in the YAML).",
              "Their events teach the models; at 5% they shift what is popular.",
              "Block them at the edge and leave their ids out; do not retrain on these days.", bound=0.05),
        Check("ctr", _BUSINESS, "surface, segment", "share", "critical", "both",
              "Clicks per place shown, by surface and by segment of people.",
              "A fifth off the days before is more than a changed offer does; beyond 5 deviations it is no chance.",
              "Down: look at sources, features and prices first, then retrain. Up: look for bots.", change=0.2),
        Check("conversion", _BUSINESS, "", "share", "critical", "down",
              "Share of the day's people who bought.",
              "A quarter fewer, beyond 5 deviations, is a broken checkout or a worse offer, not a bad day.",
              "Look at the checkout, then at prices and stock, then retrain.", change=0.25),
        Check("revenue", _BUSINESS, "", "money", "critical", "down",
              "Money taken per person of the day, returns taken off.",
              "Revenue hangs on a few large orders, so only a third less beyond 5 deviations counts.",
              "As for conversion and purchase_value: one of the two tells which.", change=0.33),
        Check("purchase_value", _BUSINESS, "", "money", "warning", "both",
              "What a purchase costs, the geometric mean.",
              "A tenth away from the days before, beyond 5 deviations: prices, or what people buy, have changed.",
              "After a change of prices: refresh the catalogue, then retrain.", change=0.1),
        Check("lasting_change", _BUSINESS, "business figure", "deviations", "warning", "up",
              "How far a business figure went in the last 14 days taken together, in standard deviations of a day (a "
              "cumulative sum, see the notes).",
              "Small changes show in no single day. A quiet figure, held against 28 days, passes 12 on three days of a "
              "thousand; one that fell by 1.5 deviations has passed it after two weeks in four cases of five.",
              "purchase_value: prices have moved, refresh the catalogue, then retrain. Others: tastes have, retrain.",
              bound=12.0),
        Check("exposure_gini", _POPULARITY, "", "share", "warning", "up",
              "How unevenly places fall on the catalogue: 0 all alike, 1 everything to one item.",
              "0.15 above what the bundle showed when it was judged, or a lasting jump, means that lists narrow.",
              "Raise exploration or diversity, look whether a source is missing, retrain with correction.",
              bound=0.15, against="training", change=0.03),
        Check("exposure_coverage", _POPULARITY, "", "share", "warning", "down",
              "Share of the catalogue that gets a place, on equally many places each day.",
              "A third less than on the days before: parts of the catalogue have vanished from the lists.",
              "As for exposure_gini.", change=0.33),
        Check("exposure_entropy", _POPULARITY, "", "share", "warning", "down",
              "How many different items share the places: 1 all alike, 0 one item.",
              "0.15 below what the bundle showed when it was judged, or a jump: few items take over.",
              "As for exposure_gini.", bound=0.15, against="training", change=0.08),
        Check("exposure_top1", _POPULARITY, "", "share", "critical", "up",
              "Share of the places that the most shown hundredth of the catalogue takes.",
              "A fifth of all places more than when the bundle was judged, or half as much again as before: "
              "bestsellers feed on themselves.",
              "As for exposure_gini, and at once: what is not shown earns no clicks to be learned from.",
              bound=0.2, against="training", change=0.5),
        Check("new_item_share", _POPULARITY, "", "share", "info", "down",
              "Share of the places that go to items listed in the last 28 days.",
              "Half of what it was, suddenly: new items do not reach the lists any more.",
              "Refresh the index; look whether the catalogue still comes in.", change=0.5),
        Check("feature_drift", _MODEL, "feature", "distance", "warning", "up",
              "How unlike a feature of the shown items is to the training reference (Evidently's Jensen-Shannon "
              "distance over the reference's tenths), people known and new as many as today. Features that only say "
              "what day it is are left out.",
              "0.18 is what the usual line of a PSI, 0.25, comes to. But a snapshot of another week alone can reach it "
              "in a small catalogue, so the value must also be 41% above the bundle's days before, which is twice "
              "their PSI, and of a hundred features in small shops that takes 8 deviations, not 5.",
              "One feature: it is broken, look at its source. Many: people have changed, retrain.",
              bound=0.18, change=0.41, z=8.0, together=True),
        Check("prediction_drift", _MODEL, "", "distance", "warning", "up",
              "How unlike the scores of the shown items are to those of the training reference, of all people alike.",
              "As for feature_drift: it sees at once what many features together do.",
              "See which features drifted; if none is broken, retrain.", bound=0.18, change=0.41, z=8.0, together=True),
        Check("feature_missing", _MODEL, "feature", "share", "critical", "up",
              "Share of shown items that lack a feature, above what training lacked of as many people known and new.",
              "A feature that is gone for a fifth more of the items than in training is broken, whatever happens.",
              "Look at the store that the feature comes from; roll back if it came with a bundle.",
              bound=0.2, against="training"),
        Check("feature_parity", _MODEL, "", "share", "critical", "up",
              "Share of served feature values that the trainer's code gives otherwise for the same request.",
              "The two must agree to the bit; a thousandth allows for events that came in during a request.",
              "Serving reads other data than training: compare the versions, the people store and the live events.",
              bound=0.001),
        Check("model_age", _MODEL, "", "days", "warning", "up",
              "Days since the newest event that the ranker learned from.",
              "Two weeks: in the simulator's shop new items and tastes cost more than a retraining by then.",
              "Retrain.", bound=14.0),
        Check("index_age", _MODEL, "", "days", "warning", "up",
              "Days since the newest event that candidate sources and index know of.",
              "A week: items listed since then cannot be proposed by what people did.",
              "Refresh the index, or retrain.", bound=7.0),
        Check("features_age", _MODEL, "", "days", "warning", "up",
              "Days since the moment that the stored features describe.",
              "A week: counts of the last seven days then hold nothing that is true any more.",
              "Refresh the features, or retrain.", bound=7.0),
        Check("source_share", _SERVING, "source", "share", "critical", "down",
              "Share of shown places that a candidate source proposed.",
              "A source that falls to a fifth of what it was has gone missing; only those that once filled 1% count.",
              "Look at the retriever's log and `longtail_shown_total`; roll back if it came with a bundle.",
              change=0.8, z=4.0),
        Check("degraded_lists", _SERVING, "surface", "share", "critical", "up",
              "Share of lists that did not come from the full rung of the ladder.",
              "One in twenty is more than restarts and slow moments do.",
              "See `longtail_degraded_total`: which part is missing, and why.", bound=0.05),
    )
}  # fmt: skip


def judged(check: Check) -> str:
    """How a check is judged, in words."""
    below = check.worse == "down"
    parts = []
    if check.bound == check.bound:
        of = f"{check.bound:g} {'below' if below else 'above'} training" if check.against else f"{check.bound:g}"
        parts.append(of if check.against else f"{'below' if below else 'above'} {of}")
    if check.change == check.change and check.change < inf:
        way = {"up": "more", "down": "less", "both": "more or less"}[check.worse]
        parts.append(f"{check.change:.0%} {way} than the days before, beyond {check.z:g} deviations")
    return (" and " if check.together else " or ").join(parts)


def table() -> str:
    """All checks as the Markdown of docs/monitoring.md."""
    lines = ["| check | of each | severity | fires at | measures | why there | what to do |", "| --- " * 7 + "|"]
    for c in CHECKS.values():
        cells = (f"`{c.name}`", c.part, c.severity, judged(c), c.meaning, c.why, c.do)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
