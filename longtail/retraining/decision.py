"""What to do now, from what was checked and from the runs there were: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from longtail.monitoring.signal import Signal
from longtail.retraining.policy import ACTIONS, TRAININGS, Action, Policy, Rule

DAY_S = 86_400.0
Kept = Literal["", "quiet", "held", "cooldown", "budget"]


@dataclass(frozen=True)
class Past:
    """A run there was: `day` the newest day of its evidence, `started` seconds since 1970, `seconds` it took so far;
    `about` the (check, part) that asked for it."""

    action: Action
    day: str
    started: float
    seconds: float
    failed: bool
    about: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Trigger:
    """A rule that is confirmed: the check, what it is about, the days on which it fired, and its newest reason."""

    check: str
    part: str
    action: Action
    days: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Decision:
    """`action` to take now (None: nothing) for `triggers`, on evidence up to `day`; `kept` says what holds it back.

    `reason` is one sentence either way.
    """

    action: Action | None
    triggers: tuple[Trigger, ...]
    day: str
    reason: str
    kept: Kept = ""


def decide(policy: Policy, signals: Sequence[Signal], past: Sequence[Past], now: float) -> Decision:
    """The largest action that a confirmed rule asks for, unless the data is bad, it is too early, or all is spent.

    Days that an earlier run has answered are no evidence for another one; a run answers what asks for its size or less,
    an alert only what it told of. A failed run answers nothing, but it costs the cooldown: twice as long after each
    further failure.
    """
    day = max((s.day for s in signals), default="")
    triggers = [t for rule in policy.rules for t in confirmed(rule, signals, past)]
    if not triggers:
        return Decision(None, (), day, "nothing fired on enough days", "quiet")
    largest = max(triggers, key=lambda t: ACTIONS.index(t.action)).action
    chosen = tuple(t for t in triggers if largest != "alert" or t.action == "alert")
    told = "; ".join(f"{_about(t.check, t.part)} on {', '.join(t.days)}: {t.reason}" for t in chosen)
    if largest == "alert":
        return Decision("alert", chosen, day, told)
    bad = [s for s in signals if s.day == day and s.fired and s.name in policy.hold]
    if bad:
        why = f"{largest} is held back, the data of {day} is bad: {_about(bad[0].name, bad[0].part)}: {bad[0].reason}"
        return Decision(None, chosen, day, f"{why} ({told})", "held")
    if (left := cooling(policy, largest, past, now)) > 0:
        why = f"{largest} waits for {left / DAY_S:.1f} days more after the last run"
        return Decision(None, chosen, day, f"{why} ({told})", "cooldown")
    recent = [p for p in past if now - p.started < DAY_S and p.action in TRAININGS]
    hours = sum(p.seconds for p in recent) / 3600
    if len(recent) >= policy.budget.runs or hours >= policy.budget.hours:
        why = (
            f"{largest} waits: {len(recent)} of {policy.budget.runs} runs and {hours:.1f} of {policy.budget.hours:g} "
            "hours of the last 24 are spent"
        )
        return Decision(None, chosen, day, f"{why} ({told})", "budget")
    return Decision(largest, chosen, day, told)


def _about(check: str, part: str) -> str:
    return f"{check} ({part})" if part else check


def confirmed(rule: Rule, signals: Sequence[Signal], past: Sequence[Past]) -> list[Trigger]:
    """The checks of a rule, by what they are about, that fired on enough of the newest checked days and on the newest
    of them, none of which a run has answered."""
    days = sorted({s.day for s in signals})[-rule.confirm.of :]
    by_part: dict[tuple[str, str], dict[str, Signal]] = {}
    for signal in signals:
        if rule.concerns(signal):
            by_part.setdefault((signal.name, signal.part), {})[signal.day] = signal
    found = []
    for (name, part), by_day in sorted(by_part.items()):
        after = answered(rule.do, (name, part), past)
        fired = [by_day[day] for day in days if day in by_day and by_day[day].fired and day > after]
        # One that has calmed down by itself, or is measured no more, on the newest day asks for nothing.
        newest = by_day.get(days[-1])
        if len(fired) >= rule.confirm.days and newest is not None and newest.fired:
            found.append(Trigger(name, part, rule.do, tuple(s.day for s in fired), fired[-1].reason))
    return found


def answered(action: Action, about: tuple[str, str], past: Sequence[Past]) -> str:
    """The newest day of evidence that a run has answered which did at least this; an alert answers what it told of."""
    if action == "alert":
        return max((p.day for p in past if p.action == "alert" and about in p.about), default="")
    size = ACTIONS.index(action)
    return max((p.day for p in past if ACTIONS.index(p.action) >= size and not p.failed), default="")


def cooling(policy: Policy, action: Action, past: Sequence[Past], now: float) -> float:
    """Seconds until a run of this size may start, 0 when it may."""
    size, left = ACTIONS.index(action), 0.0
    runs = sorted((p for p in past if p.action in TRAININGS), key=lambda p: p.started)
    failures = 0
    for run in reversed(runs):
        if not run.failed:
            break
        failures += 1
    for run in runs:
        days = getattr(policy.cooldown_days, action)
        if run.failed and run is runs[-1]:
            # A failure of any size: what broke it would most likely break this one, too.
            days = min(policy.cooldown_days.most, max(days, 0.01) * 2.0 ** (failures - 1))
        elif ACTIONS.index(run.action) < size:
            continue
        left = max(left, run.started + days * DAY_S - now)
    return max(left, 0.0)
