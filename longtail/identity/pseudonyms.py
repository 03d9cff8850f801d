"""Keyed pseudonyms: the same id and key give the same pseudonym, and without the key nobody finds the way back."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from longtail.errors import InvalidInput
from longtail.schema import GUEST_PREFIX

KEY_VARIABLE: Final = "LONGTAIL_PSEUDONYM_KEY"
SHORTEST_KEY: Final = 16
PSEUDONYM_BYTES: Final = 16
# Who has a pseudonym and no id (a page that shows people of a bundle) names it so: it is taken as it is.
GIVEN: Final = "pseudonym:"
_GIVEN: Final = re.compile(rf"{GIVEN}({GUEST_PREFIX}?[0-9a-f]{{{2 * PSEUDONYM_BYTES}}})")


class Pseudonymiser:
    """HMAC-SHA256 of ids under a secret key, cut to 128 bits, as 32 hex digits."""

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY:
            raise InvalidInput(f"the pseudonym key is {len(key)} bytes long: it needs at least {SHORTEST_KEY}")
        self._key = key

    def of(self, identifier: str, kind: str = "user") -> str:
        """The pseudonym of an id; `kind` (user, session, device) keeps equal ids of different things apart."""
        return self.of_all([identifier], kind)[0]

    def of_all(self, identifiers: Iterable[str], kind: str = "user") -> list[str]:
        """The pseudonyms of many ids, in order; `pseudonym:` and 32 hex digits is one already."""
        digest, key, prefix = hmac.digest, self._key, f"{kind}\0".encode()
        return [
            found[1]
            if (found := _GIVEN.fullmatch(i))
            else digest(key, prefix + i.encode("utf-8", "surrogatepass"), "sha256")[:PSEUDONYM_BYTES].hex()
            for i in identifiers
        ]


def load_key(path: Path | str | None) -> bytes:
    """The key from the environment (`LONGTAIL_PSEUDONYM_KEY`), else from a file only its owner may read.

    An absent file is created with a new random key.

    Raises:
        InvalidInput: neither is given, the key is too short, or others may read the file.
    """
    from_environment = os.environ.get(KEY_VARIABLE)
    if from_environment:
        # A file that became the variable brings its last newline along, as a Secret made from it does.
        return _checked(from_environment.strip().encode(), KEY_VARIABLE)
    if path is None:
        raise InvalidInput(f"no pseudonym key: set {KEY_VARIABLE} or name a key file")
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path)
        if path.stat().st_mode & 0o077:
            raise InvalidInput(f"{path} can be read by others: run `chmod 600 {path}`")
        return _checked(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise InvalidInput(f"the pseudonym key file {path} cannot be used: {error.strerror}") from error


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < SHORTEST_KEY:
        raise InvalidInput(f"the pseudonym key in {where} is {len(key)} bytes long: it needs at least {SHORTEST_KEY}")
    return key


def _create(path: Path) -> None:
    """Write a new key beside and link it into place, so that two first imports agree on one key."""
    if path.exists():
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    try:
        os.link(beside, path)
    except FileExistsError:
        return
    finally:
        beside.unlink()
