"""Retrieval: candidate sources of three kinds, and the blend over them."""

from typing import TYPE_CHECKING, Any

from longtail.retrieval.candidates import Ask, Candidates

if TYPE_CHECKING:
    from longtail.retrieval.retriever import Retriever

__all__ = ["Ask", "Candidates", "Retriever"]


def __getattr__(name: str) -> Any:
    # The recommender reads candidates that another process found: it must not pay for FAISS and ONNX Runtime.
    if name == "Retriever":
        from longtail.retrieval.retriever import Retriever

        return Retriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
