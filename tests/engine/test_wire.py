"""What the recommender asks of the retriever survives the way there; what does not fit is refused by name."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from longtail.engine.wire import pack_ask, pack_candidates, unpack_ask, unpack_candidates
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.retrieval.candidates import Ask, Candidates
from tests.tiny import history_of

NOW = 1_700_000_000_000_000
WEIGHTS = np.array([1.0, 0.0, 2.5], np.float32)
ALSO = (np.array([0, 0]), np.array([1, 3]))


def asked() -> Requests:
    one = np.array([-1], np.int32)
    return Requests(np.array([NOW]), one, one, history_of([3, 1], NOW))


@pytest.mark.parametrize("ask", [Ask(7), Ask(7, WEIGHTS), Ask(7, None, ALSO), Ask(7, WEIGHTS, ALSO)])
def test_an_ask_arrives_as_it_was_sent(ask: Ask) -> None:
    requests, found = unpack_ask(pack_ask(asked(), ask), 5, 3)
    assert requests.history.item.tolist() == [3, 1] and requests.time.tolist() == [NOW]
    assert found.n == 7
    assert (found.weights is None) == (ask.weights is None) and (found.also is None) == (ask.also is None)
    if ask.weights is not None and found.weights is not None:
        assert found.weights.tolist() == ask.weights.tolist()
    if ask.also is not None and found.also is not None:
        assert [a.tolist() for a in found.also] == [a.tolist() for a in ask.also]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"n": np.array([0])}, "n:"),
        ({"n": np.array([1.5])}, "n:"),
        ({"weights": np.ones(2, np.float32)}, "weights: must be a float32 tensor of length 3"),
        ({"weights": np.array([1, -1, 1], np.float32)}, "weights"),
        ({"weights": np.array([1, np.nan, 1], np.float32)}, "weights"),
        ({"also_rows": np.array([0])}, "also_rows"),
        ({"also_items": np.array([5, 0])}, "also_items"),
        ({"also_rows": np.array([1, 0])}, "also_items"),
        ({"history_item": np.array([9, 9], np.int32)}, "history_item"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, np.ndarray], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        unpack_ask(pack_ask(asked(), Ask(7, WEIGHTS, ALSO)) | change, 5, 3)


def test_candidates_arrive_as_they_were_found() -> None:
    two = np.ones((4, 2), np.float32)
    sent = Candidates(np.array([0, 0, 1, 1]), np.array([2, 4, 0, 9]), two, two, two[:, 0], np.array([0, 1, 1, 0]))
    found = unpack_candidates(pack_candidates(sent), 2)
    for name in ("rows", "items", "scores", "ranks", "blend", "best"):
        assert getattr(found, name).tobytes() == getattr(sent, name).tobytes()
    with pytest.raises(InvalidInput, match="scores"):
        unpack_candidates(pack_candidates(sent), 3)


def test_whoever_only_asks_loads_no_index_and_no_onnx_runtime() -> None:
    code = "import sys, longtail.engine.wire; print([m for m in ('faiss', 'onnxruntime', 'numba') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"
