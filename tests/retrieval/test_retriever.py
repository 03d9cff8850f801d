"""All sources behind one call: what is proposed, how it is scored, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longtail.errors import InvalidBundle
from longtail.events import Requests
from longtail.retrieval import Candidates, Retriever
from longtail.retrieval.blend import Blend, evidence, fit_blend
from longtail.retrieval.content import content_matrix
from longtail.retrieval.lists import ListSource
from longtail.retrieval.sources import SourcesConfig, fit_sources
from longtail.retrieval.union import ranks_of
from longtail.schema import DAY_US
from longtail.second_thread import SecondThread
from tests.tiny import START, catalogue, history_of, random_log, requests_at

USERS, ITEMS, DAYS = 30, 40, 60
NOW = START + DAYS * DAY_US


def listed(name: str, scores: list[float]) -> ListSource:
    return ListSource(name, f"reason of {name}", np.array(scores, np.float32))


def asked_with(*histories: list[int]) -> Requests:
    nobody = np.array([-1], np.int32)
    parts = [Requests(np.array([NOW]), nobody, nobody, history_of(items, NOW)) for items in histories]
    one = parts[0].history
    fields = ("item", "time", "kind", "strength", "quantity", "session")
    flat = [np.concatenate([getattr(p.history, f) for p in parts]) for f in fields]
    indptr = np.concatenate([[0], np.cumsum([len(p.history.item) for p in parts])])
    many = np.full(len(parts), -1, np.int32)
    return Requests(np.full(len(parts), NOW), many, many, type(one)(indptr, *flat))


@pytest.fixture(scope="module")
def fitted() -> Retriever:
    log = random_log(USERS, ITEMS, 900, DAYS)
    segment = np.arange(USERS, dtype=np.int32) % 2
    sources = fit_sources(log, content_matrix(catalogue(ITEMS)), segment, 2, NOW, SourcesConfig(ease_ridge=5))
    return Retriever(sources, Blend.equal(len(sources)), depth=6)


@pytest.fixture(scope="module")
def people() -> Requests:
    return requests_at(random_log(USERS, ITEMS, 900, DAYS), [*range(USERS), -1], DAYS)


def same(found: Candidates, expected: Candidates) -> None:
    for field in ("rows", "items", "scores", "ranks", "blend", "best"):
        assert getattr(found, field).tobytes() == getattr(expected, field).tobytes(), field


def test_union_with_the_scores_ranks_and_provenance_of_every_source() -> None:
    first, second = listed("a", [5, 4, 0, 1]), listed("b", [0, 1, 9, 2])
    found = Retriever([first, second], Blend.equal(2), depth=2).candidates(asked_with([]))
    assert found.items.tolist() == [0, 1, 2, 3] and found.rows.tolist() == [0, 0, 0, 0]
    assert found.scores.tolist() == [[5, 0], [4, 1], [0, 9], [1, 2]], (
        "scores of items that a source did not propose too"
    )
    assert found.ranks.tolist() == [[0, 3], [1, 2], [3, 0], [2, 1]]
    assert found.best.tolist() == [0, 0, 1, 1]


def test_only_the_first_of_each_source_are_proposed() -> None:
    found = Retriever([listed("a", [5, 4, 0, 1])], Blend.equal(1), depth=2).candidates(asked_with([]))
    assert found.items.tolist() == [0, 1]


def test_names_and_reasons_follow_the_columns() -> None:
    retriever = Retriever([listed("a", [1]), listed("b", [1])], Blend.equal(2))
    assert retriever.names == ["a", "b"] and retriever.reasons == ["reason of a", "reason of b"]


def test_what_a_person_has_is_not_proposed_and_each_source_still_fills_its_depth() -> None:
    sources = [listed("a", [9, 8, 7, 6, 5, 4]), listed("b", [1, 2, 3, 4, 5, 6])]
    retriever = Retriever(sources, Blend.equal(2), depth=2, repeats=False)
    found = retriever.candidates(asked_with([0, 1, 1, 5], [], [0, 1, 2, 3, 4, 5]))
    of = [found.items[found.rows == b].tolist() for b in range(3)]
    assert of == [[2, 3, 4], [0, 1, 4, 5], []]  # a: 2 3, b: 4 3; a: 0 1, b: 5 4; nothing is left


def test_no_history_among_the_candidates_of_a_real_shop(fitted: Retriever, people: Requests) -> None:
    fresh = Retriever(fitted.sources, fitted.blend, fitted.depth, repeats=False).candidates(people)
    had = set(zip(people.history.rows.tolist(), people.history.item.tolist(), strict=True))
    assert not had & set(zip(fresh.rows.tolist(), fresh.items.tolist(), strict=True))
    assert had & set(zip(*(c.tolist() for c in pairs_of(fitted.candidates(people))), strict=True)), "else no test"


def pairs_of(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    return candidates.rows, candidates.items


def test_candidates_are_distinct_and_grouped(fitted: Retriever, people: Requests) -> None:
    found = fitted.candidates(people)
    key = found.rows * ITEMS + found.items
    assert np.all(np.diff(key) > 0)
    assert np.array_equal(np.unique(found.rows), np.arange(len(people))), "popular items serve the unknown too"
    assert found.scores.shape == found.ranks.shape == (len(key), len(fitted.sources))
    assert np.all((found.blend > 0) & (found.blend < 1))
    assert np.all(np.take_along_axis(found.scores, found.best[:, None], 1) > 0), "the best source knows the item"


def test_cut_by_the_blend(fitted: Retriever, people: Requests) -> None:
    whole, cut = fitted.candidates(people), fitted.candidates(people, 5)
    for b in range(len(people)):
        mine = whole.rows == b
        order = np.lexsort((whole.items[mine], -whole.blend[mine]))[:5]
        assert np.array_equal(np.sort(whole.items[mine][order]), cut.items[cut.rows == b])
    same(fitted.candidates(people, 10_000), whole)


@pytest.mark.parametrize("repeats", [True, False])
def test_same_candidates_alone_and_in_a_batch(fitted: Retriever, people: Requests, repeats: bool) -> None:
    retriever = Retriever(fitted.sources, fitted.blend, fitted.depth, repeats)
    whole = retriever.candidates(people)
    for b in range(0, len(people), 5):
        alone = retriever.candidates(people.take(np.array([b])))
        mine = whole.take(whole.rows == b)
        same(alone, Candidates(mine.rows * 0, mine.items, mine.scores, mine.ranks, mine.blend, mine.best))


def test_same_candidates_with_a_second_thread(fitted: Retriever, people: Requests) -> None:
    weights = np.ones(len(fitted.sources), np.float32)
    weights[::3] = 0
    for b in range(0, len(people), 5):
        one = people.take(np.array([b]))
        for asked in (None, weights):
            shared = fitted.candidates(one, 20, weights=asked, share=SecondThread().in_two)
            same(shared, fitted.candidates(one, 20, weights=asked))


@pytest.mark.parametrize("repeats", [True, False])
def test_an_empty_batch(fitted: Retriever, people: Requests, repeats: bool) -> None:
    retriever = Retriever(fitted.sources, fitted.blend, fitted.depth, repeats)
    found = retriever.candidates(people.take(np.empty(0, np.int64)), 5)
    assert len(found.rows) == len(found.best) == 0 and found.scores.shape == (0, len(fitted.sources))


def test_saved_and_loaded(fitted: Retriever, people: Requests, tmp_path: Path) -> None:
    weights = np.linspace(0, 2, len(fitted.sources)).astype(np.float32)
    retriever = Retriever(fitted.sources, Blend(weights, -2.5), depth=4, repeats=False)
    retriever.save(tmp_path / "r")
    loaded = Retriever.load(tmp_path / "r")
    assert (loaded.names, loaded.reasons) == (retriever.names, retriever.reasons)
    assert (loaded.depth, loaded.repeats) == (4, False)
    same(loaded.candidates(people), retriever.candidates(people))


def test_a_folder_that_is_no_retriever(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="train again"):
        Retriever.load(tmp_path)
    (tmp_path / "config.json").write_text('{"sources": [{"name": "a", "kind": "Oracle"}]}')
    with pytest.raises(InvalidBundle, match="Oracle"):
        Retriever.load(tmp_path)


def test_ranks_start_anew_with_each_request_and_ties_go_to_the_smaller_item() -> None:
    rows = np.array([0, 0, 0, 2, 2])
    scores = np.array([[2.0, 5, 2, 0, 1], [-1, -3, 0, -0.0, 0]], np.float32)
    assert ranks_of(rows, scores).tolist() == [[1, 0, 2, 1, 0], [1, 2, 0, 0, 1]]
    assert ranks_of(rows[:0], scores[:, :0]).shape == (2, 0)


def test_the_blend_learns_which_source_to_trust() -> None:
    """What the second source puts first is wanted; the first source draws lots; the third is always wrong."""
    rng = np.random.default_rng(0)
    n, each = 200, 10
    rows, items = np.repeat(np.arange(n), each), np.tile(np.arange(each), n)
    wanted = rng.integers(0, each, n)
    hit = items == wanted[rows]
    scores = np.stack([rng.random(n * each), 0.1 + hit + 0.3 * rng.random(n * each), 0.1 + ~hit], 1).astype(np.float32)
    ranks = ranks_of(rows, np.ascontiguousarray(scores.T)).T
    blend = fit_blend(scores, ranks, hit)
    assert blend.weights[1] > 3 * blend.weights[0] and blend.weights[2] == 0
    chance, loudest = blend.judge(np.ascontiguousarray(scores.T), np.ascontiguousarray(ranks.T))
    best = ranks_of(rows, chance[None])[0] == 0
    assert (hit & best).sum() > 0.95 * n
    assert np.isclose(chance.mean(), hit.mean(), atol=0.01), "probabilities are calibrated"
    assert np.all(loudest[hit] == 1)


def test_a_source_without_a_positive_score_is_no_evidence() -> None:
    assert evidence(np.array([[0, -1, 2.0]]), np.array([[0, 0, 10.0]])).tolist() == [[0, 0, 0.5]]


def test_a_source_at_weight_zero_proposes_nothing_and_is_no_evidence() -> None:
    first, second = listed("a", [5, 4, 0, 1]), listed("b", [0, 1, 9, 2])
    retriever = Retriever([first, second], Blend.equal(2), depth=2)
    found = retriever.candidates(asked_with([]), weights=np.array([1, 0], np.float32))
    assert found.items.tolist() == [0, 1] and found.best.tolist() == [0, 0]
    assert found.scores.tolist() == [[5, 0], [4, 1]], "what it says is still a feature"
    alone = Retriever([first], Blend.equal(1), depth=2).candidates(asked_with([]))
    assert found.blend.tobytes() == alone.blend.tobytes()
    also = (np.array([0]), np.array([2]))
    added = retriever.candidates(asked_with([]), also=also, weights=np.array([0, 1], np.float32))
    assert added.items.tolist() == [2, 3] and added.best.tolist() == [1, 1]
    unknown = retriever.candidates(asked_with([]), also=(np.array([0]), np.array([0])), weights=np.array([0, 1]))
    assert unknown.best[0] == 1, "the source that was left out never speaks for an item"


def test_factors_shift_the_blend_towards_a_source() -> None:
    retriever = Retriever([listed("a", [2, 1]), listed("b", [1, 2])], Blend.equal(2), depth=2)
    assert np.diff(retriever.candidates(asked_with([])).blend) == pytest.approx(0, abs=1e-6)
    assert np.diff(retriever.candidates(asked_with([]), weights=np.array([1, 3], np.float32)).blend) > 0.01
    same(retriever.candidates(asked_with([]), weights=np.ones(2)), retriever.candidates(asked_with([])))
