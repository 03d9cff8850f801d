import numpy as np
import pytest

from longtail.errors import InvalidBundle, InvalidInput
from longtail.retrieval.index import FLAT_UP_TO, VectorIndex, choose_kind


def _vectors(n: int = 2000, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_kind_follows_the_size_of_the_catalogue() -> None:
    assert choose_kind(100, 64) == "flat"
    assert choose_kind(FLAT_UP_TO // 64 + 1, 64) == "ivf"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_finds_what_brute_force_finds_and_says_how_much_of_it(kind: str) -> None:
    vectors, queries = _vectors(), _vectors(50, seed=1)
    index = VectorIndex.build(vectors, queries, kind=kind, gpu=False)
    ids, scores = index.search(queries, 100)
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
    recall = np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(ids, truth, strict=True)])
    assert recall == pytest.approx(index.figures.recall_at_100) and recall >= 0.95
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, ids, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_a_build_that_misses_recall_fails_with_one_line(kind: str) -> None:
    with pytest.raises(InvalidInput, match=r"recall@100 .* below 0.95") as raised:
        VectorIndex.build(_vectors(3000, 64), _vectors(40, 64, 1), kind=kind, gpu=False, max_effort=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_saved_index_answers_the_same(kind: str, tmp_path) -> None:
    vectors, queries = _vectors(), _vectors(5, seed=1)
    built = VectorIndex.build(vectors, kind=kind, gpu=False)
    built.save(tmp_path)
    loaded = VectorIndex.load(tmp_path, vectors)
    assert loaded.figures == built.figures
    for a, b in zip(built.search(queries, 10), loaded.search(queries, 10), strict=True):
        np.testing.assert_array_equal(a, b)
    again = VectorIndex.build(vectors, kind=kind, gpu=False)
    np.testing.assert_array_equal(built.search(queries, 10)[0], again.search(queries, 10)[0])


def test_more_than_the_catalogue_is_padded_and_ties_go_to_the_smaller_item() -> None:
    vectors = np.ones((3, 4), np.float32)
    index = VectorIndex.build(vectors)
    ids, scores = index.search(np.ones((2, 4), np.float32), 5)
    assert ids.tolist() == [[0, 1, 2, -1, -1]] * 2
    assert np.isneginf(scores[:, 3:]).all() and (scores[:, :3] == 4).all()
    assert index.search(np.empty((0, 4), np.float32), 5)[0].shape == (0, 5)


def test_an_empty_catalogue_answers_with_nothing() -> None:
    index = VectorIndex.build(np.empty((0, 4), np.float32))
    assert (index.search(np.ones((1, 4), np.float32), 3)[0] == -1).all()


def test_bad_input_is_named(tmp_path) -> None:
    with pytest.raises(InvalidInput, match="finite"):
        VectorIndex.build(np.full((2, 2), np.nan, np.float32))
    with pytest.raises(InvalidInput, match="annoy"):
        VectorIndex.build(_vectors(10), kind="annoy")
    with pytest.raises(InvalidBundle, match=r"index.faiss"):
        VectorIndex.load(tmp_path, _vectors(10))
