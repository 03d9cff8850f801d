"""How long work says where it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much: 0 where nobody knows."""


def silent(what: str, done: int, of: int) -> None:
    """Tell nobody."""
