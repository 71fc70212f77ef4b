"""Data: what there is (`registry`), raw files (`fetch`), arrays (`load`).

`checksums` and `deviation` need no data and import nothing heavy; `fetch`, `load` and `verify` import what
they need on first use.
"""

from typing import TYPE_CHECKING, Any

from common.data.registry import DATASETS, DataSet, RawFile, Source, checksums, deviation, get

if TYPE_CHECKING:
    from common.data.decode import load, verify
    from common.data.fetching import cache_folder, fetch
    from common.data.store import Split

__all__ = [
    "DATASETS",
    "DataSet",
    "RawFile",
    "Source",
    "Split",
    "cache_folder",
    "checksums",
    "deviation",
    "fetch",
    "get",
    "load",
    "verify",
]

_HOMES = {
    "load": "decode",
    "verify": "decode",
    "fetch": "fetching",
    "cache_folder": "fetching",
    "Split": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
