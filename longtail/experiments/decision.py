"""From the figures to one sentence: ship, do not ship, wait, or do not read it at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from longtail.experiments.analysis import Line, Range, Result

Outcome = Literal["ship", "do not ship", "wait", "unclear", "broken"]


@dataclass(frozen=True)
class Decision:
    """What to do, about which treatment, and why, in one sentence."""

    outcome: Outcome
    variant: str
    sentence: str


def decide(result: Result) -> Decision:
    """The decision; of several treatments the best one that may ship, else the one that speaks most clearly.

    A gain ships when its corrected p value is below alpha and every guardrail is sure to lose less than its margin.
    Before the planned end an experiment that is looked at once can only be stopped for harm, by intervals that hold at
    any look.
    """
    if result.broken:
        return Decision("broken", "", f"Do not read this experiment: {result.broken}.")
    order: list[Outcome] = ["ship", "wait", "unclear", "do not ship"]
    judged = [_judge(result, line) for line in result.lines if line.role == "metric"]

    def rank(decision: Decision) -> tuple[int, float]:
        line = result.line(result.metric, decision.variant)
        return order.index(decision.outcome), -_towards_better(line, line.lift).value

    return min(judged, key=rank)


def _judge(result: Result, line: Line) -> Decision:
    name, final = line.variant, result.complete or result.looks == "any_day"
    deciding = _towards_better(line, deciding_interval(result, line))
    told = f"nothing is known of {line.metric}"
    if math.isfinite(deciding.low):
        reach = deciding_interval(result, line)
        told = f"{line.metric} {_percent(reach.value)} ({_percent(reach.low)} to {_percent(reach.high)})"
    if result.kind == "holdout":
        return _of_holdout(name, told, deciding, final and line.p_holm < result.alpha, result.complete)
    guards = [g for g in result.lines if g.role == "guardrail" and g.variant == name]
    hurt = [g for g in guards if _towards_better(g, deciding_interval(result, g)).high < 0]
    unsure = [g for g in guards if g not in hurt and _towards_better(g, deciding_interval(result, g)).low < -g.margin]
    significant = line.p_holm < result.alpha if final else not deciding.low <= 0 <= deciding.high
    if significant and deciding.value < 0:
        return Decision("do not ship", name, f"Do not ship {name}: it is worse than {result.control}: {told}.")
    if hurt:
        return Decision("do not ship", name, f"Do not ship {name}: it hurts {_listed(hurt, result)}; {told}.")
    if not final:
        left = result.planned_days - result.days
        when = f"{left} days are left" if left > 1 else "it ends within a day"
        return Decision("wait", name, f"Wait: {name} was planned to be judged at its end, and {when}; so far {told}.")
    if significant and not unsure:
        held = f", and {_names(guards)} held" if guards else ""
        return Decision("ship", name, f"Ship {name}: {told} against {result.control}{held}.")
    open_end: Outcome = "wait" if not result.complete else "unclear"
    if significant:
        why = f"{name} gains, {told}, but {_listed(unsure, result)} may have lost more than the margin"
        return Decision(open_end, name, f"{'Wait' if open_end == 'wait' else 'Do not ship yet'}: {why}.")
    if deciding.high < result.minimum_effect:
        what = f"any gain of {name} is below the {result.minimum_effect:.1%} that it was to bring"
        return Decision("do not ship", name, f"Do not ship {name}: {what}: {told}.")
    if open_end == "wait":
        return Decision("wait", name, f"Wait: no difference of {name} is proven yet: {told}.")
    return Decision("unclear", name, f"Do not ship {name}: no gain is proven, nor that there is none: {told}.")


def _of_holdout(name: str, told: str, deciding: Range, proven: bool, complete: bool) -> Decision:
    """What the experiments did together; there is nothing to ship or to keep back."""
    if proven:
        good = deciding.value > 0
        sentence = f"The experiments together {'bring' if good else 'cost'} something: {told} against the holdout."
        return Decision("ship" if good else "do not ship", name, sentence)
    if complete:
        return Decision("unclear", name, f"The experiments together are not proven to change anything: {told}.")
    return Decision("wait", name, f"Wait: nothing is proven of the experiments together yet: {told}.")


def deciding_interval(result: Result, line: Line) -> Range:
    """The one that may decide now."""
    return line.lift if result.complete and result.looks == "once" else line.any_day


def _towards_better(line: Line, of: Range) -> Range:
    return of if line.better == "higher" else Range(-of.value, -of.high, -of.low)


def _listed(lines: list[Line], result: Result) -> str:
    found = [(g, deciding_interval(result, g)) for g in lines]
    return ", ".join(f"{g.metric} ({_percent(i.low)} to {_percent(i.high)})" for g, i in found)


def _names(lines: list[Line]) -> str:
    return " and ".join(g.metric for g in lines)


def _percent(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "unknown"
