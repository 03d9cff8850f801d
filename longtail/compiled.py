"""Loops compiled by Numba, kept on disk so that only the first process on a machine compiles them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable)


def compiled(function: F) -> F:
    """Compile on the first call, without the interpreter's lock; one thread, no reordering of float operations.

    Numba keeps what it compiled beside the source, else in the user's cache folder, or where `NUMBA_CACHE_DIR` says. On
    a read-only installation without a home it is kept in the machine's folder for temporary files, or in memory.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # Numba found no folder that it may write to
        folder = Path(tempfile.gettempdir()) / f"longtail-compiled-{os.getuid()}"
        numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):
        return numba.njit(**options)(function)


def frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    """A read-only view (a copy only where type or layout differ): a loop is compiled once for what is mapped or sent."""
    view = np.ascontiguousarray(array, dtype).view(np.ndarray)
    view.flags.writeable = False
    return view
