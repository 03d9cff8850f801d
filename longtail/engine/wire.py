"""Requests, what is asked, and candidates as named arrays: what travels between the recommender and the retriever."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from longtail.errors import InvalidInput
from longtail.events import Histories, Requests
from longtail.retrieval.candidates import Ask, Candidates

REQUEST_TYPES = {"time": np.int64, "user": np.int32, "segment": np.int32}
HISTORY_TYPES = {
    "indptr": np.int64, "item": np.int32, "time": np.int64, "kind": np.int8, "strength": np.float32,
    "quantity": np.float32, "session": np.int32,
}  # fmt: skip
CANDIDATE_TYPES = {
    "rows": np.int64, "items": np.int64, "scores": np.float32, "ranks": np.float32, "blend": np.float32,
    "best": np.int64,
}  # fmt: skip


def pack_requests(requests: Requests) -> dict[str, np.ndarray]:
    """The arrays of B requests: `time`, `user`, `segment` [B], `history_indptr` [B + 1], `history_*` [nnz]."""
    out = {name: np.asarray(getattr(requests, name), dtype) for name, dtype in REQUEST_TYPES.items()}
    history = requests.history
    return out | {f"history_{n}": np.asarray(getattr(history, n), dtype) for n, dtype in HISTORY_TYPES.items()}


def unpack_requests(arrays: Mapping[str, np.ndarray], n_items: int) -> Requests:
    """The requests of `pack_requests`.

    Raises:
        InvalidInput: an array is missing, has another type or length, or names an item outside the catalogue.
    """
    wanted = {**REQUEST_TYPES, **{f"history_{n}": t for n, t in HISTORY_TYPES.items()}}
    for name, dtype in wanted.items():
        if name not in arrays or arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise InvalidInput(f"{name}: must be a one-dimensional {np.dtype(dtype).name} tensor")
    indptr, item = arrays["history_indptr"], arrays["history_item"]
    length = len(arrays["time"])
    ragged = len(indptr) == length + 1 and indptr[0] == 0 and indptr[-1] == len(item) and (np.diff(indptr) >= 0).all()
    if not ragged or any(len(arrays[n]) != length for n in REQUEST_TYPES):
        raise InvalidInput("history_indptr: does not fit the number of requests and events")
    if any(len(arrays[f"history_{n}"]) != len(item) for n in HISTORY_TYPES if n != "indptr"):
        raise InvalidInput("history_item: the history tensors must have one length")
    if len(item) and not (item.min() >= 0 and item.max() < n_items):
        raise InvalidInput("history_item: names an item outside the catalogue")
    history = Histories(**{n: arrays[f"history_{n}"] for n in HISTORY_TYPES})
    return Requests(arrays["time"], arrays["user"], arrays["segment"], history)


def pack_ask(requests: Requests, ask: Ask) -> dict[str, np.ndarray]:
    """The arrays of `pack_requests`, `n` [1], and where given `weights` [S] and `also_rows`, `also_items` [M]."""
    out = pack_requests(requests) | {"n": np.array([ask.n], np.int64)}
    if ask.weights is not None:
        out["weights"] = np.asarray(ask.weights, np.float32)
    if ask.also is not None and len(ask.also[0]):
        out |= {f"also_{name}": np.asarray(a, np.int64) for name, a in zip(("rows", "items"), ask.also, strict=True)}
    return out


def unpack_ask(arrays: Mapping[str, np.ndarray], n_items: int, n_sources: int) -> tuple[Requests, Ask]:
    """The requests and the ask of `pack_ask`.

    Raises:
        InvalidInput: an array is missing, has another type, length or range than it must.
    """
    requests = unpack_requests(arrays, n_items)
    n = arrays.get("n")
    if n is None or n.dtype != np.int64 or n.shape != (1,) or n[0] < 1:
        raise InvalidInput("n: must be one int64, the number of candidates of a request")
    weights = arrays.get("weights")
    if weights is not None:
        if weights.dtype != np.float32 or weights.shape != (n_sources,):
            raise InvalidInput(f"weights: must be a float32 tensor of length {n_sources}, one for each source")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise InvalidInput("weights: must be finite and not negative")
    if "also_rows" not in arrays and "also_items" not in arrays:
        return requests, Ask(int(n[0]), weights)
    rows, items = also = tuple(arrays.get(f"also_{name}", np.empty(0)) for name in ("rows", "items"))
    if any(a.dtype != np.int64 or a.ndim != 1 for a in also) or len(rows) != len(items):
        raise InvalidInput("also_rows, also_items: must be two int64 tensors of one length")
    if len(rows) and not (min(rows.min(), items.min()) >= 0 and rows.max() < len(requests) and items.max() < n_items):
        raise InvalidInput("also_items: names a request or an item that does not exist")
    return requests, Ask(int(n[0]), weights, (rows, items))


def pack_candidates(candidates: Candidates) -> dict[str, np.ndarray]:
    """The arrays of N candidates, see `Candidates`."""
    return {name: np.asarray(getattr(candidates, name), dtype) for name, dtype in CANDIDATE_TYPES.items()}


def unpack_candidates(arrays: Mapping[str, np.ndarray], n_sources: int) -> Candidates:
    """The candidates of `pack_candidates`.

    Raises:
        InvalidInput: an array is missing, or has another type or shape.
    """
    n = len(arrays["rows"]) if "rows" in arrays else 0
    for name, dtype in CANDIDATE_TYPES.items():
        shape = (n, n_sources) if name in ("scores", "ranks") else (n,)
        if name not in arrays or arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise InvalidInput(f"{name}: the retriever sent another type or shape than {np.dtype(dtype).name} {shape}")
    return Candidates(**{name: arrays[name] for name in CANDIDATE_TYPES})
