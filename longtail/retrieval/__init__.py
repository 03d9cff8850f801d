"""Retrieval: candidate sources of three kinds, and the blend over them."""

from longtail.retrieval.retriever import Candidates, Retriever

__all__ = ["Candidates", "Retriever"]
