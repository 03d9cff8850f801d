"""The compiled retrieval against the obvious one, on random shops, in the form for small shops and that for large."""

from __future__ import annotations

import numpy as np
import pytest

from longtail.events import Requests
from longtail.retrieval import Retriever, table
from longtail.retrieval.blend import Blend
from longtail.retrieval.content import content_matrix
from longtail.retrieval.sources import SourcesConfig, fit_sources
from longtail.schema import DAY_US
from tests.retrieval import reference
from tests.tiny import START, catalogue, random_log, requests_at

DAYS = 60
NOW = START + DAYS * DAY_US


def made(seed: int, repeats: bool) -> tuple[Retriever, Requests]:
    rng = np.random.default_rng(seed)
    users, items = 25, int(rng.integers(30, 90))
    log = random_log(users, items, 700, DAYS, seed)
    segment = (np.arange(users) % 3).astype(np.int32)
    config = SourcesConfig(neighbours=12, ease_ridge=5, ease_items=items * (seed % 2), spectral_rank=6)
    sources = fit_sources(log, content_matrix(catalogue(items)), segment, 3, NOW, config)
    blend = Blend(rng.gamma(1.0, 1.0, len(sources)).astype(np.float32), -2.0)
    return Retriever(sources, blend, depth=7, repeats=repeats), requests_at(log, [*range(users), -1], DAYS)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed, repeats", [(0, True), (1, True), (2, False), (3, False)])
def test_finds_what_the_obvious_way_finds(
    seed: int, repeats: bool, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(table, "DENSE_UP_TO", 0)
    retriever, people = made(seed, repeats)
    found = retriever.candidates(people)
    for b in range(len(people)):
        expected = reference.candidates(retriever, people.take(np.array([b])))
        mine = np.flatnonzero(found.rows == b)
        # An item whose score equals another's but for rounding may take its place at the cut.
        known = np.array([i in expected for i in found.items[mine]])
        assert known.mean() > 0.95 and abs(len(mine) - len(expected)) <= 2
        scores, ranks, blend = zip(*(expected[i] for i in found.items[mine][known].tolist()), strict=True)
        np.testing.assert_allclose(found.scores[mine][known], np.array(scores), rtol=1e-3, atol=1e-4)
        assert np.mean(found.ranks[mine][known] == np.array(ranks)) > 0.95
        np.testing.assert_allclose(found.blend[mine][known], blend, atol=0.05)


@pytest.mark.parametrize("repeats", [True, False])
def test_large_and_small_form_give_the_same_bits(repeats: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small, people = made(1, repeats)
    a = small.candidates(people, 20)
    monkeypatch.setattr(table, "DENSE_UP_TO", 0)  # read while tables are made and while they answer
    large, _ = made(1, repeats)
    b = large.candidates(people, 20)
    for field in ("rows", "items", "scores", "ranks", "blend", "best"):
        assert getattr(a, field).tobytes() == getattr(b, field).tobytes(), field


def test_pairs_are_scored_in_any_order_and_any_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "DENSE_UP_TO", 0)
    retriever, people = made(0, True)
    rng = np.random.default_rng(0)
    rows, items = rng.integers(0, len(people), 400), rng.integers(0, 30, 400)
    for source in retriever.sources:
        answer = source.answer(people)
        once = [answer.at(rows[j : j + 1], items[j : j + 1])[0] for j in range(400)]
        assert answer.at(rows, items).tolist() == [float(x) for x in once], source.name
