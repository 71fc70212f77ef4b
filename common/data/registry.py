"""What data sets there are, read once from `datasets.yaml`: files, homes, checksums, licences, deviations.

Nothing here needs the data, the network or a scientific package, so run keys and reports can use it on any machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from common.errors import RefigureError, suggest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DATASETS", "DataSet", "RawFile", "Source", "Split", "deviation", "get", "identity"]


@dataclass(frozen=True)
class RawFile:
    """A file as its publisher serves it; `urls` are tried in turn; a repacking that mirrors alone hold has none."""

    name: str
    urls: Sequence[str] = ()
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None

    @property
    def identity(self) -> str:
        """The strongest checksum known of the file, as `sha256:...` or `md5:...`; empty when there is none."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else ""


@dataclass(frozen=True)
class Source:
    """Files that a function of `DECODERS` turns into arrays; they lie in `folder` of a mirror and of `data/`."""

    files: tuple[RawFile, ...]
    decoder: str
    folder: str


@dataclass(frozen=True)
class DataSet:
    """A data set by name."""

    name: str
    title: str
    sources: tuple[Source, ...]
    """The official source (of a set with a deviation, its only one), then exact repackings of it."""
    splits: Sequence[str]
    licence: str
    citation: str
    homepage: str
    arrays: str = ""
    """What `load` gives."""
    deviation: str | None = None
    """How the set differs from the official one, or None if it does not."""
    content: Mapping[str, str] = field(default_factory=dict)
    """`split/array` -> `<SHA-256 of its bytes in C order> <type>[<shape>]`: all arrays of the set, or none."""


@dataclass(frozen=True)
class Split:
    """One split of a data set: memory-mapped, read-only arrays, and lists of names (classes, words, ...)."""

    arrays: "Mapping[str, np.ndarray]"
    names: Mapping[str, tuple[str, ...]]

    def __getitem__(self, name: str) -> "np.ndarray":
        return self.arrays[name]


def _data_set(name: str, entry: dict[str, Any]) -> DataSet:
    """The data set that an entry of `datasets.yaml` describes."""
    for source in entry["sources"]:
        source["files"] = tuple(RawFile(**file) for file in source["files"])
    return DataSet(name, **{**entry, "sources": tuple(Source(**source) for source in entry["sources"])})


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ENTRIES = yaml.load(Path(__file__).with_name("datasets.yaml").read_bytes(), _LOADER)  # noqa: S506  it is a safe one
DATASETS: dict[str, DataSet] = {name: _data_set(name, entry) for name, entry in _ENTRIES.items()}


def get(name: str) -> DataSet:
    """The data set called `name`; RefigureError with the nearest name when there is none."""
    try:
        return DATASETS[name]
    except KeyError:
        raise RefigureError(f"no data set {name!r}: {suggest(name, DATASETS)}") from None


def identity(name: str) -> dict[str, str]:
    """What names the data in a run's key: `{"split/array": "sha256:..."}`, where the decoded arrays are pinned.

    So the official archive and an exact repacking give equal keys, and other arrays never pass for the pinned ones.
    A set without pinned arrays is named by its raw files, `{file: "sha256:..." or "md5:..."}`.
    """
    entry = get(name)
    if entry.content:
        return {key: f"sha256:{pinned.split()[0]}" for key, pinned in sorted(entry.content.items())}
    return {file.name: file.identity for file in sorted(entry.sources[0].files, key=lambda file: file.name)}


def deviation(name: str) -> str | None:
    """How the set differs from the official one, in words; None if it does not."""
    return get(name).deviation
