"""Programs that hold the lock of a pass: ended after a while, and what they said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TIMED_OUT = 124
PATIENCE_S = 30.0


def run_program(
    module: str, words: Sequence[str] | dict[str, object], log: Path | None, lock: int, hours: float
) -> tuple[int, str]:
    """(exit code, output) of a Python module as a program that inherits the descriptor `lock`.

    It is ended after so many hours (`TIMED_OUT`); `log` takes the output as it comes.
    """
    flat = [str(w) for item in words.items() for w in item] if isinstance(words, dict) else list(words)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", module, *flat], pass_fds=(lock,), stdin=subprocess.DEVNULL,
        stdout=log.open("wb") if log else subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        try:
            said, _ = child.communicate(timeout=hours * 3600)
        except BaseException as error:
            child.terminate()  # the program ends its own steps
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE_S)
            child.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return TIMED_OUT, f"it was ended after {hours:.3g} hours"
    return child.returncode, (log.read_bytes() if log else said or b"").decode(errors="replace")


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
