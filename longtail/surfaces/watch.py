"""Reading a surfaces file again while it is in use: a good one takes over, a wrong one changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from longtail.errors import InvalidInput, LongtailError
from longtail.metrics import CONFIG_REFUSED
from longtail.surfaces.config import Surfaces

logger = logging.getLogger("longtail.surfaces")

Bound = TypeVar("Bound")
Stamp = tuple[int, int, int] | None


class SurfacesWatch:
    """A surfaces file in use. `current` is the last good one, `error` what is wrong with the file now, None: nothing.

    A look costs one `stat` while the file stays as it is. A changed file is read when two looks in a row find it
    unchanged, so that one which is still being written is left alone; reading and binding happen in a thread.

    Raises:
        InvalidInput: the file is wrong from the start; the message names file, line and key of every mistake.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._judged = self._stamp()
        self._waiting: Stamp = None
        self.current = Surfaces.load(self.path)
        self.error: str | None = None

    async def changed(self, bind: Callable[[Surfaces], Bound]) -> Bound | None:
        """What `bind` makes of a changed file; None when nothing changed, or when the change is refused.

        A refusal is logged, counted, and kept in `error` until the file is right again.
        """
        stamp = self._stamp()
        if stamp == self._judged:
            self._waiting = None
            return None
        if stamp != self._waiting:
            self._waiting = stamp
            return None
        try:
            read, bound = await asyncio.to_thread(self._read, bind)
        except Exception as error:  # noqa: BLE001 - the edge of the server: what runs goes on
            if self._stamp() == stamp:
                self._refuse(error, stamp)
            return None
        if self._stamp() != stamp:
            return None  # it changed while it was read: the next looks decide
        self._judged, self._waiting, self.error = stamp, None, None
        if read == self.current:
            return None
        self.current = read
        logger.info("%s is in force", self.path)
        return bound

    async def follow(
        self, bind: Callable[[Surfaces], Bound], apply: Callable[[Bound], None], every_s: float = 1.0
    ) -> None:
        """Look every `every_s` seconds, until cancelled, and hand each good change to `apply`."""
        while True:
            await asyncio.sleep(every_s)
            bound = await self.changed(bind)
            if bound is not None:
                apply(bound)

    def _read(self, bind: Callable[[Surfaces], Bound]) -> tuple[Surfaces, Bound]:
        read = Surfaces.load(self.path)
        return read, bind(read)

    def _refuse(self, error: Exception, stamp: Stamp) -> None:
        gone = InvalidInput(f"{self.path} is gone") if stamp is None else error
        told = str(gone) if isinstance(gone, LongtailError) else f"{type(gone).__name__}: {gone}"
        self._judged, self._waiting, self.error = stamp, None, told
        CONFIG_REFUSED.labels("surfaces").inc()
        logger.error("the changed surfaces are not taken, the old ones stay in force: %s", told)

    def _stamp(self) -> Stamp:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
