"""Longtail: a two-stage recommender that keeps the long tail alive."""

__version__ = "0.1.0"
