"""The ranker: XGBoost LambdaMART over the assembled features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xgboost as xgb

from longtail.errors import InvalidInput
from longtail.features.definitions import Feature


@dataclass(frozen=True)
class RankerConfig:
    """LambdaMART's size and how fast it learns."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    rounds: int = 300
    eta: float = 0.06
    max_depth: int = 6
    min_child_weight: float = 15.0
    subsample: float = 0.8
    colsample: float = 0.5
    pairs: int = 16  # top places that LambdaMART swaps against the rest
    max_bin: int = 128
    threads: int = 0  # 0: all cores
    groups: tuple[str, ...] = ()  # feature groups that the trees may split on; none named: all
    seed: int = 0


@dataclass(frozen=True)
class TrainingRows:
    """Rows of all groups, one group after the other.

    `features` float32 [N, F], `gain` float32 [N], `sizes` int64 [G] rows of each group, `weight` float32 [G].
    """

    features: np.ndarray
    gain: np.ndarray
    sizes: np.ndarray
    weight: np.ndarray


def train_ranker(
    rows: TrainingRows, features: Sequence[Feature], config: RankerConfig, start: xgb.Booster | None = None
) -> xgb.Booster:
    """Fit on groups that each hold a positive gain; `features` name the columns.

    With `start`, `rounds` more trees are grown on what its trees leave open.

    Raises:
        InvalidInput: there is no group to learn from, or no feature of the groups that the configuration names.
    """
    if not len(rows.sizes):
        raise InvalidInput(
            "the ranker has nothing to learn from: no past request led to an item that retrieval proposed; "
            "use more events or longer windows"
        )
    used = np.array([not config.groups or f.group in config.groups for f in features])
    if not used.any():
        raise InvalidInput(f"ranker.groups {config.groups} name no feature: use {sorted({f.group for f in features})}")
    names = [f.name for f in features]
    # A column without a value offers no split: the booster keeps the whole input, and servers need not know.
    values = rows.features if used.all() else np.where(used, rows.features, np.float32(np.nan))
    data = xgb.QuantileDMatrix(values, label=rows.gain, feature_names=names, max_bin=config.max_bin)
    data.set_group(rows.sizes)
    data.set_weight(rows.weight / max(float(rows.weight.mean()), 1e-9))
    parameters = {
        "objective": "rank:ndcg",
        "ndcg_exp_gain": False,
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": config.pairs,
        "eta": config.eta,
        "max_depth": config.max_depth,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bytree": config.colsample,
        "max_bin": config.max_bin,
        "tree_method": "hist",
        "nthread": config.threads,
        "seed": config.seed,
    }
    return xgb.train(parameters, data, config.rounds, xgb_model=start)
