"""Data: what there is (`DATASETS`), raw files (`fetch`), arrays (`load`), and what names them in a key (`identity`).

Importing this imports nothing heavy: NumPy, pooch and Pillow come with the calls that need them.
"""

import ast
import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from common.data.fetching import MISSING, cache_folder, fault, fetch, hold, log, obtain
from common.data.registry import DATASETS, DataSet, Split, deviation, get, identity
from common.errors import RefigureError, suggest

__all__ = [
    "DATASETS",
    "DataSet",
    "Split",
    "cache_folder",
    "declare",
    "deviation",
    "fetch",
    "get",
    "identity",
    "load",
    "verify",
]

_declared: Mapping[str, str] | None = None
_where = ""


def declare(sets: Mapping[str, str] | None, where: str = "") -> None:
    """Say which data sets this process may `load`, and where they are declared, for the error's line.

    Arguments:
        sets: The names by which code asks, each with the set that is read, mostly the same; None allows any.

    A run's key names the data that its experiment declares, so all that it reads must be among that.
    """
    global _declared, _where
    _declared, _where = sets, where or "the experiment in papers/<paper>/paper.yaml"


def load(name: str, split: str = "train") -> Split:
    """A split of a data set as read-only, memory-mapped arrays.

    What they are, for each set, stands in `get(name).arrays`. Decoding happens once, into `decoded_folder(name)`. Each
    array is compared with its SHA-256, pinned or recorded, when a process opens it first; what is missing or changed is
    named in a warning and decoded again.

    Raises:
        RefigureError: An unknown name, a set that is not declared, data that cannot be had, or a decoder that gives
            other arrays than the registry pins.
    """
    from common.data import store

    if _declared is not None and name not in _declared:
        raise RefigureError(f"data set {name!r} is read and not declared: add it to `data:` of {_where}")
    name = name if _declared is None else _declared[name]
    entry = get(name)
    if split not in entry.splits:
        raise RefigureError(f"{name} has no split {split!r}: {suggest(split, entry.splits)}")
    folder = decoded_folder(name)
    try:
        return store.read_split(folder, entry, split)
    except RefigureError as damage:
        if folder.exists():
            log.warning("%s: decoding %s again", damage, name)
    source, paths = obtain(name)
    with hold(cache_folder(name)):
        with contextlib.suppress(RefigureError):  # unless another process has decoded it meanwhile
            return store.read_split(folder, entry, split)
        store.decode(entry, source, paths, folder)
        return store.read_split(folder, entry, split)


def verify(name: str) -> list[tuple[str, str]]:
    """What the cache holds of a set, all hashed again: its raw files, and its splits if it is decoded.

    A status is `ok`, `ok (pinned by content)`, `missing` or `damaged: ...`.
    """
    from common.data import store

    entry, folder = get(name), cache_folder(name)
    present = [source for source in entry.sources if any((folder / raw.name).exists() for raw in source.files)]
    report = {}
    for raw in (raw for source in present or entry.sources[:1] for raw in source.files):
        status = "ok" if raw.identity else "ok (pinned by content)"
        if wrong := fault(folder / raw.name, raw):
            status = wrong if wrong == MISSING else f"damaged: {wrong}"
        report[raw.name] = status
    decoded = decoded_folder(name)
    store.describe_file.cache_clear()
    for split in entry.splits if decoded.is_dir() else ():
        try:
            store.read_split(decoded, entry, split)
            report[f"{decoded.name}/{split}"] = "ok"
        except RefigureError as damage:
            report[f"{decoded.name}/{split}"] = f"damaged: {damage}; `load` decodes it again"
    return list(report.items())


def decoded_folder(name: str) -> Path:
    """Where a set's arrays lie: named by data and decoders, so that an edit of either never serves old arrays."""
    source = ast.unparse(ast.parse(Path(__file__).with_name("decoders.py").read_text(encoding="utf-8")))
    return cache_folder(name) / f"decoded-{hashlib.sha256(f'{identity(name)}{source}'.encode()).hexdigest()[:8]}"
