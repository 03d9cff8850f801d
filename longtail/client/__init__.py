"""A small typed client of the recommender and the collector: retries, a hedged request, one deadline over all.

with Client("http://127.0.0.1:8080", hedge_after_s=0.05) as client:
    for item in client.recommend(user_id="u1", k=10).items:
        print(item.item_id, item.reason)
"""

from longtail.client.asynchronous import AsyncClient
from longtail.client.results import Event, Item, Receipt, Recommendation, RejectedEvent
from longtail.client.retrying import Refused, Retrying
from longtail.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "Event",
    "Item",
    "Receipt",
    "Recommendation",
    "Refused",
    "RejectedEvent",
    "Retrying",
]
