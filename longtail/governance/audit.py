"""The audit log: one JSON line for each decision, each bound to the one before it by a hash.

A line is `{"n", "time", "action", "who", "about", "before", "hash"}`: `hash` is the sha256 of the line without it,
`before` the hash of the line above. Whoever alters, removes or inserts an entry breaks the chain from there on. What a
chain cannot tell by itself is that its newest entries were cut off: note a head elsewhere and hand it to `verify`.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, get_args

from longtail.durable import sync_folder
from longtail.errors import InvalidInput

Action = Literal[
    "promotion", "rollback", "override", "deployment", "rules", "experiment_start", "experiment_ramp",
    "experiment_stop", "erasure", "failure",
]  # fmt: skip
ACTIONS = get_args(Action)
VARIABLE = "LONGTAIL_AUDIT"
WHO = "LONGTAIL_ACTOR"
FILE = "audit.jsonl"
ELSEWHERE = Path("runs") / FILE  # of a registry that is a server: it has no folder of ours
GENESIS = "0" * 64
TAIL = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One decision: `n` counts from 1, `time` is UTC, `about` says what the action needs to be understood."""

    n: int
    time: str
    action: str
    who: str
    about: dict[str, Any]
    before: str
    hash: str

    @property
    def due_hash(self) -> str:
        """What `hash` must be."""
        return _hash({name: value for name, value in asdict(self).items() if name != "hash"})


class BrokenChain(InvalidInput):
    """An audit log was altered."""

    exit_code = 1


class AuditLog:
    """The log in the file `path`. Any number of processes may append: each entry is on disk when `append` returns."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @staticmethod
    def of(place: Path | str) -> AuditLog:
        """The log of a registry or of a servers' state folder: the file that `LONGTAIL_AUDIT` names, else one in it."""
        if named := os.environ.get(VARIABLE):
            return AuditLog(named)
        return AuditLog(ELSEWHERE if str(place).startswith(("http://", "https://")) else Path(place) / FILE)

    def append(self, action: Action, about: Mapping[str, Any], who: str = "") -> Entry:
        """Add an entry, after what other writers added meanwhile. `who` defaults to `LONGTAIL_ACTOR`, else the login.

        An entry that a crash left half-written was never made, and makes room for this one.

        Raises:
            BrokenChain: the newest entry was altered; nothing is added to a log that lies.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        anew = not self.path.exists()
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = self._newest(file)
            content = {
                "n": last.n + 1 if last else 1,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "action": action,
                "who": who or actor(),
                "about": json.loads(json.dumps(dict(about), default=str)),
                "before": last.hash if last else GENESIS,
            }
            entry = Entry(**content, hash=_hash(content))
            file.write(_text(asdict(entry)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if anew:
            sync_folder(self.path.parent)
        return entry

    @contextmanager
    def recording(self, action: Action, about: Mapping[str, Any], who: str = "") -> Iterator[Entry]:
        """Write the entry, then let the action happen; one that fails is followed by an entry that says so.

        In this order nothing can be done without an entry, whenever a crash comes.
        """
        entry = self.append(action, about, who)
        try:
            yield entry
        except BaseException as error:
            self.append("failure", {"of": entry.n, "why": f"{type(error).__name__}: {error}"}, who)
            raise

    def entries(self) -> Iterator[Entry]:
        """Every entry, oldest first, checked as it is read.

        Raises:
            BrokenChain: names the first entry that was altered, or stands after one that was removed.
        """
        if not self.path.is_file():
            return
        before, n = GENESIS, 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return  # a crash came while it was written
                n += 1
                entry = self._parsed(line, n)
                if entry.n != n or entry.before != before:
                    raise self._broken(n, f"it does not follow the entry before it (it says it is entry {entry.n})")
                before = entry.hash
                yield entry

    def verify(self, head: str = "") -> Entry | None:
        """Read the whole chain; its newest entry, None of an empty one.

        Args:
            head: the hash of an entry that must be there, as an earlier `verify` told it: what was cut off is found.

        Raises:
            BrokenChain: names the first broken entry, or says that `head` is gone.
        """
        last, found = None, not head
        for last in self.entries():
            found = found or last.hash == head
        if not found:
            raise BrokenChain(f"{self.path}: no entry has the hash {head}: entries were removed from its end")
        return last

    def _newest(self, file: IO[bytes]) -> Entry | None:
        """The last whole entry; what follows it, the beginning of a line, is cut off."""
        size = end = file.seek(0, os.SEEK_END)
        text = b""
        while end > 0 and text.count(b"\n") < 2:
            end = max(0, end - TAIL)
            file.seek(end)
            text = file.read(size - end)
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            file.truncate(size - len(text) + len(whole))
            file.seek(0, os.SEEK_END)
        if not whole:
            return None
        line = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        return self._parsed(line, None)

    def _parsed(self, line: bytes, n: int | None) -> Entry:
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            raise self._broken(n, "it is no entry") from None
        if entry.hash != entry.due_hash:
            raise self._broken(n or entry.n, "its content does not belong to its hash: it was altered")
        return entry

    def _broken(self, n: int | None, why: str) -> BrokenChain:
        which = f"entry {n}" if n else "the newest entry"
        return BrokenChain(f"{self.path}: {which} breaks the chain: {why}")


def actor() -> str:
    """Who acts: `LONGTAIL_ACTOR`, else the login, else the number of the user."""
    try:
        return os.environ.get(WHO) or getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return f"uid {os.getuid()}"


def _text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(content)).hexdigest()
