"""Keeps training libraries out of serving processes, wherever both happen to be installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Some libraries import these when they find them: seconds of start-up and half a gigabyte for nothing.
UNWANTED = frozenset({"torch", "mlflow", "evidently", "kfp"})


class _NotInstalled(MetaPathFinder):
    """Imports of unwanted libraries fail as if they were not installed.

    A None in `sys.modules` would do so too, but SciPy looks there and takes whatever it finds for the library.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in UNWANTED:
            raise ModuleNotFoundError(f"No module named {fullname!r} in a serving process", name=fullname)
        return None


def keep_out() -> None:
    """Call it before other imports."""
    sys.meta_path.insert(0, _NotInstalled())
