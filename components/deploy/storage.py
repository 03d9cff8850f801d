"""Where a bundle lies for pods: the address that KServe fetches or mounts, and the folder it then is in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from longtail.errors import InvalidInput

FETCHED = ("s3", "gs", "hf", "http", "https", "hdfs", "webhdfs", "oci", "pvc")


@dataclass(frozen=True)
class Place:
    """A bundle's address, the entry of `storageUris` that brings it into a pod, and its folder there.

    A claim is mounted as a whole; what is fetched gets a folder of its own, named after its address. The chart lays
    bundles out by the same rule.
    """

    uri: str
    entry: tuple[tuple[str, str], ...]
    folder: Path

    @staticmethod
    def of(uri: str) -> Place:
        """Lay out a bundle.

        Raises:
            InvalidInput: pods cannot get at such an address.
        """
        parsed = urlparse(uri)
        if parsed.scheme not in FETCHED:
            raise InvalidInput(
                f"pods cannot fetch {uri}: say where the registry's artifacts lie for them, "
                f"such as storage={parsed.scheme}:/=s3://BUCKET/FOLDER"
            )
        if parsed.scheme == "pvc":
            mount = f"/mnt/claims/{parsed.netloc}"
            return Place(uri, _entry(f"pvc://{parsed.netloc}", mount), Path(mount) / parsed.path.strip("/"))
        mount = f"/mnt/models/{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
        return Place(uri, _entry(uri, mount), Path(mount))


def visible(uri: str, storage: str) -> str:
    """A registry's address of a bundle as pods know it.

    Args:
        uri: what the registry says.
        storage: `PREFIX=ADDRESS`: what begins with the prefix lies below the address; empty: as the registry says.

    Raises:
        InvalidInput: `storage` is of another form, or its prefix does not fit.
    """
    if not storage:
        return uri
    prefix, equals, address = storage.partition("=")
    if not (equals and prefix and "://" in address):
        raise InvalidInput(f"storage={storage}: write PREFIX=ADDRESS, such as mlflow-artifacts:/=s3://BUCKET/FOLDER")
    if not uri.startswith(prefix):
        raise InvalidInput(f"storage={storage}: the bundle lies at {uri}, which does not begin with {prefix}")
    return f"{address.rstrip('/')}/{uri.removeprefix(prefix).lstrip('/')}"


def needed(mounted: Iterable[Mapping[str, str]], folders: Iterable[Path], new: Place) -> list[dict[str, str]]:
    """The `storageUris` that hold the bundle folders and the new bundle, in the order in which they came."""
    keep = [dict(entry) for entry in mounted if any(f.is_relative_to(entry["mountPath"]) for f in folders)]
    entry = dict(new.entry)
    return keep if entry in keep else [*keep, entry]


def _entry(uri: str, mount: str) -> tuple[tuple[str, str], ...]:
    return (("uri", uri), ("mountPath", mount))
