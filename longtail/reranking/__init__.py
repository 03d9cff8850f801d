"""Re-ranking: filters, caps, diversity, boosts, exploration, and the rules file that sets them."""

from longtail.reranking.binding import BoundRules, TargetIndex
from longtail.reranking.filters import REASONS, keep_mask, may_show
from longtail.reranking.rerank import Reranked, rerank
from longtail.reranking.rules import Rules
from longtail.reranking.views import ItemView, PersonView

__all__ = [
    "REASONS",
    "BoundRules",
    "ItemView",
    "PersonView",
    "Reranked",
    "Rules",
    "TargetIndex",
    "keep_mask",
    "may_show",
    "rerank",
]
