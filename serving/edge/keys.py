"""API keys: made here, shown once, kept as a digest. `python -m serving.edge.keys new NAME` makes one."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

PREFIX = "lt_"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def new_key() -> str:
    """A key of 256 random bits: `lt_` and 43 characters that need no escaping anywhere."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> str:
    """Sha256 of a key, in hex, as configuration files hold it.

    A slow, salted hash protects passwords, which people choose and which can be guessed. These keys are 256 random
    bits: nobody can try them all, no two are equal, so neither cost nor salt would add anything but time per request.
    """
    return hashlib.sha256(key).hexdigest()


class Keys:
    """The keys that are known, by name; without any, everyone may ask."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        # By the first half of the digest: which half matches tells a guesser nothing, for the digest of a guess
        # cannot be steered. The rest is compared in constant time all the same.
        self._known = {digest[:32]: (name, digest) for name, digest in digests.items()}

    def __bool__(self) -> bool:
        return bool(self._known)

    def name_of(self, key: bytes) -> str | None:
        """The name of the key, or None when it is not one of these."""
        digest = digest_of(key)
        name, known = self._known.get(digest[:32], (None, ""))
        return name if hmac.compare_digest(known, digest) else None


def main(words: list[str] | None = None) -> None:
    """Print a new key and the line for the configuration."""
    parser = argparse.ArgumentParser(prog="serving.edge.keys", description="API keys of the edge and the collector.")
    commands = parser.add_subparsers(required=True)
    new = commands.add_parser("new", help="make a key: it is printed once, only its digest is kept")
    new.add_argument("name", help="who will use it; appears in logs and limits")
    args = parser.parse_args(words)
    if not NAME.fullmatch(args.name):
        parser.error(f"name {args.name!r}: use 1 to 64 letters, digits, dots, dashes or underscores")
    key = new_key()
    print(f"key, shown only now: {key}")
    print("line under `keys:` in the configuration:")
    print(f'  - {{name: "{args.name}", sha256: "{digest_of(key.encode())}"}}')


if __name__ == "__main__":
    main()
