"""Decoded arrays on disk: written once as a whole folder, opened memory-mapped, and checked as they are opened."""

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.data import decoders, fetching
from common.data.registry import DataSet, Source, Split
from common.errors import RefigureError

__all__ = ["decode", "describe", "describe_file", "read_split"]

RECORD = "decoded.json"
OLD = 30 * 24 * 3600
"""Age in seconds from which arrays of other decoders are deleted."""


def decode(entry: DataSet, source: Source, paths: dict[str, Path], target: Path) -> None:
    """Decode raw files to the folder `target`; old folders of other decoders go.

    Raises:
        RefigureError: The arrays are not those that the registry pins (all of a set, or none), and nothing is kept.
    """
    with fetching.scratch(target.parent, f"the decoded arrays of {entry.name}") as scratch:
        fresh = scratch / target.name
        fresh.mkdir()
        try:
            decoded = _write(fresh, decoders.decode(source, paths))
            for key in sorted({*entry.content, *decoded}) if entry.content else ():
                if entry.content.get(key) != decoded.get(key):
                    why = "the decoder was changed, or the files are not this data set"
                    if "jpeg" in source.decoder:
                        why = "another libjpeg (the version of Pillow) decodes JPEG differently: install the locked one"
                    raise RefigureError(
                        f"{entry.name}: {source.decoder} decodes {', '.join(paths)} to {key} = {decoded.get(key)} "
                        f"instead of {entry.content.get(key)}, so nothing was kept; {why}"
                    )
        except RefigureError:
            for raw in source.files:
                if not raw.identity:  # the next fetch shall not meet the same file again, if it is at fault
                    fetching.set_aside(paths[raw.name], f"it does not decode to {entry.name}")
            raise
        for folder in target.parent.glob("decoded-*"):  # another checkout may still read a younger one
            if folder.stat().st_mtime < time.time() - OLD:
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)


def _write(folder: Path, pieces: Iterable[decoders.Piece]) -> dict[str, str]:
    """Write what a decoder gives, and a record last: a folder without one is not a decoded data set.

    Returns the arrays' descriptions, `split/array` -> text as a registry entry pins it.
    """
    record: dict[str, dict[str, Any]] = {}
    described = {}
    for key, value in pieces:
        split, name = key.split("/")
        of_split = record.setdefault(split, {"arrays": {}, "names": {}})
        if isinstance(value, np.ndarray):
            values = np.asarray(value, order="C")
            with (folder / f"{split}-{name}.npy").open("wb") as stream:  # np.save hides that a disk is full
                np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(values))
                stream.write(values.reshape(-1).data)
                stream.flush()
                os.fsync(stream.fileno())
            described[key] = of_split["arrays"][name] = describe(values)
        else:
            of_split["names"][name] = [str(text) for text in value]
    (folder / RECORD).write_text(json.dumps({**record, "sha256": _digest(record)}, indent=1), encoding="utf-8")
    return described


def read_split(folder: Path, entry: DataSet, split: str) -> Split:
    """Open a split's arrays, memory-mapped, after comparing them with the registry where it pins them, else the record.

    Raises:
        RefigureError: The first file that is damaged, missing or of other data.
    """
    arrays, path = {}, folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("sha256") != _digest(record):
            raise ValueError("its content changed")
        names = {kind: tuple(listed) for kind, listed in record[split]["names"].items()}
        for name, expected in record[split]["arrays"].items():
            path = folder / f"{split}-{name}.npy"
            stat = path.stat()
            pinned = entry.content.get(f"{split}/{name}", expected)
            if describe_file(path, stat.st_mtime_ns, stat.st_size) != pinned:
                raise ValueError("its content changed")
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever NumPy and JSON make of rubbish
        raise RefigureError(f"{path} is damaged ({getattr(error, 'strerror', None) or error})") from error
    return Split(arrays, names)


@functools.cache
def describe_file(path: Path, modified: int, size: int) -> str:
    """Describe the array in a file; a process reads it once unless its modification time or size changes."""
    return describe(np.load(path, mmap_mode="r", allow_pickle=False))


def describe(values: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order, its type and its shape, as a registry entry pins it."""
    digest = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
    return f"{digest} {values.dtype.name}[{','.join(map(str, values.shape))}]"


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
