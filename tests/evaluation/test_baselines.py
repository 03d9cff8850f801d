import numpy as np

from longtail.evaluation import baselines
from longtail.events.log import Log, histories_before


def log_of(pairs, n_users, n_items):
    user, item = (np.array(v, np.int32) for v in zip(*pairs, strict=True))
    n = len(user)
    one = np.ones(n, np.float32)
    code = np.zeros(n, np.int32)
    return Log(user, item, np.arange(n, dtype=np.int64) + 1, code.astype(np.int8), one, one, one, code, code,
               code.astype(np.int16), one, n_users, n_items)  # fmt: skip


LOG = log_of([(0, 0), (0, 1), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (4, 0)], 5, 5)
USERS = np.array([0, 3, 4, -1])
HISTORY = histories_before(LOG, USERS, np.full(4, 100, np.int64))


def test_popular_lists_are_the_same_for_all_unless_the_history_is_left_out():
    counts = baselines.popularity(LOG)
    assert counts.tolist() == [3, 3, 2, 1, 0]
    assert baselines.popular_lists(counts, 2, 5).tolist() == [[0, 1, 2, 3, -1]] * 2
    assert baselines.popular_lists(counts, 4, 3, HISTORY)[:3].tolist() == [[2, 3, -1], [0, 1, 3], [1, 2, 3]]


def test_repeats_are_the_most_frequent_then_the_latest():
    assert baselines.repeat_lists(HISTORY, 2).tolist() == [[1, 0], [2, -1], [0, -1], [-1, -1]]


def test_item_knn_proposes_what_others_had_together():
    out = baselines.item_knn_lists(LOG, HISTORY, 2, exclude_history=True)
    assert out.tolist() == [[-1, -1], [3, -1], [1, -1], [-1, -1]]
