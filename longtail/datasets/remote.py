"""Files and folders at addresses (`s3://`, `gs://`, `file://`), fetched for as long as a step needs them."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

from longtail.errors import InvalidInput

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def fetching(*names: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Let the arguments of these names be addresses: the function gets local copies, which are gone when it returns."""

    def around(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            remote = [n for n in names if is_address(bound.arguments.get(n))]
            if not remote:
                return function(*args, **kwargs)
            with tempfile.TemporaryDirectory() as scratch:
                for name in remote:
                    bound.arguments[name] = str(fetch(bound.arguments[name], Path(scratch) / name))
                return function(*bound.args, **bound.kwargs)

        return called

    return around


def is_address(place: object) -> bool:
    """Whether a place is an address and no path."""
    return isinstance(place, str) and "://" in place


def fetch(address: str, into: Path) -> Path:
    """Copy a file or a folder below `into` and return its local path; credentials come from the environment.

    Raises:
        InvalidInput: nothing is there, it cannot be read, or nobody knows such addresses.
    """
    import pyarrow as pa
    from pyarrow import fs

    try:
        store, path = fs.FileSystem.from_uri(address)
        kind = store.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise InvalidInput(f"{address} does not exist: name a file or a folder that is there")
        into.mkdir(parents=True)
        local = into / PurePosixPath(path).name
        if kind == fs.FileType.Directory:
            local.mkdir()
        fs.copy_files(path, str(local), source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{address} cannot be read: {' '.join(str(error).split())[:300]}") from None
    return local
