"""Bundles: made whole, refused when anything in them changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longtail.engine.bundle import Manifest, publishing, verify, write_manifest
from longtail.errors import InvalidBundle, InvalidInput

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    with publishing(target) as folder:
        (folder / "retrieval").mkdir()
        sources = [{"name": "popular", "kind": "ListSource"}, {"name": "repeat", "kind": "RepeatSource"}]
        (folder / "retrieval" / "config.json").write_text(json.dumps({"sources": sources}))
        (folder / "fallback.json").write_text("{}")
        write_manifest(folder, {"ndcg@10": 0.2}, "fp", NOW)
    return target


def test_a_bundle_that_nobody_touched_is_accepted(bundle):
    manifest = verify(bundle)
    assert manifest.version.startswith("20260102-030405-") and manifest.figures == {"ndcg@10": 0.2}
    assert set(manifest.files) == {"fallback.json", "retrieval/config.json"}
    assert manifest == Manifest.read(bundle)


def test_an_altered_file_is_named(bundle):
    (bundle / "fallback.json").write_text("{ }")
    with pytest.raises(InvalidBundle, match=r"fallback\.json was altered"):
        verify(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "fallback.json").unlink()
    with pytest.raises(InvalidBundle, match=r"lacks fallback\.json"):
        verify(bundle)


def test_sources_of_another_system_are_refused_even_with_right_hashes(bundle):
    config = bundle / "retrieval" / "config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps({"sources": raw["sources"][::-1]}))
    with pytest.raises(InvalidBundle, match="other sources"):
        verify(bundle, contents=False)


def test_features_of_another_version_are_refused(bundle):
    raw = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(raw | {"feature_schema": "0" * 16}))
    with pytest.raises(InvalidBundle, match="other features"):
        verify(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}'])
def test_an_unreadable_manifest_is_one_clear_error(bundle, text):
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(InvalidBundle, match=r"manifest\.json"):
        verify(bundle)


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), publishing(tmp_path / "b") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_overwritten(bundle):
    with pytest.raises(InvalidInput, match="never changed"), publishing(bundle):
        pass
