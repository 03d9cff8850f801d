"""What a serving process settles before it imports anything else: no training libraries, and how gRPC waits."""

from __future__ import annotations

import os
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


# With its event engine a thread of its own waits for messages and wakes another that reads them. These settings go
# with a version of gRPC: one that does not know them says so (tests/serving/test_lean.py asks) and does without.
WAITING = "-event_engine_client,-event_engine_listener,-event_engine_for_all_other_endpoints,"
WAITING += "-event_engine_callback_cq,-pollset_alternative"


def read_where_waiting() -> None:
    """Have gRPC's thread that waits for a message read it as well, unless `GRPC_EXPERIMENTS` says how it is to wait.

    One thread less to wake: benchmarks/profiling.md. Call it before gRPC is imported.
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", WAITING)
