"""Readers of public data sets and of the user's own files, the simulated shop, and the import of either."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Final

from longtail.errors import InvalidInput

if TYPE_CHECKING:
    from longtail.datasets.raw import Raw

# name -> module in this package with `read(folder) -> Raw`; some take more, see `read`.
READERS: Final = {
    "simulator": "simulator",
    "online-retail": "online_retail",
    "amazon-5core": "amazon_5core",
    "movielens-ordered": "movielens_ordered",
    "pairs": "pairs",
    "sessions": "sessions",
    "mapped": "mapped",
    "collected": "collected",
}


def reader(name: str) -> Callable[..., Raw]:
    """The `read` function of a reader.

    Raises:
        InvalidInput: no such reader.
    """
    if name not in READERS:
        raise InvalidInput(f"there is no reader {name!r}: choose one of {', '.join(READERS)}")
    return import_module(f"longtail.datasets.{READERS[name]}").read


def read(
    name: str, folder: Path, until: int | None = None, mapping: Path | None = None, items: Path | None = None,
    history: Path | None = None, scratch: Path | None = None,
) -> Raw:  # fmt: skip
    """Read a folder of the form that the named reader knows.

    `until` (microseconds) reaches the readers whose catalogue is derived from events, so that it knows nothing later;
    `mapping` is the mapping file of the reader `mapped`, `items` the catalogue and `history` the shop before of the
    reader `collected`, and `scratch` a folder for what a reader has to make.
    """
    function = reader(name)
    known = signature(function).parameters
    given = {"until": until, "mapping": mapping, "items": items, "history": history, "scratch": scratch}
    for option in ("mapping", "items", "history"):
        if given[option] is not None and option not in known:
            raise InvalidInput(f"the reader {name!r} takes no {option}: leave --{option} out")
    return function(Path(folder), **{k: v for k, v in given.items() if v is not None and k in known})
