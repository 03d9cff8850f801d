from __future__ import annotations

import stat
from pathlib import Path

import pytest

from longtail.errors import InvalidInput
from longtail.identity import Pseudonymiser, load_key

KEY = b"0123456789abcdef"


def test_pseudonyms_are_keyed_stable_and_apart_by_kind() -> None:
    names = Pseudonymiser(KEY)
    assert names.of("anna") == names.of("anna") == names.of_all(["x", "anna"])[1]
    assert (
        len({names.of("anna"), names.of("anne"), names.of("anna", "session"), Pseudonymiser(KEY + b"!").of("anna")})
        == 4
    )
    assert len(names.of("")) == len(names.of("å" * 10_000)) == 32


def test_a_pseudonym_that_is_named_as_one_is_taken_as_it_is() -> None:
    names = Pseudonymiser(KEY)
    anna = names.of("anna")
    assert names.of(f"pseudonym:{anna}") == anna and names.of(f"pseudonym:~{anna}") == f"~{anna}"
    for other in (anna, "pseudonym:anna", f"pseudonym:{anna}0", f"pseudonym:{anna.upper()}", f"pseudonym:{anna}\n"):
        assert names.of(other) not in (anna, other)  # whatever else an id says, it never passes as it came


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGTAIL_PSEUDONYM_KEY", raising=False)
    path = tmp_path / "deep" / "key"
    key = load_key(path)
    assert load_key(path) == key and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        load_key(path)
    monkeypatch.setenv("LONGTAIL_PSEUDONYM_KEY", "a-key-of-the-environment")
    assert load_key(path) == b"a-key-of-the-environment"


def test_a_short_or_absent_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGTAIL_PSEUDONYM_KEY", raising=False)
    with pytest.raises(InvalidInput, match="LONGTAIL_PSEUDONYM_KEY"):
        load_key(None)
    (tmp_path / "key").write_text("short")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(InvalidInput, match="5 bytes"):
        load_key(tmp_path / "key")


def test_the_last_newline_of_a_key_in_the_environment_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LONGTAIL_PSEUDONYM_KEY", raising=False)
    from_file = load_key(tmp_path / "key")
    monkeypatch.setenv("LONGTAIL_PSEUDONYM_KEY", (tmp_path / "key").read_text())
    assert load_key(None) == from_file
