"""A bundle: one immutable folder per trained system, and the manifest that says what belongs in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longtail.errors import InvalidBundle, InvalidInput
from longtail.features.request import feature_list, schema_hash

FORMAT = 1
MANIFEST = "manifest.json"
# What people read where a source of this kind says nothing itself.
REASON_OF_KIND = {"TwoTower": "fits what you looked at recently"}


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    `feature_schema` ties the ranker to its features, `retrieval_schema` to the sources and their order; `files` maps
    every relative path to its sha256; `figures` are what evaluation measured.
    """

    version: str
    created: str
    feature_schema: str
    retrieval_schema: str
    files: dict[str, str]
    figures: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    format: int = FORMAT

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            InvalidBundle: there is none, it is not readable, or it has another format.
        """
        path = Path(folder) / MANIFEST
        try:
            raw = json.loads(path.read_text())
            if raw["format"] != FORMAT:
                raise InvalidBundle(f"{path} has format {raw['format']}, this version reads {FORMAT}: train again")
            return Manifest(**{name: raw[name] for name in Manifest.__dataclass_fields__})
        except FileNotFoundError:
            raise InvalidBundle(f"{folder} is no bundle: it has no {MANIFEST}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidBundle(f"{path} cannot be read ({type(error).__name__}: {error}): train again") from error


def sources_of(folder: Path) -> list[dict[str, str]]:
    """The sources of a bundle in score-column order: `name`, `kind` and, where the source says it, `reason`.

    Raises:
        InvalidBundle: the retrieval configuration is missing or unreadable.
    """
    path = Path(folder) / "retrieval" / "config.json"
    try:
        found = [dict(source) for source in json.loads(path.read_text())["sources"] if source["name"]]
        for source in found:
            about = path.parent / source["name"] / "source.json"
            if "reason" not in source and about.is_file():
                source |= {"reason": json.loads(about.read_text()).get("reason") or ""}
            if not source.get("reason") and source.get("kind") in REASON_OF_KIND:
                source |= {"reason": REASON_OF_KIND[source["kind"]]}
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidBundle(f"{path} cannot be read ({type(error).__name__}): train again") from error


def retrieval_schema(folder: Path) -> str:
    """Changes when a source, its kind or the order of the score columns does."""
    text = "\n".join(f"{source['name']}|{source.get('kind', '')}" for source in sources_of(folder))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 by relative path of every file but the manifest, in path order."""
    found = sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    names = [p.relative_to(folder).as_posix() for p in found]
    return {name: _sha256(p) for name, p in zip(names, found, strict=True) if name != MANIFEST}


def write_manifest(
    folder: Path,
    figures: Mapping[str, Any],
    data_fingerprint: str = "",
    created: datetime | None = None,
    source_names: Sequence[str] | None = None,
) -> Manifest:
    """Hash what lies in a finished bundle folder and write `manifest.json` beside it, atomically.

    The version is the time and the first digits of a hash over all files: equal contents at equal times have equal
    versions. `source_names` defaults to the sources of `retrieval/config.json`.
    """
    folder = Path(folder)
    created = created or datetime.now(UTC)
    names = list(source_names) if source_names is not None else [s["name"] for s in sources_of(folder)]
    files = file_hashes(folder)
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]
    manifest = Manifest(
        version=f"{created:%Y%m%d-%H%M%S}-{digest}",
        created=created.isoformat(timespec="seconds"),
        feature_schema=schema_hash(names),
        retrieval_schema=retrieval_schema(folder),
        files=files,
        figures=dict(figures),
        data_fingerprint=data_fingerprint,
    )
    beside = folder / f".{MANIFEST}.{os.getpid()}"
    beside.write_text(json.dumps(asdict(manifest), indent=1))
    os.replace(beside, folder / MANIFEST)
    return manifest


def verify(folder: Path, contents: bool = True) -> Manifest:
    """The manifest of a bundle whose files are all there, unaltered, and belong together.

    `contents=False` skips reading the files (their presence and the schemas are still checked).

    Raises:
        InvalidBundle: the message names the first file that is missing, altered or extra, or the schema that differs.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise InvalidBundle(f"{folder} lacks {name}: copy the bundle again")
        if contents and _sha256(path) != expected:
            raise InvalidBundle(f"{folder}/{name} was altered after the bundle was made: copy the bundle again")
    names = [source["name"] for source in sources_of(folder)]
    if manifest.retrieval_schema != retrieval_schema(folder):
        raise InvalidBundle(f"{folder}/retrieval/config.json has other sources than the ranker was trained on")
    if manifest.feature_schema != schema_hash(names):
        raise InvalidBundle(
            f"{folder} was trained on other features than this version of Longtail computes: "
            f"train again, or serve it with the version that trained it"
        )
    _check_width(folder, len(feature_list(names)))
    return manifest


def ranker_name(folder: Path) -> str:
    """The name of a bundle's ranker: that of the one model folder under `ranker/`.

    Raises:
        InvalidBundle: there is none, or several.
    """
    found = [p.name for p in sorted((Path(folder) / "ranker").glob("*")) if p.is_dir()]
    if len(found) != 1:
        raise InvalidBundle(f"{folder}/ranker holds {len(found)} models, it must hold one: train again")
    return found[0]


def _check_width(folder: Path, n_features: int) -> None:
    if not (folder / "ranker").is_dir():
        return
    config = folder / "ranker" / ranker_name(folder) / "config.pbtxt"
    width = re.search(r"dims: \[ (\d+) \]", config.read_text()) if config.is_file() else None
    if width and int(width[1]) != n_features:
        raise InvalidBundle(f"{folder}/ranker takes {width[1]} features, its sources and features make {n_features}")


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `target` at the end: a bundle is there whole or not at all.

    Raises:
        InvalidInput: `target` exists; bundles are immutable.
    """
    target = Path(target)
    if target.exists():
        raise InvalidInput(f"{target} exists and bundles are never changed: choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{os.getpid()}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        os.rename(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
