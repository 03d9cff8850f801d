"""The parameters of a pipeline as the command line gives them, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from longtail.errors import InvalidInput

# What names a file or a folder: below a volume of the steps, or at an address.
PLACES = ("source", "registry", "mapping", "surfaces", "impressions", "key_file", "log", "state", "watch")
WORDS = {"true": True, "false": False}


def checked(pipeline: str, given: Mapping[str, str], mounts: Collection[str] = ()) -> dict[str, Any]:
    """What `pipelines/<pipeline>.py` declares, of these words; values have the declared types.

    Args:
        pipeline: name of the pipeline.
        given: words by name of the parameter.
        mounts: the folders that steps see on the cluster.

    Raises:
        InvalidInput: an unknown parameter, a missing one, a word of the wrong type, or a path that no step can see.
    """
    declared = getattr(import_module(f"pipelines.{pipeline}"), pipeline).component_spec.inputs or {}
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise InvalidInput(f"the pipeline {pipeline} has no parameter {unknown[0]}: choose from {', '.join(declared)}")
    missing = [name for name, spec in declared.items() if not spec.optional and name not in given]
    if missing:
        raise InvalidInput(f"the pipeline {pipeline} needs {missing[0]}: give --param {missing[0]}=...")
    found = {name: _typed(name, value, declared[name].type) for name, value in given.items()}
    for name in PLACES:
        if found.get(name):
            _visible(name, found[name], mounts)
    return found


def _typed(name: str, word: str, kind: str) -> Any:
    try:
        if kind == "Boolean":
            return WORDS[word.lower()]
        return {"Integer": int, "Float": float}.get(kind, str)(word)
    except (KeyError, ValueError):
        raise InvalidInput(f"{name}={word}: it must be {'true or false' if kind == 'Boolean' else kind}") from None


def _visible(name: str, place: str, mounts: Collection[str]) -> None:
    if "://" in place:
        return
    path = PurePosixPath(place)
    if not path.is_absolute():
        raise InvalidInput(
            f"{name}={place} is a relative path: steps run in pods, name a path on a volume or an address"
        )
    if not any(path.is_relative_to(mount) for mount in mounts):
        seen = ", ".join(sorted(mounts)) or "none"
        raise InvalidInput(f"{name}={place} lies on no volume of the platform file (mounted: {seen})")
