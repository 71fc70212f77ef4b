"""Decoded arrays on disk: written once as a whole folder, opened memory-mapped, and checked as they are opened."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data import registry
from common.data.registry import DataSet, Split
from common.errors import RefigureError

__all__ = ["Damaged", "Piece", "check", "read_record", "read_split", "write"]

RECORD, FILE = "decoded.json", "{}-{}.npy"
Piece = tuple[str, np.ndarray | Sequence[str] | bytes]
"""What decoders give: `split/array` and an array, `split/kind` and a list of names, or bytes to be checked alone."""
_described: dict[tuple[Path, int, int], str] = {}
"""Descriptions of the array files that this process has hashed, by path, modification time and size."""


class Damaged(RefigureError):
    """A file of a decoded set is missing or not what was recorded."""

    def __init__(self, path: Path, why: object) -> None:
        self.why = "missing" if isinstance(why, FileNotFoundError) else str(why)
        super().__init__(f"{path} is damaged ({self.why})")


def write(folder: Path, entry: DataSet, pieces: Iterable[Piece]) -> tuple[dict[str, str], dict[str, str]]:
    """Write what a decoder gives into a folder, and a record last: a folder without one is not a decoded data set.

    Returns the descriptions of the arrays, `split/array` -> text as a registry entry pins it, and the checks.
    """
    content, checks, names = {}, {}, {}
    for key, value in pieces:
        if isinstance(value, bytes):
            checks[key] = hashlib.sha256(value).hexdigest()
        elif isinstance(value, np.ndarray):
            values = np.ascontiguousarray(value)
            with (folder / FILE.format(*key.split("/"))).open("wb") as stream:  # np.save hides that a disk is full
                np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(values))
                stream.write(values.data)
            content[key] = _describe(values)
        else:
            names[key] = [str(name) for name in value]
    record = {"data": registry.identity(entry.name), "arrays": content, "names": names}
    (folder / RECORD).write_text(json.dumps({**record, "sha256": _digest(record)}, indent=1), encoding="utf-8")
    return content, checks


def _describe(values: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order, its type and its shape."""
    digest = hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).hexdigest()
    return f"{digest} {values.dtype.name}[{','.join(map(str, values.shape))}]"


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path, entry: DataSet) -> dict[str, Any]:
    """The record of a decoded folder; Damaged if it is missing, changed or of other data."""
    path = folder / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("sha256") != _digest(record):
            raise ValueError("its content changed")
        if record["data"] != registry.identity(entry.name) or record["arrays"] != (entry.content or record["arrays"]):
            raise ValueError("made from other data")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Damaged(path, error) from error
    return record


def check(folder: Path, key: str, expected: str, again: bool = False) -> np.ndarray:
    """The array `split/array`, memory-mapped, after comparing it with what was recorded; Damaged if it differs.

    A process hashes each file once, and again if the file's size or time changed or `again` is set.
    """
    path = folder / FILE.format(*key.split("/"))
    try:
        stat = path.stat()
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Damaged(path, error) from error
    file = (path, stat.st_mtime_ns, stat.st_size)
    if again or file not in _described:
        _described[file] = _describe(values)
    if _described[file] != expected:
        raise Damaged(path, "its content changed")
    return values


def read_split(folder: Path, entry: DataSet, split: str) -> Split:
    """Open a split's arrays, checked; Damaged names the first that is missing or changed."""
    record = read_record(folder, entry)
    prefix = f"{split}/"
    names = {
        key.removeprefix(prefix): tuple(listed) for key, listed in record["names"].items() if key.startswith(prefix)
    }
    keys = [key for key in record["arrays"] if key.startswith(prefix)]
    return Split({key.removeprefix(prefix): check(folder, key, record["arrays"][key]) for key in keys}, names)
