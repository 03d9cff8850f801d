"""Events: validation, sessions, and the int-coded log that the trainers read."""

from longtail.events.log import Catalogue, Histories, Log, Requests, Shop

__all__ = ["Catalogue", "Histories", "Log", "Requests", "Shop"]
