"""The seven surfaces that a shop has without a file; a file changes single keys of them or adds its own."""

from __future__ import annotations

from typing import Any

# Sources are named by likeness, not by a shop's size: those that a bundle lacks are left out when it is bound.
_ALIKE = ["content", "item_knn", "sessions", "next_1", "next_5", "before_5"]
_TOGETHER = ["copurchase", "copurchase_months", "next_5_long", "item_knn"]
_BESIDE = ["copurchase", "copurchase_months", "ease_steps", "graph", "item_knn", "next_5", "sessions"]

BUILTIN: dict[str, dict[str, Any]] = {
    "homepage": {"k": 20},
    "similar_items": {"k": 12, "anchor": "items", "order": "blend", "sources": _ALIKE, "cache_s": 300},
    "bought_together": {
        "k": 6, "anchor": "items", "order": "blend", "sources": _TOGETHER,
        "blend": {"item_knn": 0.25, "next_5_long": 0.5}, "cache_s": 300,
    },
    "because_you_viewed": {"k": 12, "anchor": "last_viewed", "order": "blend", "sources": _ALIKE},
    "cart": {"k": 8, "anchor": "items", "order": "blend", "sources": _BESIDE},
    "category_page": {"k": 24, "within": "category"},
    "email": {"k": 10, "made": "precomputed"},
}  # fmt: skip
