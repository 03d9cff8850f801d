"""Evaluation: metrics with intervals, slices, the whole system beside simple ones, the gate, report and model card."""

from longtail.evaluation.bootstrap import Interval, intervals, paired_difference
from longtail.evaluation.gate import Verdict, beats
from longtail.evaluation.metrics import Truth, per_case
from longtail.evaluation.system import Report, judge

__all__ = ["Interval", "Report", "Truth", "Verdict", "beats", "intervals", "judge", "paired_difference", "per_case"]
