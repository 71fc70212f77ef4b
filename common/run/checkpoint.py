"""Checkpoints: named arrays in one safetensors file that is whole or absent.

NumPy only: `save` and `load` move a flat mapping of names to arrays, which `common.train.trees` makes from the state of
a PyTorch or JAX program.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from common import atomic
from common.errors import RefigureError

__all__ = ["load", "save"]

ENTRY = "refigure"
"""The file's one metadata entry, as JSON (the library writes several in random order): meta and checksum."""


def save(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, str] | None = None) -> None:
    """Write `arrays` and `meta` to `path` so that at every instant `path` is the old file or the new one.

    One writer a path is assumed: what a killed process left is overwritten by the next `save`.

    Raises RefigureError on a full disk, a folder that cannot be written, an element type that cannot be kept.
    """
    arrays = {name: _storable(name, array) for name, array in arrays.items()}
    meta = dict(meta or {})
    note = json.dumps({"meta": meta, "sha256": _checksum(arrays, meta)}, sort_keys=True)
    payload = safetensors.numpy.save(dict(arrays), {ENTRY: note})
    what = f"the checkpoint {path} ({len(payload) / 2**20:.1f} MiB)"
    with atomic.replacing(path, what, alone=True) as file:
        file.write(payload)


def load(path: Path, *, expect: Mapping[str, str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays (writable) and metadata that `save` wrote to `path`.

    `expect` names metadata that must agree, for instance `{"key": run_key}`: a checkpoint of another
    configuration is refused. Raises RefigureError for that, and for a file that is missing, cut short,
    altered in any byte that matters, or of another format.
    """
    remedy = "delete it to start that run afresh, or restore it from a copy"
    try:
        if path.exists() and not path.is_file():  # a pipe might never end
            raise OSError("no file")
        payload = path.read_bytes()
    except OSError as error:
        raise RefigureError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    try:
        arrays = safetensors.numpy.load(payload)
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        note = json.loads(header["__metadata__"][ENTRY])
        meta, recorded = dict(note["meta"]), note["sha256"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefigureError(f"{path} is cut short, damaged or no checkpoint of ours ({error!r}); {remedy}") from error
    if recorded != _checksum(arrays, meta):
        raise RefigureError(f"{path} is damaged: its content does not match its checksum; {remedy}")
    for key, value in (expect or {}).items():
        if meta.get(key) != value:
            raise RefigureError(
                f"{path} belongs to another configuration ({key} is {meta.get(key)!r}, expected {value!r}); "
                f"move it away or use the configuration that wrote it"
            )
    return arrays, meta


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, order="C")  # not ascontiguousarray, which makes a 0-d array 1-d
    if array.dtype.kind not in "biufc" or array.dtype in (np.longdouble, np.complex128, np.clongdouble):
        raise RefigureError(f"array {name!r} of type {array.dtype} cannot go into a checkpoint; convert it first")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _checksum(arrays: Mapping[str, np.ndarray], meta: Mapping[str, str]) -> str:
    """SHA-256 over the names, types, shapes and bytes of all arrays and the metadata, in sorted order."""
    names = sorted(arrays)
    table = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in names]
    digest = hashlib.sha256(json.dumps([sorted(meta.items()), table]).encode())
    for name in names:
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
