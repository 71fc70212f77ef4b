"""Decoded arrays on disk: written once as a whole folder, opened memory-mapped, checked against their
record."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import atomic
from common.errors import RefigureError

__all__ = ["Split", "Writer", "damage", "read_record", "read_split", "replace_folder"]

RECORD = "decoded.json"


@dataclass(frozen=True)
class Split:
    """One split of a data set: memory-mapped, read-only arrays, and lists of names (classes, words, ...)."""

    arrays: Mapping[str, np.ndarray]
    names: Mapping[str, tuple[str, ...]]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


class Writer:
    """Takes a decoder's results into a folder. `content` gathers the SHA-256 that a registry entry may
    pin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, str] = {}
        self._arrays: dict[str, dict[str, Any]] = {}
        self._names: dict[str, dict[str, list[str]]] = {}

    def array(self, split: str, name: str, values: np.ndarray) -> None:
        """Store an array whole."""
        out = self.empty(split, name, values.shape, values.dtype)
        out[...] = values
        self.done(split, name, out)

    def empty(self, split: str, name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
        """An array on disk for the decoder to fill; call `done` afterwards."""
        path = self.folder / f"{split}-{name}.npy"
        opened = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process at some later store
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        return opened

    def done(self, split: str, name: str, filled: np.memmap) -> None:
        """Close an array from `empty`: flush it and record its checksum."""
        filled.flush()
        path = self.folder / f"{split}-{name}.npy"
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        digest = _digest(filled)
        self.content[f"{split}/{name}"] = digest
        self._arrays[f"{split}/{name}"] = {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}

    def names(self, splits: Iterable[str], kind: str, values: Iterable[str]) -> None:
        """Store a list of names for some splits."""
        listed = [str(value) for value in values]
        for split in splits:
            self._names.setdefault(split, {})[kind] = listed

    def pin(self, key: str, content: bytes | memoryview) -> None:
        """Gather the checksum of something that is not stored as it is."""
        self.content[key] = hashlib.sha256(content).hexdigest()

    def finish(self, made_from: Mapping[str, str]) -> None:
        """Write the record, last: a folder without one is not a decoded data set."""
        record = {"made_from": dict(made_from), "arrays": self._arrays, "names": self._names}
        with atomic.staged(self.folder / RECORD) as stream:
            stream.write(json.dumps(record, indent=1, sort_keys=True).encode())


def _digest(values: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).hexdigest()


def read_record(folder: Path, made_from: Mapping[str, str]) -> dict[str, Any] | None:
    """The folder's record, or None if there is none, or it is unreadable or of other data."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if record["made_from"] == dict(made_from) and record["arrays"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damage(folder: Path, record: Mapping[str, Any], full: bool = False) -> list[tuple[str, str]]:
    """Damaged arrays as (file, what is wrong): missing or of another size; with `full`, also of other
    content."""
    wrong = []
    for stored in record["arrays"].values():
        path = folder / stored["file"]
        try:
            size = path.stat().st_size
            if size != stored["bytes"]:
                wrong.append((path.name, f"{size:,} bytes instead of {stored['bytes']:,}"))
            elif full and _digest(np.load(path, mmap_mode="r", allow_pickle=False)) != stored["sha256"]:
                wrong.append((path.name, "its content changed"))
        except FileNotFoundError:
            wrong.append((path.name, "missing"))
        except (OSError, ValueError) as error:
            wrong.append((path.name, f"unreadable ({error})"))
    return wrong


def read_split(folder: Path, record: Mapping[str, Any], split: str) -> Split:
    """Open a split's arrays. ValueError or OSError if a file is not an array."""
    arrays = {
        key.partition("/")[2]: np.load(folder / stored["file"], mmap_mode="r", allow_pickle=False)
        for key, stored in record["arrays"].items()
        if key.partition("/")[0] == split
    }
    names = {kind: tuple(values) for kind, values in record["names"].get(split, {}).items()}
    return Split(arrays, names)


def replace_folder(fresh: Path, target: Path) -> None:
    """Move a finished folder into place; what stood there goes."""
    if target.exists():
        old = target.with_name(f".{target.name}.old.part")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        os.replace(fresh, target)
    except OSError as error:
        raise RefigureError(f"cannot move the decoded arrays to {target}: {error.strerror or error}") from error
