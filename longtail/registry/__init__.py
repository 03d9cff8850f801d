"""The registry: one bundle is one MLflow model version, and the aliases `champion` and `challenger` move."""

from longtail.registry.store import CHALLENGER, CHAMPION, Registry, register
from longtail.registry.version import Version

__all__ = ["CHALLENGER", "CHAMPION", "Registry", "Version", "register"]
