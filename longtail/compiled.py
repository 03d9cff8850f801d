"""Loops compiled by Numba, kept on disk so that only the first process on a machine compiles them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def compiled(function: Callable | None = None, *, fastmath: set[str] | None = None) -> Any:
    """Compile on the first call, without the interpreter's lock; one thread, floats in the written order.

    `fastmath` names the liberties of LLVM that a function may take after all. Numba keeps what it compiled beside the
    source, else in the user's cache folder, or where `NUMBA_CACHE_DIR` says. On a read-only installation without a
    home it is kept in the machine's folder for temporary files, or in memory.
    """
    if function is None:
        return partial(compiled, fastmath=fastmath)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath or False}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # Numba found no folder that it may write to
        numba.config.CACHE_DIR = str(Path(tempfile.gettempdir()) / f"longtail-compiled-{os.getuid()}")  # type: ignore[attr-defined]
    try:
        return numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):
        return numba.njit(**options)(function)


def frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    """A read-only view (a copy only where type or layout differ): so one loop serves what is made, mapped or sent."""
    view = np.ascontiguousarray(array, dtype).view(np.ndarray)
    view.flags.writeable = False
    return view


def _as_pointer(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


_pointer: Any = intrinsic(_as_pointer)


def _as_prefetch(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        line = builder.inttoptr(args[0], cgutils.voidptr_t)
        to_read, into_all_caches, data = number(0), number(3), number(1)
        builder.call(prefetch, [line, to_read, into_all_caches, data])
        return context.get_dummy_value()

    return types.void(types.int64), code


_prefetch_line: Any = intrinsic(_as_prefetch)
_LINE, _AHEAD = 64, 16


@compiled
def prefetch(rows: np.ndarray, order: np.ndarray, step: int) -> None:
    """At a step of a loop over `rows[order]`, have the row brought from memory that the loop reads some steps later.

    What lies anywhere in a large matrix is waited for longer than it takes to compute with it. A row that there is not
    does no harm.
    """
    if step + _AHEAD < len(order):
        start = rows.ctypes.data + np.int64(order[step + _AHEAD]) * rows.strides[0]
        for offset in range(0, rows.strides[0], _LINE):
            _prefetch_line(start + offset)


@compiled
def float32_at(address: int, n: int) -> np.ndarray:
    """The n float32 at an address: how a loop reads arrays whose number is known only when it runs.

    Whoever passes the address on keeps the array alive.
    """
    return numba.carray(_pointer(address), (n,), np.float32)


@compiled
def int32_at(address: int, n: int) -> np.ndarray:
    """As `float32_at`."""
    return numba.carray(_pointer(address), (n,), np.int32)


@compiled
def int64_at(address: int, n: int) -> np.ndarray:
    """As `float32_at`."""
    return numba.carray(_pointer(address), (n,), np.int64)
