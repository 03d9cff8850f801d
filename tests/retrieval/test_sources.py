"""What every candidate source promises, and sources against answers worked out by other means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longtail.errors import LongtailError
from longtail.events import Histories, Log, Requests
from longtail.retrieval import neighbours as nb
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.content import content_matrix
from longtail.retrieval.lists import RepeatSource, decayed_counts, popular, popular_in_segment, trending
from longtail.retrieval.neighbours import NeighbourSource
from longtail.retrieval.session_knn import session_neighbours
from longtail.retrieval.sources import SourcesConfig, fit_sources
from longtail.retrieval.table import Table
from longtail.retrieval.vectors import spectral
from longtail.retrieval.weighting import Weighting, Weightings, slots
from longtail.schema import DAY_US
from tests.tiny import START, catalogue, history_of, log_of, random_log, requests_at

USERS, ITEMS, DAYS = 40, 25, 60
NOW = START + DAYS * DAY_US
STEPS = Weighting(last=10, decay=0.9, distinct=True)
MONTHS = Weighting(half_life_days=30)


def table(fitted: sp.csr_matrix, weighting: Weighting = STEPS) -> NeighbourSource:
    return NeighbourSource("table", "because", Table.of(fitted), weighting)


MAKERS: dict[str, Callable[[Log], CandidateSource]] = {
    "ease": lambda log: table(nb.ease(nb.user_item(log), 5.0, 100), MONTHS),
    "item_knn": lambda log: table(nb.cosine(nb.user_item(log), 100, 2.0)),
    "copurchase": lambda log: table(nb.cosine(nb.session_item(log), 100, 1.0), Weighting(distinct=True, session=True)),
    "rules": lambda log: table(nb.rules(log, 5, 0.6, 100)),
    "rules_backward": lambda log: table(nb.rules(log, 3, 0.6, 100, backward=True)),
    "graph": lambda log: table(nb.graph_filter(nb.user_item(log), 100)),
    "content": lambda log: table(nb.content_neighbours(content_matrix(catalogue(log.n_items)), 10)),
    "sessions": lambda log: session_neighbours(log, "sessions", "because", STEPS, neighbours=10),
    "spectral": lambda log: spectral(nb.user_item(log), 8, MONTHS, "spectral", "because", 0),
    "popular": lambda log: popular(log, NOW, 7, "popular", "because"),
    "trending": lambda log: trending(log, NOW, "trending", "because"),
    "segment": lambda log: popular_in_segment(log, np.arange(log.n_users) % 2, 2, NOW, "segment", "because"),
    "repeats": lambda log: RepeatSource("repeats", "because", log.n_items, MONTHS),
}


@pytest.fixture(scope="module")
def log() -> Log:
    return random_log(USERS, ITEMS, 1200, DAYS)


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Log], CandidateSource]:
    return MAKERS[request.param]


def check_shape(ids: np.ndarray, scores: np.ndarray, n: int, k: int, n_items: int) -> None:
    assert ids.shape == scores.shape == (n, k)
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    assert ids.max(initial=-1) < n_items
    assert np.array_equal(ids < 0, np.isneginf(scores)), "padding is -1 with -inf"
    for row, score in zip(ids, scores, strict=True):
        found = row[row >= 0]
        assert len(np.unique(found)) == len(found), "no item twice"
        assert np.all(row[len(found) :] == -1), "padding comes last"
        assert np.all(score[: len(found)][:-1] >= score[: len(found)][1:]), "best first"


def test_lists_are_sorted_distinct_and_padded(make, log: Log) -> None:
    source, asked = make(log), requests_at(log, [*range(USERS), -1], DAYS)
    for k in (1, 7, ITEMS, ITEMS + 10):
        ids, scores = source.retrieve(asked, k)
        check_shape(ids, scores, USERS + 1, k, ITEMS)
        assert (ids[:USERS, 0] >= 0).mean() > 0.9, "people with a history get something"


def test_a_shorter_list_is_the_start_of_a_longer_one(make, log: Log) -> None:
    source, asked = make(log), requests_at(log, range(USERS), DAYS)
    assert np.array_equal(source.retrieve(asked, 5)[0], source.retrieve(asked, ITEMS)[0][:, :5])


def test_an_empty_batch(make, log: Log) -> None:
    answer = make(log).answer(requests_at(log, [], DAYS))
    check_shape(*answer.top(3), 0, 3, ITEMS)
    assert answer.at(np.empty(0, np.int64), np.empty(0, np.int64)).shape == (0,)


def test_somebody_unknown(make, log: Log) -> None:
    answer = make(log).answer(requests_at(log, [-1, -1], DAYS))
    ids, scores = answer.top(4)
    check_shape(ids, scores, 2, 4, ITEMS)
    assert np.array_equal(ids[0], ids[1])
    rows = np.repeat([0, 1], ITEMS)
    assert np.isfinite(answer.at(rows, np.tile(np.arange(ITEMS), 2))).all()


def test_pairs_score_as_in_the_list(make, log: Log) -> None:
    answer = make(log).answer(requests_at(log, [*range(30), -1], DAYS))
    ids, scores = answer.top(ITEMS + 2)
    row, place = np.nonzero(ids >= 0)
    found = answer.at(row, ids[row, place])
    assert found.dtype == np.float32
    assert np.array_equal(found, scores[row, place])


def test_same_answer_alone_and_in_a_batch(make, log: Log) -> None:
    source, asked = make(log), requests_at(log, [*range(USERS), -1], DAYS)
    together = source.answer(asked)
    ids, scores = together.top(12)
    everything = np.arange(ITEMS)
    for b in (0, 3, 17, USERS):
        alone = source.answer(asked.take(np.array([b])))
        for found, whole in zip(alone.top(12), (ids, scores), strict=True):
            assert found[0].tobytes() == whole[b].tobytes()
        one, many = alone.at(np.zeros(ITEMS, int), everything), together.at(np.full(ITEMS, b), everything)
        assert one.tobytes() == many.tobytes()


def test_fitting_twice_and_saving_change_nothing(make, log: Log, tmp_path: Path) -> None:
    source, asked = make(log), requests_at(log, [*range(USERS), -1], DAYS)
    source.save(tmp_path)
    loaded = type(source).load(tmp_path)
    assert (loaded.name, loaded.reason) == (source.name, source.reason)
    for other in (make(log), loaded):
        for found, expected in zip(other.retrieve(asked, 9), source.retrieve(asked, 9), strict=True):
            assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "events, n_items", [([(0, 0, 50.0)], 1), ([(0, 0, 50.0), (1, 0, 51.0)], 1), ([(1, 2, 50.0)], 4)]
)
def test_next_to_nothing_to_learn_from(make, events, n_items: int, tmp_path: Path) -> None:
    small = log_of(events, 2, n_items)
    source, asked = make(small), requests_at(small, [0, 1, -1], DAYS)
    check_shape(*source.retrieve(asked, 3), 3, 3, n_items)
    source.save(tmp_path)
    check_shape(*type(source).load(tmp_path).retrieve(asked, 3), 3, 3, n_items)


@pytest.mark.parametrize("ease_items", [0, 1000])
@pytest.mark.parametrize("events", [[(0, 0, 50.0)], [(0, 0, 50.0), (1, 1, 51.0)], [(0, 0, 50.0), (0, 1, 50.5)]])
def test_all_sources_of_a_shop_that_just_opened(events, ease_items: int) -> None:
    small = log_of(events, 2, 3)
    segment = np.array([0, 1], np.int32)
    sources = fit_sources(
        small, content_matrix(catalogue(3)), segment, 2, NOW, SourcesConfig(ease_items=ease_items, spectral_rank=2)
    )
    asked = requests_at(small, [0, 1, -1], DAYS)
    for source in sources:
        check_shape(*source.retrieve(asked, 5), 3, 5, 3)
    assert len({s.name for s in sources}) == len(sources)


def test_every_window_of_a_shop_has_the_same_sources(log: Log) -> None:
    content, segment = content_matrix(catalogue(ITEMS)), np.zeros(USERS, np.int32)
    early = log.select(np.arange(len(log)) == 0)  # one event: no basket, one item of the catalogue
    config = SourcesConfig(ease_items=ITEMS - 1, spectral_rank=4)
    names = [[s.name for s in fit_sources(part, content, segment, 1, NOW, config)] for part in (early, log)]
    assert names[0] == names[1]


def test_sources_are_left_out_by_name(log: Log) -> None:
    content, segment = content_matrix(catalogue(ITEMS)), np.zeros(USERS, np.int32)
    names = [s.name for s in fit_sources(log, content, segment, 1, NOW, SourcesConfig())]
    less = [s.name for s in fit_sources(log, content, segment, 1, NOW, SourcesConfig(without=("ease", "content")))]
    assert "popular_segment" not in names, "one segment tells nothing"
    assert less == [n for n in names if n not in ("ease", "content")]


def weighted(requests: Requests, n_items: int, weighting: Weighting) -> np.ndarray:
    """Dense float32 [B, n_items]."""
    indptr, items, weights = (part[0] for part in Weightings([weighting]).of(requests, slots(n_items)))
    n = indptr[-1]
    return sp.csr_matrix((weights[:n], items[:n], indptr), shape=(len(requests), n_items)).toarray()


items_of = st.lists(st.integers(0, 5), max_size=60)


@given(st.lists(items_of, min_size=1, max_size=4))
@example([sorted(list(range(3)) * 20), [5, 1, 0]])  # scipy sorts the first only because of the second
@settings(max_examples=60, deadline=None)
def test_weights_of_a_history_do_not_depend_on_other_histories(batch: list[list[int]]) -> None:
    parts = [history_of(items, NOW) for items in batch]
    whole = Histories(
        np.concatenate([[0], np.cumsum([len(items) for items in batch])]),
        *(np.concatenate([getattr(p, f) for p in parts]) for f in
          ("item", "time", "kind", "strength", "quantity", "session")),
    )  # fmt: skip
    nobody = np.full(len(batch), -1, np.int32)
    together = weighted(Requests(np.full(len(batch), NOW), nobody, nobody, whole), 6, MONTHS)
    for b, part in enumerate(parts):
        alone = weighted(Requests(np.array([NOW]), nobody[:1], nobody[:1], part), 6, MONTHS)
        assert alone[0].tobytes() == together[b].tobytes()


def test_weighting_counts_the_newest_steps_of_the_newest_session() -> None:
    nobody = np.array([-1], np.int32)
    asked = Requests(np.array([NOW]), nobody, nobody, history_of([0, 1, 0, 2], NOW))

    def weights(weighting: Weighting) -> list[float]:
        return weighted(asked, 3, weighting)[0].tolist()

    assert weights(Weighting()) == [2, 1, 1]
    assert weights(Weighting(distinct=True)) == [1, 1, 1]
    assert weights(Weighting(last=2)) == [1, 0, 1]
    assert weights(Weighting(decay=0.5, distinct=True)) == [0.5, 0.25, 1]  # item 0 at its newest place
    assert weights(Weighting(session=True)) == [0, 0, 1]
    assert np.allclose(weights(Weighting(half_life_days=1)), [2**-2 + 2**-4, 2**-3, 2**-1])


def test_ease_is_the_textbook_formula() -> None:
    x = (np.random.default_rng(0).random((30, 8)) < 0.4).astype(np.float32)
    x[:, 5] = 0  # nobody took it
    inverse = np.linalg.inv(x.T.astype(float) @ x + 3.0 * np.eye(8))
    expected = np.eye(8) - inverse / np.diag(inverse)
    expected[np.diag_indices(8)] = 0
    expected[5] = expected[:, 5] = 0
    assert np.allclose(nb.ease(sp.csr_matrix(x), 3.0, 8).toarray(), expected, atol=1e-5)


def test_ease_names_the_ridge_when_it_cannot_invert() -> None:
    twice = sp.csr_matrix(np.ones((4, 2), np.float32))
    with pytest.raises(LongtailError, match="raise the ridge"):
        nb.ease(twice, -1e-9, 2)


@pytest.mark.parametrize("k", [3, 10])
def test_cosine_is_the_dense_one(k: int) -> None:
    x = (np.random.default_rng(1).random((20, 10)) < 0.5).astype(float)
    norm = np.sqrt((x**2).sum(0))
    expected = x.T @ x / (np.outer(norm, norm) + 2.0)
    np.fill_diagonal(expected, 0)
    found = nb.cosine(sp.csr_matrix(x), k, 2.0).toarray()
    assert np.allclose(found[found != 0], expected[found != 0], atol=1e-6)
    for row, best in zip(found, expected, strict=True):
        assert np.allclose(np.sort(row)[-k:], np.sort(best)[-k:], atol=1e-6)


def test_best_entries_are_the_largest_and_ties_go_to_the_smaller_column() -> None:
    kept = nb.keep_best(sp.csr_matrix(np.array([[1.0, -3, 1, 1], [0, 0, 2, 0]])), 2).toarray()
    assert kept.tolist() == [[1, -3, 0, 0], [0, 0, 2, 0]]


def test_graph_filter_is_the_dense_one() -> None:
    x = (np.random.default_rng(2).random((15, 6)) < 0.5).astype(float) + np.eye(15, 6)
    normal = x / np.sqrt(x.sum(1, keepdims=True).clip(1)) / np.sqrt(x.sum(0, keepdims=True).clip(1))
    assert np.allclose(nb.graph_filter(sp.csr_matrix(x), 6).toarray(), normal.T @ normal, atol=1e-6)


def test_spectral_at_full_rank_is_the_graph_filter_between_item_degrees() -> None:
    log = random_log(30, 6, 300)
    x = nb.user_item(log)
    source = spectral(x, 5, Weighting(distinct=True), "s", "r", 0)
    normal = nb.degree_normalised(x).toarray()
    right = np.linalg.svd(normal)[2][:5].T
    degree = np.sqrt(np.asarray(x.sum(0)).ravel())
    expected = (right / degree[:, None]) @ (right * degree[:, None]).T
    nobody = np.array([-1], np.int32)
    answer = source.answer(Requests(np.array([NOW]), nobody, nobody, history_of([1, 4], NOW)))
    assert np.allclose(answer.at(np.zeros(6, int), np.arange(6)), expected[1] + expected[4], atol=1e-3)


def test_rules_of_a_circle() -> None:
    """Everybody goes 0 -> 1 -> 2 -> 3 -> 0 ...: one step ahead counts 1, two steps a half."""
    circle = log_of([(u, (u + s) % 4, s / 100) for u in range(4) for s in range(9)], 4, 4)
    found = nb.rules(circle, 2, 0.5, 4).toarray()
    once = np.roll(np.eye(4), 1, axis=1) * 8  # each of the 4 x 8 steps, spread evenly over 4 items
    twice = np.roll(np.eye(4), 2, axis=1) * 7 * 0.5
    assert np.allclose(found, (once + twice) / np.sqrt(8 + 3.5), atol=1e-5)
    back = nb.rules(circle, 1, 1.0, 4, backward=True).toarray()
    assert np.allclose(back, np.roll(np.eye(4), -1, axis=1) * np.sqrt(8), atol=1e-5)


def test_rules_do_not_cross_people_nor_lead_to_the_same_item() -> None:
    two = log_of([(0, 0, 1), (0, 0, 2), (1, 1, 3), (1, 2, 4)], 2, 3)
    assert nb.rules(two, 3, 1.0, 3).toarray().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_co_purchase_knows_baskets_only() -> None:
    """Items 0 and 1 share a basket; 0 and 2 share only a buyer."""
    log = log_of([(0, 0, 1.0), (0, 1, 1.1), (0, 2, 9.0)], 1, 3)
    found = nb.cosine(nb.session_item(log), 3, 0.0).toarray()
    assert found.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_popularity_halves() -> None:
    log = log_of([(0, 0, 60), (0, 1, 53), (1, 1, 46), (0, 2, 60), (1, 2, 60)], 2, 4)
    assert np.allclose(decayed_counts(log, NOW, 7), [1, 0.5 + 0.25, 2, 0])
    assert decayed_counts(log, NOW, None).tolist() == [1, 2, 2, 0]
    asked = requests_at(log, [-1], DAYS)
    assert popular(log, NOW, 7, "p", "r").retrieve(asked, 4)[0].tolist() == [[2, 0, 1, -1]]
    assert popular(log, NOW, None, "p", "r").retrieve(asked, 4)[0].tolist() == [[1, 2, 0, -1]]


def test_trending_prefers_the_new_rise_to_the_old_favourite() -> None:
    old = [(u, 0, d) for u in range(10) for d in (35, 40, 45, 50, 55, 59)]
    log = log_of(old + [(u, 1, 59.5) for u in range(12)], 12, 2)
    asked = requests_at(log, [-1], DAYS)
    assert popular(log, NOW, 30, "p", "r").retrieve(asked, 1)[0][0, 0] == 0
    assert trending(log, NOW, "t", "r").retrieve(asked, 1)[0][0, 0] == 1


def test_popular_where_the_person_is() -> None:
    """Even people (segment 0) take item 0, odd ones item 1; everybody else gets what most take."""
    log = log_of([(u, u % 2, 59) for u in range(10)] + [(10, 0, 59)], 12, 3)
    source = popular_in_segment(log, np.arange(12) % 2, 2, NOW, "s", "r", prior=1.0)
    assert source.retrieve(requests_at(log, [2, 3, -1], DAYS), 1)[0][:, 0].tolist() == [0, 1, 0]
    elsewhere = Requests(np.array([NOW]), np.array([2]), np.array([7]), Histories.empty(1))
    assert source.retrieve(elsewhere, 1)[0][0, 0] == 0, "a segment that came after the fit counts as unknown"


def test_session_neighbours_follow_those_who_went_the_same_way() -> None:
    same = [(u, i, u + s / 10) for u in range(5) for s, i in enumerate((0, 1, 2))]
    other = [(u, i, u + s / 10) for u in range(5, 15) for s, i in enumerate((3, 4, 5))]
    source = session_neighbours(log_of(same + other, 15, 6), "s", "r", STEPS)
    nobody = np.array([-1], np.int32)
    ids, _ = source.retrieve(Requests(np.array([NOW]), nobody, nobody, history_of([0, 1], NOW)), 6)
    assert set(ids[0][ids[0] >= 0]) == {0, 1, 2}
