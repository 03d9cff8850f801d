import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.errors import InvalidInput
from longtail.evaluation.metrics import (
    Truth,
    coverage,
    diversity,
    diversity_of_vectors,
    exposure,
    gini,
    novelty,
    per_case,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"


def test_values_worked_out_by_hand():
    truth = Truth.from_pairs(np.array([0, 0, 0, 1, 2]), np.array([5, 6, 5, 7, 9]), 4)
    lists = np.array([[1, 5, 6], [7, -1, -1], [1, 2, 3], [1, 2, 3]])
    out = per_case(lists, truth, ks=(2, 3))
    assert out["recall@2"].tolist()[:3] == [0.5, 1.0, 0.0]
    assert out["hit@2"].tolist()[:3] == [1.0, 1.0, 0.0]
    assert out["mrr@3"].tolist()[:3] == [0.5, 1.0, 0.0]
    best = 1 + 1 / np.log2(3)
    assert out["ndcg@3"][0] == pytest.approx((1 / np.log2(3) + 0.5) / best)
    assert all(np.isnan(v[3]) for v in out.values())


def test_gains_weigh_ndcg_and_leave_recall_alone():
    truth = Truth.from_pairs(np.array([0, 0]), np.array([1, 2]), 1, np.array([5.0, 1.0]))
    out = per_case(np.array([[2, 1]]), truth, ks=(1, 2))
    assert out["recall@2"][0] == 1
    assert out["ndcg@1"][0] == pytest.approx(1 / 5)
    assert out["ndcg@2"][0] == pytest.approx((1 + 5 / np.log2(3)) / (5 + 1 / np.log2(3)))


def slow(items, want, k):
    hits = [i in want for i in items[:k]]
    ideal = sum(1 / np.log2(j + 2) for j in range(min(k, len(want))))
    return {
        "recall": sum(hits) / len(want),
        "ndcg": sum(h / np.log2(j + 2) for j, h in enumerate(hits)) / ideal,
        "hit": float(any(hits)),
        "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
    }


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_agrees_with_a_plain_loop(seed, k):
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(20)[:8] for _ in range(6)])
    lists[0, 3:] = -1
    wants = [set(rng.integers(0, 20, rng.integers(1, 6)).tolist()) for _ in range(6)]
    case = np.repeat(np.arange(6), [len(w) for w in wants])
    truth = Truth.from_pairs(case, np.concatenate([list(w) for w in wants]), 6)
    out = per_case(lists, truth, ks=(k,))
    for b in range(6):
        for name, value in slow(lists[b].tolist(), wants[b], k).items():
            assert out[f"{name}@{k}"][b] == pytest.approx(value)


@pytest.mark.parametrize(
    "lists", [np.array([[1, 1]]), np.array([1, 2]), np.array([[1, 2], [3, 4]])], ids=["repeat", "flat", "too many"]
)
def test_lists_that_cannot_be_judged_are_refused(lists):
    with pytest.raises(InvalidInput):
        per_case(lists, Truth.from_pairs(np.array([0]), np.array([1]), 1))


def test_exposure_metrics():
    lists = np.array([[0, 1], [0, 2], [0, -1]])
    assert exposure(lists, 5).tolist() == [3, 1, 1, 0, 0]
    assert coverage(lists, 5) == 0.6
    assert gini(np.array([4, 4, 4])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(0.75)
    assert gini(np.zeros(3)) == 0


def test_novelty_is_the_mean_self_information():
    out = novelty(np.array([[0, 1], [1, -1], [-1, -1]]), np.array([5, 1, 0, 0]))
    assert out[:2].tolist() == pytest.approx([-(np.log2(0.6) + np.log2(0.2)) / 2, -np.log2(0.2)])
    assert np.isnan(out[2])


def test_diversity_counts_pairs_of_different_groups():
    groups = np.array([0, 0, 1, -1, -1])
    out = diversity(np.array([[0, 1, 2], [3, 4, -1], [0, -1, -1]]), groups)
    assert out[:2].tolist() == pytest.approx([2 / 3, 1.0])
    assert np.isnan(out[2])
    vectors = np.array([[1, 0], [1, 0], [0, 1]], float)
    assert diversity_of_vectors(np.array([[0, 1, 2], [0, 2, -1]]), vectors).tolist() == pytest.approx([2 / 3, 1.0])


@pytest.mark.parametrize("task", ["retail-repeat", "retailrocket-sessions"])
def test_agrees_with_the_published_protocols_scorer(task, tmp_path, capsys):
    """The same lists, scored by the reference script and by these metrics, to the fourth digit."""
    script = SHARED / "tools" / "score.py"
    if not script.is_file():
        pytest.skip("the reference scorer ../shared/tools/score.py is not on this machine")
    sys.path.insert(0, str(script.parent))
    try:
        import score
    finally:
        sys.path.remove(str(script.parent))
    _, target, n_items, _ = score.load(task)
    case, cases = pd.factorize(target.case, sort=True)
    item, items = pd.factorize(target.item_id, sort=True)
    truth = Truth.from_pairs(case, item, len(cases))
    counts = np.bincount(item)
    rng = np.random.default_rng(0)
    head = np.argsort(-counts)[:160]
    lists = np.stack([rng.permutation(head)[:100] for _ in range(len(cases))])
    path = tmp_path / "lists.parquet"
    pd.DataFrame({"case": cases, "items": [list(items[row]) for row in lists]}).to_parquet(path)
    # Called, not started: a process that read Parquet may abort as it ends (apache/arrow#34314), as this one once did.
    score.main([task, path])
    said = dict(part.split("=") for part in capsys.readouterr().out.split() if "=" in part)
    mine = per_case(lists, truth, ks=(10, 20, 100))
    mine |= {"coverage@20": np.array([coverage(lists[:, :20], n_items)])}
    for metric, value in said.items():
        if metric != "cases":
            assert f"{np.nanmean(mine[metric]):.4f}" == value, metric
