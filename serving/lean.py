"""Keeps training libraries out of serving processes, wherever both happen to be installed."""

from __future__ import annotations

import sys

# Some libraries import these when they find them: seconds of start-up and half a gigabyte for nothing.
UNWANTED = ("torch", "mlflow", "evidently", "kfp")


def keep_out() -> None:
    """Make imports of training libraries fail as if they were not installed. Call it before other imports."""
    for name in UNWANTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
