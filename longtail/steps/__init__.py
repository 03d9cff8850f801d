"""The steps of a training run: each reads folders, writes one folder and returns its figures.

The pipelines' components call these and nothing else. A step writes into a folder that it may find half-filled by a run
that was killed: it starts over, except the two-tower, which goes on from its checkpoint.
"""

from longtail.steps.evaluation import devices_of, evaluate
from longtail.steps.fitting import (
    build_candidates,
    build_features,
    build_index,
    ingest,
    train_ranker,
    train_two_tower,
)
from longtail.steps.folders import fingerprint
from longtail.steps.registration import off_policy, register
from longtail.steps.warm import fetch_champion, warm_candidates, warm_ranker, warm_two_tower
from longtail.steps.watching import monitor

__all__ = [
    "build_candidates",
    "build_features",
    "build_index",
    "devices_of",
    "evaluate",
    "fetch_champion",
    "fingerprint",
    "ingest",
    "monitor",
    "off_policy",
    "register",
    "train_ranker",
    "train_two_tower",
    "warm_candidates",
    "warm_ranker",
    "warm_two_tower",
]
