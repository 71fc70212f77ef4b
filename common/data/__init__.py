"""Data: what there is (`registry`), raw files (`fetch`), arrays (`load`).

`checksums` and `deviation` need no data and import nothing heavy. The other functions import what does the work
when they are called, by statements that the static import closure of a run sees: a changed decoder changes the key.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from common.data.registry import DATASETS, DataSet, RawFile, Source, checksums, deviation, get

if TYPE_CHECKING:
    from common.data.store import Split

__all__ = [
    "DATASETS",
    "DataSet",
    "RawFile",
    "Source",
    "cache_folder",
    "checksums",
    "deviation",
    "fetch",
    "get",
    "load",
    "verify",
]


def fetch(name: str) -> dict[str, Path]:
    """The raw files of a data set, verified, by file name; see `common.data.fetching.fetch`."""
    from common.data import fetching

    return fetching.fetch(name)


def load(name: str, split: str = "train") -> "Split":
    """The arrays of a split, memory-mapped; fetched and decoded on first use; see `common.data.decode.load`."""
    from common.data import decode

    return decode.load(name, split)


def verify(name: str) -> list[tuple[str, str]]:
    """(file, status) of every raw file and decoded array, all hashed again; see `common.data.decode.verify`."""
    from common.data import decode

    return decode.verify(name)


def cache_folder(name: str = "") -> Path:
    """The data cache, or a data set's folder in it; see `common.data.fetching.cache_folder`."""
    from common.data import fetching

    return fetching.cache_folder(name)


def identity(name: str) -> dict[str, str]:
    """Shim until the rewrite lands."""
    return checksums(name)


def known_checksums(name: str) -> set[str]:
    """Shim until the rewrite lands."""
    entry = get(name)
    files = {file.identity for source in entry.sources for file in source.files}
    return files | {f"sha256:{value}" for value in entry.content.values()}


def declare(names: object, where: str = "") -> None:
    """Shim until the rewrite lands."""
