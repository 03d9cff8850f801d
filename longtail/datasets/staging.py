"""A shop folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from longtail.errors import InvalidInput


class Staging:
    """A folder beside `out` that becomes `out` in one rename; leftovers of a killed run are cleared first."""

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise InvalidInput(f"{out} is a file: name a folder for the shop")
        if out.is_dir() and any(out.iterdir()) and not (out / "import.json").is_file():
            raise InvalidInput(f"{out} holds something that is not an imported shop: choose another folder")
        self.out = out
        self.work = out.with_name(f".{out.name}.partial")
        self.old = out.with_name(f".{out.name}.old")
        self.folder, self.scratch = self.work / "shop", self.work / "scratch"

    def __enter__(self) -> Staging:
        self.work.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.work, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InvalidInput(f"another import is writing {self.out}: wait for it or choose another folder") from error
        for leftover in (self.folder, self.scratch, self.old):
            if leftover.exists():
                shutil.rmtree(leftover)
        self.folder.mkdir()
        self.scratch.mkdir(mode=0o700)
        return self

    def __exit__(self, *error: object) -> None:
        for leftover in (self.work, self.old):
            if leftover.exists():
                shutil.rmtree(leftover)
        os.close(self._lock)

    def publish(self) -> None:
        """Put the folder in place of what is there."""
        for file in self.folder.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if self.out.exists():
            self.out.rename(self.old)
        self.folder.rename(self.out)
